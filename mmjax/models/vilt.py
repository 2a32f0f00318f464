"""ViLT: words and patches through one transformer, without towers (arXiv:2102.03334)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from mmjax import errors
from mmjax.models import encoders, heads, language, submodules
from mmjax.nn import attention, dropout, embed
from mmjax.nn.dense import add_parameter, broadcast_parameter, dense_float32
from mmjax.nn.norms import layer_norm
from mmjax.utils.random_streams import EncoderStream, ExampleStream


class Stream(nn.Module):
    """A vision transformer whose layers also read other tokens than its patches.

    Parameters are named as those of `VisionTransformer`: `patch_embed`, `position_embedding`, `class_token`,
    `transformer`, `norm`; with `mask_token`, `mask_token` [D].

    Attributes:
      image_size, patch_size: pixels.
      class_token, patch_bias: see `VisionTransformer`.
      mask_token: a learned token for patches that are hidden.
      Others as in `Transformer`.
    """

    image_size: int
    patch_size: int
    width: int
    depth: int
    heads: int
    mlp_dim: int
    activation: str = "gelu"
    norm_eps: float = 1e-5
    class_token: bool = True
    patch_bias: bool = True
    mask_token: bool = False
    dropout: float = 0.0
    drop_path: float = 0.0
    scan: bool | str = "auto"
    remat: str = "none"
    remat_keep: int = 0
    dtype: DTypeLike = jnp.float32
    attention_impl: str = "xla"

    def setup(self):
        init = nn.initializers.normal(self.width**-0.5)
        self.patch_embed = embed.PatchEmbed(self.width, self.patch_size, self.patch_bias, self.dtype)
        self.position_embedding = self.param("position_embedding", init, (self.tokens, self.width), jnp.float32)
        if self.class_token:
            self.first = self.param("class_token", init, (self.width,), jnp.float32)
        if self.mask_token:
            self.hidden = self.param("mask_token", init, (self.width,), jnp.float32)
        self.transformer = encoders.make_transformer(self)
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
        return dropout.dropout(x, self.dropout, dropout.fold_keys(keys, EncoderStream.EMBEDDING))

    def run(
        self, x: Float[Array, "B N D"], spec: attention.AttentionSpec, keys: Key[Array, " B"] | None = None
    ) -> Float[Array, "B N D"]:
        """Runs embedded tokens, of whatever kind, through the layers and the final norm."""
        return self.norm(self.transformer(x, spec, dropout.fold_keys(keys, EncoderStream.LAYERS)).tokens)


class ViLT(nn.Module):
    """Embedded words and embedded patches, each with its modality's vector, through one vision transformer.

    Encoding is embedding here: what `encode_image` and `encode_text` return knows nothing of its neighbours. There is
    no contrast, so negatives for matching are drawn uniformly.

    Parameters: `image` (see `Stream`), `text`, `modality_embedding` [2, D] (text, image); with `pooler` `pooler`, with
    `match` `match_head`, with `mlm` the head in `text`, with `mim` `pixel_head` and `image/mask_token`, with `answers`
    `answer_head`.

    Attributes:
      image: settings of `Stream`; its layers are the model's.
      text: settings of `TextStack` as far as its embeddings and head go, and `eos_id`.
      pooler: BERT's, which matching and answers need.
      match: a head for image-text matching.
      mlm: a head for masked words.
      mim: a head for the pixels of masked patches.
      answers: of the head for questions; 0 for none.
      dtype: compute type; logits are float32.
      image_attention: kernel of self-attention, `xla` or `cudnn`.
      text_attention: not used: the words have no layers of their own.
    """

    image: Mapping[str, Any]
    text: Mapping[str, Any]
    pooler: bool = True
    match: bool = False
    mlm: bool = False
    mim: bool = False
    answers: int = 0
    dtype: DTypeLike = jnp.float32
    image_attention: str = "xla"
    text_attention: str = "xla"

    supported_objectives: ClassVar[tuple[str, ...]] = ("itm", "mlm", "mim", "vqa")
    fuse_reads_words: ClassVar[bool] = False  # whether `fuse` reads token ids, not encoded text

    def setup(self):
        if not self.pooler and (self.match or self.answers):
            raise errors.UserError("model.pooler=False goes with no head for matches or answers; set it to True")
        shared = dict(dtype=self.dtype, attention_impl=self.image_attention, mask_token=self.mim)
        self.stream = submodules.build(Stream, "image", self.image, **shared)
        width = self.image["width"]
        fixed = dict(width=width, depth=0, heads=1, mlp_dim=0, causal=False, cross_every=0, final_norm=False)
        fixed |= dict(head="mlm" if self.mlm else "none", dtype=self.dtype)
        self.words = submodules.build(language.TextStack, "text", self.text, ignored=submodules.TEXT_IDS, **fixed)
        init = nn.initializers.normal(0.02)
        self.modality_embedding = self.param("modality_embedding", init, (2, width), jnp.float32)
        if self.pooler:
            self.pool = heads.Pooler(self.dtype, name="pooler")
        if self.match:
            self.match_head = heads.MatchHead(self.dtype)
        if self.mim:
            pixels = 3 * self.image["patch_size"] ** 2
            self.pixel_head = dense_float32(pixels, std=width**-0.5, dtype=self.dtype, name=None)
        if self.answers:
            self.answer_head = heads.AnswerHead(self.answers, self.dtype)

    def encode_image(
        self,
        images: Float[Array, "B H W 3"],
        keys: Key[Array, " B"] | None = None,
        mask: Bool[Array, "B N"] | None = None,
    ) -> encoders.Encoded:
        """Embeds normalised images of the model's size.

        Args:
          images: normalised.
          keys: one an example, for dropout.
          mask: patches to hide, which needs `mim`.
        """
        if mask is not None:
            heads.needs("mim", self.mim)
        x = self.stream.embed(images, mask, dropout.fold_keys(keys, ExampleStream.IMAGE))
        return encoders.Encoded(add_parameter(x, self.modality_embedding[1]))

    def encode_text(
        self,
        text: Int[Array, "B L"],
        text_mask: Bool[Array, "B L"] | None = None,
        keys: Key[Array, " B"] | None = None,
    ) -> encoders.Encoded:
        """Embeds token ids."""
        x = self.words.embed(text, keys=dropout.fold_keys(keys, ExampleStream.TEXT))
        return encoders.Encoded(add_parameter(x, self.modality_embedding[0]), text_mask)

    def fuse(
        self,
        image: encoders.Encoded,
        text: encoders.Encoded,
        words: Int[Array, "B L"],
        keys: Key[Array, " B"] | None = None,
    ) -> encoders.Encoded:
        """All tokens once they have seen each other: the text's, then the image's.

        Args:
          image: what `encode_image` returned.
          text: what `encode_text` returned.
          words: the text's ids, which are embedded already.
          keys: one an example, for dropout.
        """
        del words
        joint = _joined(text, image)
        spec = attention.AttentionSpec(valid=joint.valid)
        return joint._replace(tokens=self.stream.run(joint.tokens, spec, dropout.fold_keys(keys, ExampleStream.FUSION)))

    def match_logits(self, fused: encoders.Encoded) -> Float[Array, "B 2"]:
        """Whether image and text belong together; index 1 says yes."""
        heads.needs("match", self.match)
        return self.match_head(self.pool(fused.tokens))

    def word_logits(self, fused: encoders.Encoded) -> Float[Array, "B L V"]:
        """Scores of the words at every place of the text, masked or not."""
        heads.needs("mlm", self.mlm)
        return self.words.logits(fused.tokens[:, : -self.stream.tokens])

    def patch_pixels(self, fused: encoders.Encoded) -> Float[Array, "B N P"]:
        """The pixels of every patch, hidden or not: rows, columns, channels."""
        heads.needs("mim", self.mim)
        patches = fused.tokens[:, -self.stream.tokens + int(self.stream.class_token) :]
        return self.pixel_head(patches)

    def answer_logits(self, fused: encoders.Encoded) -> Float[Array, "B A"]:
        """Scores of the answers to a question, each for itself (sigmoid)."""
        heads.needs("answers", self.answers)
        return self.answer_head(self.pool(fused.tokens))

    def __call__(self, images, text, text_mask=None):
        """Fuses both, with every head; used to initialise every parameter."""
        fused = self.fuse(self.encode_image(images), self.encode_text(text, text_mask), text)
        out = [fused.tokens[:, 0]]
        out += [self.pool(fused.tokens)] if self.pooler else []
        out += [self.match_logits(fused)] if self.match else []
        out += [self.word_logits(fused)[:, 0]] if self.mlm else []
        out += [self.patch_pixels(fused)[:, 0]] if self.mim else []
        return (*out, *([self.answer_logits(fused)] if self.answers else []))


def _joined(*parted: encoders.Encoded) -> encoders.Encoded:
    """Tokens one after the other, zeros in place of those that are not valid."""
    tokens = jnp.concatenate([submodules.without_invalid(each).tokens for each in parted], axis=1)
    if all(each.valid is None for each in parted):
        return encoders.Encoded(tokens)
    real = [jnp.ones(each.tokens.shape[:2], bool) if each.valid is None else each.valid for each in parted]
    return encoders.Encoded(tokens, jnp.concatenate(real, axis=1))
