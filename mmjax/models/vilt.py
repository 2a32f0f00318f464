"""ViLT: words and patches through one transformer, without towers (arXiv:2102.03334)."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Key

from mmjax.errors import UserError
from mmjax.models import encoders, heads, sown_attention, submodules
from mmjax.models.encoders import Encoded
from mmjax.models.fusion_model import FusionModel
from mmjax.nn import attention, layers
from mmjax.nn.layers import add_parameter, broadcast_parameter, dense_float32
from mmjax.nn.norms import layer_norm
from mmjax.utils.random_streams import EncoderStream, ExampleStream


class Stream(encoders.TransformerTower, kw_only=True):
    """A vision transformer whose layers also read other tokens than its patches.

    Parameters are named as those of `VisionTransformer`: `patch_embed`, `position_embedding`, `class_token`,
    `transformer`, `norm`; with `mask_token`, `mask_token` [D].

    What is not listed is as in `TransformerTower`.

    Attributes:
      image_size, patch_size: pixels.
      class_token, patch_bias: see `VisionTransformer`.
      mask_token: a learned token for patches that are hidden.
    """

    image_size: int
    patch_size: int
    class_token: bool = True
    patch_bias: bool = True
    mask_token: bool = False

    def setup(self):
        init = nn.initializers.normal(self.width**-0.5)
        self.patch_embed = layers.PatchEmbed(self.width, self.patch_size, self.patch_bias, self.dtype)
        self.position_embedding = self.param("position_embedding", init, (self.tokens, self.width), jnp.float32)
        if self.class_token:
            self.first = self.param("class_token", init, (self.width,), jnp.float32)
        if self.mask_token:
            self.hidden = self.param("mask_token", init, (self.width,), jnp.float32)
        self.transformer = self.make_transformer()
        self.norm = layer_norm(self.norm_eps, self.dtype)

    @property
    def tokens(self) -> int:
        """How many an image has, its class token included."""
        return (self.image_size // self.patch_size) ** 2 + int(self.class_token)

    def embed(
        self,
        images: Float[Array, "B H W 3"],
        mask: Bool[Array, "B N"] | None = None,
        keys: Key[Array, " B"] | None = None,
    ) -> Float[Array, "B M D"]:
        """Embeds images: the class token, then patches, those in `mask` replaced by the mask token.

        Raises:
          ValueError: images of another size than `image_size`.
        """
        if images.shape[1:3] != (self.image_size, self.image_size):
            height, width = images.shape[1:3]
            raise ValueError(f"an image of {height}x{width} pixels is not of the model's image_size={self.image_size}")
        x = self.patch_embed(images)
        if mask is not None:
            x = jnp.where(mask[..., None], broadcast_parameter(self.hidden, x.shape, self.dtype), x)
        if self.class_token:
            first = broadcast_parameter(self.first, (len(x), 1, self.width), self.dtype)
            x = jnp.concatenate([first, x], axis=1)
        x = add_parameter(x, self.position_embedding)
        return layers.dropout(x, self.dropout, layers.fold_keys(keys, EncoderStream.EMBEDDING))

    def run(
        self, x: Float[Array, "B N D"], spec: attention.AttentionSpec, keys: Key[Array, " B"] | None = None
    ) -> Float[Array, "B N D"]:
        """Runs embedded tokens, of whatever kind, through the layers and the final norm."""
        return self.norm(self.transformer(x, spec, layers.fold_keys(keys, EncoderStream.LAYERS)).tokens)


class ViLT(FusionModel, kw_only=True):
    """Embedded words and embedded patches, each with its modality's vector, through one vision transformer.

    Encoding is embedding here: what `encode_image` and `encode_text` return knows nothing of its neighbours. There is
    no contrast, so negatives for matching are drawn uniformly.

    Parameters: `image` (see `Stream`), `text`, `modality_embedding` [2, D] (text, image); with `pooler` `pooler`, with
    `mlm` the head in `text`, with `mim` `pixel_head` and `image/mask_token`, and those of `FusionModel`.

    What is not listed is as in `FusionModel`.

    Attributes:
      image: settings of `Stream`; its layers are the model's.
      text: settings of `TextStack` as far as its embeddings and head go, and `eos_id`.
      pooler: BERT's, which matching and answers need.
      mlm: a head for masked words.
      mim: a head for the pixels of masked patches.
      text_attention: not used: the words have no layers of their own.
    """

    pooler: bool = True
    mlm: bool = False
    mim: bool = False

    serves: ClassVar[tuple[str, ...]] = ("matching", "masked_words", "masked_patches", "answers")
    attention_maps: ClassVar[tuple[str, ...]] = ("read",)

    def setup(self):
        if not self.pooler and (self.match or self.answers):
            raise UserError("model.pooler=False goes with no head for matches or answers; set it to True")
        self.stream = encoders.build(
            Stream,
            "image",
            self.seen_settings,
            dtype=self.dtype,
            attention_impl=self.image_attention,
            mask_token=self.mim,
        )
        width = self.seen_settings["width"]
        fixed = dict(width=width, depth=0, heads=1, mlp_dim=0, causal=False, cross_every=0, final_norm=False)
        self.words = self.make_text_stack(head="mlm" if self.mlm else "none", **fixed)
        init = nn.initializers.normal(0.02)
        self.modality_embedding = self.param("modality_embedding", init, (2, width), jnp.float32)
        if self.pooler:
            self.pool = heads.Pooler(self.dtype, name="pooler")
        if self.mim:
            pixels = 3 * self.seen_settings["patch_size"] ** 2
            self.pixel_head = dense_float32(pixels, std=width**-0.5, dtype=self.dtype, name=None)
        super().setup()

    def encode_image(
        self,
        images: Float[Array, "B H W 3"],
        keys: Key[Array, " B"] | None = None,
        mask: Bool[Array, "B N"] | None = None,
    ) -> Encoded:
        """Embeds normalised images of the model's size.

        Args:
          images: normalised.
          keys: one an example, for dropout.
          mask: patches to hide, which needs `mim`.
        """
        if mask is not None:
            heads.check_head("mim", self.mim)
        x = self.stream.embed(images, mask, layers.fold_keys(keys, ExampleStream.IMAGE))
        return Encoded(add_parameter(x, self.modality_embedding[1]))

    def run_text(self, text, text_mask, keys):
        x = self.words.embed(text, keys=keys)
        return Encoded(add_parameter(x, self.modality_embedding[0]), text_mask)

    def run_fusion(self, image, text, words, keys):
        """All tokens once they have seen each other: the text's, then the image's."""
        del words
        joint = _joined(text, image)
        spec = attention.AttentionSpec(valid=joint.valid)
        return joint._replace(tokens=self.stream.run(joint.tokens, spec, keys))

    def pool_fused(self, fused):
        return self.pool(fused.tokens)

    def word_logits(self, fused: Encoded) -> Float[Array, "B L V"]:
        """Scores of the words at every position of the text, masked or not."""
        heads.check_head("mlm", self.mlm)
        return self.words.logits(fused.tokens[:, : -self.stream.tokens])

    def patch_pixels(self, fused: Encoded) -> Float[Array, "B N P"]:
        """The pixels of every patch, hidden or not: rows, columns, channels."""
        heads.check_head("mim", self.mim)
        patches = fused.tokens[:, -self.stream.tokens + int(self.stream.class_token) :]
        return self.pixel_head(patches)

    def word_attention(self, sown: sown_attention.Sown, words: int, patches: int) -> Float[Array, "B T N"]:
        """Self-attention of the last layer, where words stand before patches."""
        weights = sown_attention.self_attention(sown, "image", "transformer")[-1]
        return weights[:, :words, words : words + patches]

    def __call__(self, images, text, text_mask=None):
        """Fuses both, with every head; used to initialise every parameter."""
        fused = self.fuse(self.encode_image(images), self.encode_text(text, text_mask), text)
        out = [fused.tokens[:, 0]]
        out += [self.pool(fused.tokens)] if self.pooler else []
        out += [self.word_logits(fused)[:, 0]] if self.mlm else []
        out += [self.patch_pixels(fused)[:, 0]] if self.mim else []
        return (*out, *self.head_logits(fused))


def _joined(*parts: Encoded) -> Encoded:
    """Tokens one after the other, zeros in place of those that are not valid."""
    tokens = jnp.concatenate([submodules.without_invalid(part).tokens for part in parts], axis=1)
    if all(part.valid is None for part in parts):
        return Encoded(tokens)
    real = [jnp.ones(part.tokens.shape[:2], bool) if part.valid is None else part.valid for part in parts]
    return Encoded(tokens, jnp.concatenate(real, axis=1))
