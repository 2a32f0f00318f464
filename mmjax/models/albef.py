"""ALBEF: contrast of two towers, then words that look at the image (arXiv:2107.07651)."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from mmjax import errors
from mmjax.models import encoders, heads, language, submodules
from mmjax.models.two_tower import l2_normalize
from mmjax.nn import attention, dropout, transformer
from mmjax.nn.dense import dense_float32
from mmjax.nn.norms import layer_norm
from mmjax.utils.random_streams import ExampleStream


class ALBEF(nn.Module):
    """A vision transformer, BERT's first layers for the text alone, and its others, which look at the image's tokens.

    The two parts of BERT are two stacks, so that texts and images are encoded once however they are paired. Without
    momentum distillation: a global batch takes the place of its queue of negatives.

    Parameters: `image`, `text` (with `mlm` also its head), `fusion` (with norm `pre` also `fusion_norm`),
    `image_projection`, `text_projection`, `logit_scale` (log space, scalar), with `logit_bias_init` `logit_bias`, with
    `match` `match_head`, with `answers` `answer_head`.

    Attributes:
      embed_dim: E, width of the shared space.
      image: settings of `VisionTransformer`; it needs its class token.
      text: settings of `TextStack`, and `eos_id`; its depth is that of the layers without an image.
      fusion: settings of `Transformer` for the layers with one; they are as wide as the text's.
      match: a head for image-text matching.
      mlm: a head for masked words.
      answers: of the head for questions; 0 for none.
      logit_scale_init: of the scale itself, not of its logarithm.
      logit_bias_init: None for no bias.
      dtype: compute type; embeddings and logits are float32.
      image_attention, text_attention: kernels of self-attention, `xla` or `cudnn`.
    """

    embed_dim: int
    image: Mapping[str, Any]
    text: Mapping[str, Any]
    fusion: Mapping[str, Any]
    match: bool = False
    mlm: bool = False
    answers: int = 0
    logit_scale_init: float = 1 / 0.07
    logit_bias_init: float | None = None
    dtype: DTypeLike = jnp.float32
    image_attention: str = "xla"
    text_attention: str = "xla"

    supported_objectives: ClassVar[tuple[str, ...]] = ("itc", "sigmoid", "triplet", "itm", "mlm", "vqa")
    fuse_reads_words: ClassVar[bool] = False  # whether `fuse` reads token ids, not encoded text

    def setup(self):
        if not self.image.get("class_token", True):
            raise errors.UserError("model.image.class_token=False leaves no token to embed; set it to True")
        width = self.text["width"]
        if width % self.fusion["heads"]:
            told = f"model.fusion.heads={self.fusion['heads']} does not divide model.text.width={width}"
            raise errors.UserError(f"{told}; choose one that does")
        shared = dict(dtype=self.dtype, attention_impl=self.image_attention)
        self.image_encoder = submodules.build(encoders.VisionTransformer, "image", self.image, **shared)
        shared = dict(dtype=self.dtype, attention_impl=self.text_attention)
        fixed = shared | dict(causal=False, cross_every=0, head="mlm" if self.mlm else "none")
        self.text_encoder = submodules.build(
            language.TextStack, "text", self.text, ignored=submodules.TEXT_IDS, **fixed
        )
        self.fuser = submodules.build(
            transformer.Transformer, "fusion", self.fusion, cross_every=1, cross_from=0, **shared
        )
        if self.fusion.get("norm", "pre") == "pre":
            self.fusion_norm = layer_norm(self.fusion.get("norm_eps", 1e-5), self.dtype)

        dense = lambda size: dense_float32(self.embed_dim, std=size**-0.5, dtype=self.dtype, name=None)
        self.image_projection, self.text_projection = dense(self.image["width"]), dense(width)
        log_scale = nn.initializers.constant(math.log(self.logit_scale_init))
        self.logit_scale = self.param("logit_scale", log_scale, (), jnp.float32)
        if self.logit_bias_init is not None:
            bias = nn.initializers.constant(self.logit_bias_init)
            self.logit_bias = self.param("logit_bias", bias, (), jnp.float32)
        if self.match:
            self.match_head = heads.MatchHead(self.dtype)
        if self.answers:
            self.answer_head = heads.AnswerHead(self.answers, self.dtype)

    def encode_image(self, images: Float[Array, "B H W 3"], keys: Key[Array, " B"] | None = None) -> encoders.Encoded:
        """Encodes normalised images."""
        return self.image_encoder(images, dropout.fold_keys(keys, ExampleStream.IMAGE))

    def encode_text(
        self,
        text: Int[Array, "B L"],
        text_mask: Bool[Array, "B L"] | None = None,
        keys: Key[Array, " B"] | None = None,
    ) -> encoders.Encoded:
        """Encodes token ids without any image; padding is seen by no token."""
        return self.text_encoder(text, text_mask, keys=dropout.fold_keys(keys, ExampleStream.TEXT))

    def embed_image(self, image: encoders.Encoded) -> Float[Array, "B E"]:
        """Embeds encoded images; rows have unit length."""
        return l2_normalize(self.image_projection(image.tokens[:, 0]))

    def embed_text(self, text: encoders.Encoded) -> Float[Array, "B E"]:
        """Embeds encoded texts by their first token; rows have unit length."""
        return l2_normalize(self.text_projection(text.tokens[:, 0]))

    def fuse(
        self,
        image: encoders.Encoded,
        text: encoders.Encoded,
        words: Int[Array, "B L"],
        keys: Key[Array, " B"] | None = None,
    ) -> encoders.Encoded:
        """The text's tokens once they have looked at the image.

        Args:
          image: what `encode_image` returned.
          text: what `encode_text` returned.
          words: the text's ids, which are encoded already.
          keys: one an example, for dropout.
        """
        del words
        spec = attention.AttentionSpec(valid=text.valid)
        x = submodules.without_invalid(text).tokens
        x = self.fuser(
            x, spec, dropout.fold_keys(keys, ExampleStream.FUSION), memory=submodules.as_memory(image)
        ).tokens
        return encoders.Encoded(self.fusion_norm(x) if self.fusion.get("norm", "pre") == "pre" else x, text.valid)

    def match_logits(self, fused: encoders.Encoded) -> Float[Array, "B 2"]:
        """Whether image and text belong together; index 1 says yes."""
        heads.needs("match", self.match)
        return self.match_head(fused.tokens[:, 0])

    def word_logits(self, fused: encoders.Encoded) -> Float[Array, "B L V"]:
        """Scores of the words at every place, masked or not."""
        heads.needs("mlm", self.mlm)
        return self.text_encoder.logits(fused.tokens)

    def answer_logits(self, fused: encoders.Encoded) -> Float[Array, "B A"]:
        """Scores of the answers to a question, each for itself (sigmoid)."""
        heads.needs("answers", self.answers)
        return self.answer_head(fused.tokens[:, 0])

    def __call__(self, images, text, text_mask=None):
        """Embeds and fuses both, with every head; used to initialise every parameter."""
        image, encoded = self.encode_image(images), self.encode_text(text, text_mask)
        fused = self.fuse(image, encoded, text)
        out = [self.embed_image(image), self.embed_text(encoded)]
        out += [self.match_logits(fused)] if self.match else []
        out += [self.word_logits(fused)[:, 0]] if self.mlm else []
        return (*out, *([self.answer_logits(fused)] if self.answers else []))
