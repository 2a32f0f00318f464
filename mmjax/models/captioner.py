"""An image described: a ViT and a decoder that looks at its tokens (ViT + GPT-2; BLIP, arXiv:2201.12086)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from mmjax import errors
from mmjax.models import encoders, language, parts
from mmjax.nn import attention, dropout


class Captioner(nn.Module):
    """A vision transformer and a causal decoder that cross-attends to all of its tokens.

    GPT-2's decoder is `norm="pre"`, `activation="gelu_tanh"`, `head="tied"`; BLIP's is BERT's: `norm="post"`,
    `embedding_norm=True`, `final_norm=False`, `head="mlm"`. Either has `cross_every=1`.

    Parameters: `image`, `text`.

    Attributes:
      image: settings of `VisionTransformer`.
      text: settings of `TextStack`, and `eos_id`.
      dtype: compute type; logits are float32.
      image_attention, text_attention: kernels of self-attention, `xla` or `cudnn`.
    """

    image: Mapping[str, Any]
    text: Mapping[str, Any]
    dtype: DTypeLike = jnp.float32
    image_attention: str = "xla"
    text_attention: str = "xla"

    serves: ClassVar[tuple[str, ...]] = ("caption",)

    def setup(self):
        shared = dict(dtype=self.dtype, attention_impl=self.image_attention)
        self.image_encoder = parts.build(encoders.VisionTransformer, "image", self.image, **shared)
        if not self.text.get("causal", True):
            raise errors.UserError(
                "model.text.causal=False would let a caption's words see the next ones; set it to True"
            )
        if not self.text.get("cross_every"):
            raise errors.UserError("model.text.cross_every=0 would describe an image unseen; set it to 1 or more")
        shared = dict(dtype=self.dtype, attention_impl=self.text_attention)
        self.writer = parts.build(language.TextStack, "text", self.text, ignored=parts.TEXT_IDS, **shared)

    def encode_image(self, images: Float[Array, "B H W 3"], keys: Key[Array, " B"] | None = None) -> encoders.Encoded:
        """Encodes normalised images."""
        return self.image_encoder(images, dropout.fold_keys(keys, 0))

    def caption_logits(
        self,
        image: encoders.Encoded,
        text: Int[Array, "B T"],
        text_mask: Bool[Array, "B T"] | None = None,
        keys: Key[Array, " B"] | None = None,
    ) -> Float[Array, "B T V"]:
        """Teacher forcing: logits [:, t] score token t + 1."""
        words = self.writer(text, text_mask, parts.as_memory(image), dropout.fold_keys(keys, 3))
        return self.writer.logits(words.tokens)

    def start(
        self, image: encoders.Encoded, text: Int[Array, "B P"], text_mask: Bool[Array, "B P"] | None, slots: int
    ) -> tuple[Float[Array, "B V"], language.Carry]:
        """Reads a prompt (the first token, at least), padded on the right.

        Args:
          image: what `encode_image` returned.
          text: the prompt.
          text_mask: its real tokens; None when all are.
          slots: text tokens in all that will ever be read, the prompt included.

        Returns:
          Logits of the token after the prompt, and what `step` continues from.
        """
        spec = attention.AttentionSpec(causal=True, valid=text_mask)
        return self.writer.start(self.writer.embed(text), spec, slots=slots, memory=parts.as_memory(image))

    def step(self, carry: language.Carry, tokens: Int[Array, " B"]) -> tuple[Float[Array, "B V"], language.Carry]:
        """Reads one more token of each example and scores the next one."""
        return self.writer.step(carry, tokens)

    @staticmethod
    def take(carry: language.Carry, rows: Int[Array, " R"]) -> language.Carry:
        """The carry of these examples, which may repeat."""
        return carry.take(rows)

    def __call__(self, images, text, text_mask=None):
        """Scores the token after each text's last position; used to initialise every parameter."""
        return self.caption_logits(self.encode_image(images), text, text_mask)[:, -1]
