"""An image described: a ViT and a decoder that looks at its tokens (ViT + GPT-2; BLIP, arXiv:2201.12086; an LSTM)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from mmjax import errors
from mmjax.models import encoders, language, lstm_captioner, submodules
from mmjax.nn import attention, dropout
from mmjax.parallel.gather_rows import take_rows
from mmjax.utils.random_streams import ExampleStream

DECODERS = ("transformer", "lstm")
Carry = language.Carry | lstm_captioner.CaptionerCarry


class Captioner(nn.Module):
    """A vision transformer and a causal decoder that looks at all of its tokens.

    Of transformers, GPT-2's decoder is `norm="pre"`, `activation="gelu_tanh"`, `head="tied"`; BLIP's is BERT's:
    `norm="post"`, `embedding_norm=True`, `final_norm=False`, `head="mlm"`. Either has `cross_every=1`.
    The LSTM is that of Show, Attend and Tell.

    Parameters: `image`, `text`.

    Attributes:
      image: settings of `VisionTransformer`.
      text: settings of `TextStack` or `LSTMCaptioner`, `context_length` (the longest text) and `eos_id`.
      decoder: a name in `DECODERS`.
      dtype: compute type; logits are float32.
      image_attention, text_attention: kernels of self-attention, `xla` or `cudnn`.
    """

    image: Mapping[str, Any]
    text: Mapping[str, Any]
    decoder: str = "transformer"
    dtype: DTypeLike = jnp.float32
    image_attention: str = "xla"
    text_attention: str = "xla"

    supported_objectives: ClassVar[tuple[str, ...]] = ("caption",)

    def setup(self):
        shared = dict(dtype=self.dtype, attention_impl=self.image_attention)
        self.image_encoder = submodules.build(encoders.VisionTransformer, "image", self.image, **shared)
        errors.validate_choice("model.decoder", self.decoder, DECODERS)
        if self.decoder == "lstm":
            ignored = (*submodules.TEXT_IDS, "context_length")
            cls = lstm_captioner.LSTMCaptioner
            self.writer = submodules.build(cls, "text", self.text, ignored=ignored, dtype=self.dtype)
            return
        if not self.text.get("causal", True):
            raise errors.UserError("model.text.causal=False would let words see those after them; set it to True")
        submodules.check_looks("text", self.text)
        shared = dict(dtype=self.dtype, attention_impl=self.text_attention)
        self.writer = submodules.build(language.TextStack, "text", self.text, ignored=submodules.TEXT_IDS, **shared)

    def encode_image(self, images: Float[Array, "B H W 3"], keys: Key[Array, " B"] | None = None) -> encoders.Encoded:
        """Encodes normalised images."""
        return self.image_encoder(images, dropout.fold_keys(keys, ExampleStream.IMAGE))

    def caption_logits(
        self,
        image: encoders.Encoded,
        text: Int[Array, "B T"],
        text_mask: Bool[Array, "B T"] | None = None,
        keys: Key[Array, " B"] | None = None,
    ) -> Float[Array, "B T V"]:
        """Teacher forcing: logits [:, t] score token t + 1."""
        keys = dropout.fold_keys(keys, ExampleStream.DECODER)
        if self.decoder == "lstm":  # padding stands after what is real
            return self.writer(image, text, keys)
        words = self.writer(text, text_mask, submodules.as_memory(image), keys)
        return self.writer.logits(words.tokens)

    def start(
        self, image: encoders.Encoded, text: Int[Array, "B P"], text_mask: Bool[Array, "B P"] | None, slots: int
    ) -> tuple[Float[Array, "B V"], Carry]:
        """Reads a prompt (the first token, at least), padded on the right.

        Args:
          image: what `encode_image` returned.
          text: the prompt.
          text_mask: its real tokens; None when all are.
          slots: text tokens in all that will ever be read, the prompt included.

        Returns:
          Logits of the token after the prompt, and what `step` continues from.
        """
        if self.decoder == "lstm":
            return self._read_prompt(image, text, jnp.ones(text.shape, bool) if text_mask is None else text_mask)
        spec = attention.AttentionSpec(causal=True, valid=text_mask)
        return self.writer.start(self.writer.embed(text), spec, slots=slots, memory=submodules.as_memory(image))

    def _read_prompt(self, image, text, real):
        """The LSTM stands still at padding."""
        carry = self.writer.start(image)

        def read(writer, last, tokens, real):
            logits, state = last
            new_logits, new = writer.step(carry._replace(state=state), tokens)
            keep = lambda old, new: jnp.where(real.reshape(-1, *[1] * (new.ndim - 1)), new, old)
            return jax.tree.map(keep, (logits, state), (new_logits, new.state)), None

        nothing = jnp.zeros((len(text), self.writer.vocab_size), jnp.float32)
        scan = nn.scan(read, variable_broadcast="params", split_rngs={"params": False}, in_axes=1)
        (logits, state), _ = scan(self.writer, (nothing, carry.state), text, real)
        return logits, carry._replace(state=state)

    def step(self, carry: Carry, tokens: Int[Array, " B"]) -> tuple[Float[Array, "B V"], Carry]:
        """Reads one more token of each example and scores the next one."""
        return self.writer.step(carry, tokens)

    @staticmethod
    def take(carry: Carry, rows: Int[Array, " R"], examples: int | None = None) -> Carry:
        """The carry of these rows, which may repeat; `examples` as in `take_rows`."""
        return carry.take(rows, examples) if isinstance(carry, language.Carry) else take_rows(carry, rows, 0, examples)

    def __call__(self, images, text, text_mask=None):
        """Scores the token after each text's last position; used to initialise every parameter."""
        return self.caption_logits(self.encode_image(images), text, text_mask)[:, -1]
