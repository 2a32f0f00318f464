"""Towers into one embedding space: CLIP (arXiv:2103.00020) and SigLIP (arXiv:2303.15343)."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from mmjax.errors import UserError
from mmjax.models import encoders, heads, image_text, slots, sown_attention
from mmjax.models.conv.head import ConvHead
from mmjax.models.encoders import Encoded
from mmjax.models.fusion.config import FramesEncoderConfig
from mmjax.models.image_config import CONV_HEAD_FIELDS, ConvnextEncoderConfig, ResnetEncoderConfig
from mmjax.models.slot_config import MODALITIES, SLOTS
from mmjax.nn import layers, pool
from mmjax.nn.layers import dense_float32
from mmjax.nn.mlp import ACTIVATIONS
from mmjax.nn.norms import layer_norm
from mmjax.parallel import packing
from mmjax.utils.random_streams import ExampleStream

# Fields of a tower's config that describe its head; all others are the encoder's own.
_HEAD_FIELDS = ("pool", "projection", "pooler")
UNIT_MEAN = "unit_mean"
_IMAGE_HEAD_FIELDS = ("pool_norm", "pool_heads", "pool_mlp_dim")


class EmbeddingHead(nn.Module):
    """Pools tokens and projects them to the shared space, in float32.

    Attributes:
      embed_dim: E.
      pool: a kind of `mmjax.nn.pool.Pool`; or `unit_mean`, the mean of the valid tokens' embeddings, each of which is
        made of unit length before, as CLIP4Clip averages frames (arXiv:2104.08860).
      projection: `linear`, `bias` (linear with bias), `mlp` (two layers without biases, see `ProjectionMlp`) or `none`
        (then the width must be E).
      pooler: a dense layer and tanh after the pool (BERT's, of its first token).
      heads, mlp_dim, activation, norm_eps: of the `map` pool, the tower's own.
      prefix: tokens that stand before the input's, which a `mean` leaves out.
      pool_norm: a norm after the pool, in the compute type.
      pool_heads, pool_mlp_dim: of the `map` pool where they are not the tower's.
    """

    embed_dim: int
    pool: str
    projection: str
    heads: int
    mlp_dim: int
    activation: str
    norm_eps: float
    dtype: DTypeLike = jnp.float32
    prefix: int = 0
    pooler: bool = False
    pool_norm: bool = False
    pool_heads: int | None = None
    pool_mlp_dim: int | None = None

    @nn.compact
    def __call__(self, encoded: Encoded) -> Float[Array, "B E"]:
        if self.pool == UNIT_MEAN:
            embedded = image_text.l2_normalize(self._project(encoded.tokens[:, self.prefix :]))
            valid = None if encoded.valid is None else encoded.valid[:, self.prefix :]
            return pool.Pool("mean")(embedded, valid)
        is_last = self.projection == "none"
        x = pool.Pool(
            self.pool,
            self.pool_heads or self.heads,
            self.pool_mlp_dim or self.mlp_dim,
            self.activation,
            self.norm_eps,
            dtype=self.dtype,
            out_dtype=jnp.float32 if is_last and not self.pooler and not self.pool_norm else None,
            prefix=self.prefix,
            name="pool",
        )(encoded.tokens, encoded.valid, encoded.eos)
        if self.pooler:
            x = heads.Pooler(self.dtype, name="pooler")(x[:, None])
        if self.pool_norm:
            x = layer_norm(self.norm_eps, jnp.float32 if is_last else self.dtype, "norm")(x)
        return self._project(x)

    def _project(self, x: Float[Array, "B *N D"]) -> Float[Array, "B *N E"]:
        """Vectors in the shared space, float32."""
        if self.projection == "none":
            return x.astype(jnp.float32)
        if self.projection == "mlp":
            return ProjectionMlp(self.embed_dim, dtype=self.dtype, name="projection")(x)
        return dense_float32(
            self.embed_dim,
            std=x.shape[-1] ** -0.5,
            dtype=self.dtype,
            name="projection",
            use_bias=self.projection == "bias",
        )(x)


class ProjectionMlp(nn.Module):
    """Two dense layers without biases and a GELU between them, as OpenCLIP's `proj_type="mlp"`, in float32 at the end.

    Parameters: `fc1` kernel [D, F] and `fc2` kernel [F, E], with F half of D + E.

    Attributes:
      embed_dim: E.
    """

    embed_dim: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B E"]:
        width, hidden = x.shape[-1], (x.shape[-1] + self.embed_dim) // 2
        x = layers.Dense(hidden, std=width**-0.5, dtype=self.dtype, use_bias=False, name="fc1")(x)
        x = ACTIVATIONS["gelu"](x)
        return dense_float32(self.embed_dim, std=hidden**-0.5, dtype=self.dtype, name="fc2", use_bias=False)(x)


class TwoTower(image_text.SlotsModel, image_text.ContrastiveModel, kw_only=True):
    """Towers of two or more modalities and the scale (and bias) of their similarities; CLIP's are `image` and `text`.

    Parameters: of each slot that is filled `NAME` and `NAME_head`, and those of `ContrastiveModel`.

    What is not listed is as in `ContrastiveModel`.

    Attributes:
      image, text: tower configs, see `mmjax.models.variants.two_tower`; None where the slot is empty.
      video, audio, series, table: settings of an encoder with its `kind`, and of its head.
      pairs: which of the modalities are contrasted, see `contrasted_pairs`.
    """

    text: Mapping[str, Any] | None = None
    pairs: str = ""

    serves: ClassVar[tuple[str, ...]] = ("embeddings",)
    attention_maps: ClassVar[tuple[str, ...]] = ("image", "similarity")
    embeds_all_tokens: ClassVar[bool] = False  # nothing but the heads reads the towers

    def setup(self):
        self.encoders = {name: self._encoder(name) for name in self.modalities}
        self.heads = {name: self._head(name) for name in self.modalities}
        super().setup()

    @property
    def modalities(self) -> tuple[str, ...]:
        """The slots that are filled."""
        return tuple(name for name in (*MODALITIES, "text") if getattr(self, name) is not None)

    @property
    def seen(self) -> str:
        """The first of the slots."""
        return self.modalities[0]

    @property
    def contrasted(self) -> Sequence[tuple[str, str, float]]:
        """The pairs of modalities that are contrasted, with their weights."""
        return contrasted_pairs(self.pairs, self.modalities)

    def _encoder(self, name: str) -> Any:
        settings: Any = getattr(self, name)
        if name in SLOTS:
            return slots.make_encoder(f"model.{name}", name, settings, self.dtype, ignored=_HEAD_FIELDS)
        if _is_convolutional(settings):
            return slots.make_encoder(f"model.{name}", name, settings, self.dtype, ignored=CONV_HEAD_FIELDS)
        cls = encoders.TextTransformer if name == "text" else encoders.VisionTransformer
        kernel = self.text_attention if name == "text" else self.image_attention
        ignored = _HEAD_FIELDS + (_IMAGE_HEAD_FIELDS if name == "image" else ())
        return encoders.build(cls, name, settings, ignored=ignored, dtype=self.dtype, attention_impl=kernel)

    def _head(self, name: str) -> nn.Module:
        shared = ("heads", "mlp_dim", "activation", "norm_eps")
        tower: Any = getattr(self, name)
        if _is_convolutional(tower):
            settings = {field: tower[field] for field in (*CONV_HEAD_FIELDS, "image_size")}
            eps = tower.get("norm_eps", 1e-6)  # of ConvNeXt's; a ResNet's head has no norm
            return ConvHead(self.embed_dim, **settings, norm_eps=eps, dtype=self.dtype, name=f"{name}_head")
        settings = {field: tower[field] for field in (*_HEAD_FIELDS, *shared) if field in tower}
        settings |= {field: tower[field] for field in _IMAGE_HEAD_FIELDS if field in tower}
        # The class token of `frames` is each frame's.
        of_frames = tower.get("kind") == FramesEncoderConfig.kind
        prefix = 0 if of_frames or name == "text" else slots.learned_tokens(self.encoders[name])
        return EmbeddingHead(self.embed_dim, **settings, dtype=self.dtype, prefix=prefix, name=f"{name}_head")

    def _pool(self, name: str) -> str:
        """The kind of pool that a tower's head has."""
        tower: Any = getattr(self, name)
        return tower["pool"]

    # Each tower folds its number into the examples' keys, so that the towers' noise is independent.
    def encode(
        self, name: str, x: Float[Array, "B ..."], keys: Key[Array, " B"] | None = None, *, pool_kind: str | None = None
    ) -> Encoded:
        """Encodes normalised images or arrays of another slot but text.

        Args:
          name: of the slot.
          x: an array an example, see `slots.encode`.
          keys: one an example, for noise; None for none.
          pool_kind: as the towers of images and texts have it.
        """
        keys = layers.fold_keys(keys, ExampleStream[name.upper()])
        if name == "image":
            return self.encoders[name](x, keys, pool_kind=pool_kind)
        settings: Any = getattr(self, name)
        return slots.encode(settings["kind"], self.encoders[name], x, keys)

    def embed(self, name: str, encoded: Encoded) -> Float[Array, "B E"]:
        """Embeds what the tower of a slot has encoded; rows have unit length."""
        return image_text.l2_normalize(self.heads[name](encoded))

    def embedding(
        self, name: str, x: Float[Array, "B ..."], keys: Key[Array, " B"] | None = None
    ) -> Float[Array, "B E"]:
        """Encodes and embeds as `encode` does; what the head does not read is not computed."""
        return self.embed(name, self.encode(name, x, keys, pool_kind=self._pool(name)))

    def encode_image(
        self, images: Float[Array, "B ..."], keys: Key[Array, " B"] | None = None, **options: Any
    ) -> Encoded:
        """Encodes what is in the first slot."""
        return self.encode(self.seen, images, keys, **options)

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
        return self.encoders["text"](text, text_mask, keys, packed=packed, pool_kind=pool_kind)

    def image_embedding(
        self, images: Float[Array, "B ..."], keys: Key[Array, " B"] | None = None
    ) -> Float[Array, "B E"]:
        """Embeds what is in the first slot; rows have unit length."""
        return self.embedding(self.seen, images, keys)

    def text_embedding(self, text, text_mask=None, keys=None, packed=None) -> Float[Array, "B E"]:
        """Embeds token ids as `encode_text` takes them. What the head does not read is not computed."""
        return self.embed("text", self.encode_text(text, text_mask, keys, packed, pool_kind=self._pool("text")))

    def image_readout(self, sown: sown_attention.Sown) -> str | Float[Array, "B N"]:
        """The kind of pool; its query's weights where it has one."""
        kind, head = self._pool(self.seen), f"{self.seen}_head"
        kind = "mean" if kind == UNIT_MEAN else kind
        return sown_attention.attention_weights(sown, head, "pool", "attention")[:, 0] if kind == "map" else kind

    def __call__(self, *inputs: Any, **named: Any):
        """Embeds the slots in their order, and a text with its mask; used to initialise every parameter."""
        arrays = dict(zip((*self.modalities, "text_mask"), inputs, strict=False)) | named
        embeddings = [self.embedding(name, arrays[name]) for name in self.modalities if name != "text"]
        text = [self.text_embedding(arrays["text"], arrays.get("text_mask"))] if self.text is not None else []
        return (*embeddings, *text)

    def project_image(self, image):
        return self.heads[self.seen](image)

    def project_text(self, text):
        return self.heads["text"](text)


def _is_convolutional(tower: Mapping[str, Any]) -> bool:
    """Whether a tower's settings are those of a convolutional one, whose head is another."""
    return tower.get("kind") in (ResnetEncoderConfig.kind, ConvnextEncoderConfig.kind)


def contrasted_pairs(pairs: str, modalities: Sequence[str]) -> list[tuple[str, str, float]]:
    """The pairs of modalities that are contrasted, with their weights; of two modalities they are the pair.

    Args:
      pairs: such as "video+text,audio+text@0.5"; empty for all pairs, with weights that sum to 1.
      modalities: of the model.

    Raises:
      UserError: a pair is not of two of the modalities, comes twice, leaves a modality out, or has no positive weight.
    """
    if not pairs:
        every = list(itertools.combinations(modalities, 2))
        return [(first, second, 1 / len(every)) for first, second in every]
    result: dict[tuple[str, str], float] = {}
    for part in pairs.split(","):
        names, _, weight = part.strip().partition("@")
        pair = tuple(sorted(names.split("+"), key=lambda name: modalities.index(name) if name in modalities else -1))
        known = len(set(pair)) == 2 and set(pair) <= set(modalities)
        if not known or not re.fullmatch(r"(\d+\.?\d*|\.\d+)?", weight) or (weight and float(weight) <= 0):
            raise UserError(
                f"model.pairs={pairs!r}: {part.strip()!r} is not NAME+NAME or NAME+NAME@WEIGHT of two of"
                f" {', '.join(modalities)} with a weight above 0"
            )
        first, second = pair
        if (first, second) in result:
            raise UserError(f"model.pairs={pairs!r} has {first}+{second} twice; leave one out")
        result[first, second] = float(weight or 1)
    for name in modalities:
        if not any(name in pair for pair in result):
            raise UserError(f"model.pairs={pairs!r} leaves model.{name} untrained; add a pair or leave the slot out")
    return [(first, second, weight) for (first, second), weight in result.items()]
