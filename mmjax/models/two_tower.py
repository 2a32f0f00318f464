"""Two towers into one embedding space: CLIP (arXiv:2103.00020) and SigLIP (arXiv:2303.15343)."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from mmjax.models import encoders, image_text, sown_attention
from mmjax.models.encoders import Encoded
from mmjax.nn import layers, pool
from mmjax.nn.layers import dense_float32
from mmjax.parallel import packing
from mmjax.utils.random_streams import ExampleStream

# Fields of a tower's config that describe its head; all others are the encoder's own.
_HEAD_FIELDS = ("pool", "projection")


class EmbeddingHead(nn.Module):
    """Pools tokens and projects them to the shared space, in float32.

    Attributes:
      embed_dim: E.
      pool: a kind of `mmjax.nn.pool.Pool`.
      projection: `linear`, `bias` (linear with bias) or `none` (then the width must be E).
      heads, mlp_dim, activation, norm_eps: of the `map` pool, the tower's own.
    """

    embed_dim: int
    pool: str
    projection: str
    heads: int
    mlp_dim: int
    activation: str
    norm_eps: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, encoded: Encoded) -> Float[Array, "B E"]:
        is_last = self.projection == "none"
        x = pool.Pool(
            self.pool,
            self.heads,
            self.mlp_dim,
            self.activation,
            self.norm_eps,
            dtype=self.dtype,
            out_dtype=jnp.float32 if is_last else None,
            name="pool",
        )(encoded.tokens, encoded.valid, encoded.eos)
        if is_last:
            return x
        return dense_float32(
            self.embed_dim,
            std=x.shape[-1] ** -0.5,
            dtype=self.dtype,
            name="projection",
            use_bias=self.projection == "bias",
        )(x)


class TwoTower(image_text.ContrastiveModel, kw_only=True):
    """An image tower, a text tower and the scale (and bias) of their similarities.

    Parameters: `image`, `image_head`, `text`, `text_head`, and those of `ContrastiveModel`.

    What is not listed is as in `ContrastiveModel`.

    Attributes:
      image, text: tower configs, see `mmjax.models.variants.two_tower`.
    """

    serves: ClassVar[tuple[str, ...]] = ("embeddings",)
    attention_maps: ClassVar[tuple[str, ...]] = ("image", "similarity")
    embeds_all_tokens: ClassVar[bool] = False  # nothing but the heads reads the towers

    def setup(self):
        self.image_encoder = self.make_image_tower(ignored=_HEAD_FIELDS)
        self.text_encoder = encoders.build(
            encoders.TextTransformer,
            "text",
            self.text,
            ignored=_HEAD_FIELDS,
            dtype=self.dtype,
            attention_impl=self.text_attention,
        )
        self.image_head = self._head(self.image, "image_head")
        self.text_head = self._head(self.text, "text_head")
        super().setup()

    def _head(self, tower, name) -> EmbeddingHead:
        shared = ("heads", "mlp_dim", "activation", "norm_eps")
        settings = {field: tower[field] for field in (*_HEAD_FIELDS, *shared)}
        return EmbeddingHead(self.embed_dim, **settings, dtype=self.dtype, name=name)

    # Each tower folds its number into the examples' keys, so that the towers' noise is independent.
    def encode_image(
        self, images: Float[Array, "B H W 3"], keys: Key[Array, " B"] | None = None, *, pool_kind: str | None = None
    ) -> Encoded:
        """Encodes normalised images; `pool_kind` as the towers have it."""
        return self.image_encoder(images, layers.fold_keys(keys, ExampleStream.IMAGE), pool_kind=pool_kind)

    def encode_text(
        self,
        text: Int[Array, "B L"],
        text_mask: Bool[Array, "B L"] | None = None,
        keys: Key[Array, " B"] | None = None,
        packed: packing.TextPlaces | None = None,
        *,
        pool_kind: str | None = None,
    ) -> Encoded:
        """Encodes token ids; with `packed` as rows of several texts. Both as in `TextTransformer`."""
        keys = layers.fold_keys(keys, ExampleStream.TEXT)
        return self.text_encoder(text, text_mask, keys, packed=packed, pool_kind=pool_kind)

    def image_embedding(
        self, images: Float[Array, "B H W 3"], keys: Key[Array, " B"] | None = None
    ) -> Float[Array, "B E"]:
        """Embeds normalised images; rows have unit length. What the head does not read is not computed."""
        return self.embed_image(self.encode_image(images, keys, pool_kind=self.image["pool"]))

    def text_embedding(self, text, text_mask=None, keys=None, packed=None) -> Float[Array, "B E"]:
        """Embeds token ids as `encode_text` takes them. What the head does not read is not computed."""
        return self.embed_text(self.encode_text(text, text_mask, keys, packed, pool_kind=self.text["pool"]))

    def image_readout(self, sown: sown_attention.Sown) -> str | Float[Array, "B N"]:
        """The kind of pool; its query's weights where it has one."""
        kind = self.image["pool"]
        return (
            sown_attention.attention_weights(sown, "image_head", "pool", "attention")[:, 0] if kind == "map" else kind
        )

    def __call__(self, images, text, text_mask=None):
        """Embeds both; used to initialise every parameter."""
        return self.image_embedding(images), self.text_embedding(text, text_mask)

    def project_image(self, image):
        return self.image_head(image)

    def project_text(self, text):
        return self.text_head(text)
