"""Captioners: a ViT and a decoder that cross-attends to its tokens (ViT + GPT-2; BLIP, arXiv:2201.12086; an LSTM)."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mmjax.errors import UserError, validate_choice
from mmjax.models import lstm_captioner, sown_attention, submodules
from mmjax.models.encoders import build
from mmjax.models.image_text import SlotsModel
from mmjax.models.writing_model import WritingModel
from mmjax.nn import attention

DECODERS = ("transformer", "lstm")


class Captioner(SlotsModel, WritingModel, kw_only=True):
    """A vision transformer and a causal decoder that looks at all of its tokens.

    Of transformers, GPT-2's decoder is `norm="pre"`, `activation="gelu_tanh"`, `head="tied"`; BLIP's is BERT's:
    `norm="post"`, `embedding_norm=True`, `final_norm=False`, `head="mlm"`. Either has `cross_every=1`.
    The LSTM is that of Show, Attend and Tell.

    Parameters: `image`, `text`.

    What is not listed is as in `ImageTextModel`.

    Attributes:
      text: settings of `TextStack` or `LSTMCaptioner`, `context_length` (the longest text) and `eos_id`.
      decoder: a name in `DECODERS`.
      caption_id: token in place of a text's first one (BLIP's [DEC]); None to leave it.
    """

    decoder: str = "transformer"
    caption_id: int | None = None

    serves: ClassVar[tuple[str, ...]] = ("captions",)
    attention_maps: ClassVar[tuple[str, ...]] = ("written",)

    def setup(self):
        self.image_encoder = self.make_image_tower()
        validate_choice("model.decoder", self.decoder, DECODERS)
        submodules.check_first_id("caption_id", self.caption_id, self.text["vocab_size"])
        if self.decoder == "lstm":
            ignored = (*submodules.TEXT_IDS, "context_length")
            cls = lstm_captioner.LSTMCaptioner
            self.writer = build(cls, "text", self.text, ignored=ignored, dtype=self.dtype)
            return
        if not self.text.get("causal", True):
            raise UserError("model.text.causal=False would let words see those after them; set it to True")
        submodules.check_cross_attention("text", self.text)
        self.writer = self.make_text_stack()

    def run_writer(self, image, text, text_mask, keys):
        writer, text = self.writer, submodules.with_first(text, self.caption_id)
        if isinstance(writer, lstm_captioner.LSTMCaptioner):  # padding stands after what is real
            return writer(image, text, keys)
        words = writer(text, text_mask, submodules.as_memory(image), keys)
        return writer.logits(words.tokens)

    def start(self, image, text, text_mask, slots):
        writer, text = self.writer, submodules.with_first(text, self.caption_id)
        if isinstance(writer, lstm_captioner.LSTMCaptioner):
            real = jnp.ones(text.shape, bool) if text_mask is None else text_mask
            return self._read_prompt(writer, image, text, real)
        spec = attention.AttentionSpec(causal=True, valid=text_mask)
        return writer.start(writer.embed(text), spec, slots=slots, memory=submodules.as_memory(image))

    def _read_prompt(self, writer: lstm_captioner.LSTMCaptioner, image, text, real):
        """The LSTM stands still at padding."""
        carry = writer.start(image)

        def read(writer, last, tokens, real):
            logits, state = last
            new_logits, new = writer.step(carry._replace(state=state), tokens)
            keep = lambda old, new: jnp.where(real.reshape(-1, *[1] * (new.ndim - 1)), new, old)
            return jax.tree.map(keep, (logits, state), (new_logits, new.state)), None

        nothing = jnp.zeros((len(text), writer.vocab_size), jnp.float32)
        scan = nn.scan(read, variable_broadcast="params", split_rngs={"params": False}, in_axes=1)
        (logits, state), _ = scan(writer, (nothing, carry.state), text, real)
        return logits, carry._replace(state=state)

    def word_attention(self, sown: sown_attention.Sown, words: int, patches: int) -> Float[Array, "B T N"]:
        """Where the decoder looks: the LSTM's additive attention, or the last layer's cross-attention."""
        del patches
        if self.decoder == "lstm":
            return sown["text"]["weights"][-1].astype(jnp.float32)
        return sown_attention.last_cross_attention(sown, "text", "transformer")[:, :words]

    def __call__(self, images, text, text_mask=None):
        """Scores the token after each text's last position; used to initialise every parameter."""
        return self.caption_logits(self.encode_image(images), text, text_mask)[:, -1]
