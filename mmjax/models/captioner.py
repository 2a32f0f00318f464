"""Captioners: a ViT and a decoder that cross-attends to its tokens (ViT + GPT-2; BLIP, arXiv:2201.12086; an LSTM)."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Key

from mmjax.errors import UserError, validate_choice
from mmjax.models import language, lstm_captioner, sown_attention, submodules
from mmjax.models.encoders import Encoded, build
from mmjax.models.image_text import SlotsModel
from mmjax.models.writing_model import WritingModel
from mmjax.nn import attention, layers
from mmjax.nn.transformer import Memory
from mmjax.utils.random_streams import EncoderStream

DECODERS = ("transformer", "lstm")


class _Row(NamedTuple):
    """A text as the decoder reads it, column by column, and what it looks at.

    Attributes:
      memory: the image's tokens, or the question's once they have looked at it.
      words, positions: of each column; what stands before an answer is seen by no token.
      spec: who attends to whom.
    """

    memory: Memory
    words: Int[Array, "B T"]
    positions: Int[Array, "B T"] | None
    spec: attention.AttentionSpec


class Captioner(SlotsModel, WritingModel, kw_only=True):
    """A vision transformer and a causal decoder that looks at all of its tokens.

    Of transformers, GPT-2's decoder is `norm="pre"`, `activation="gelu_tanh"`, `head="tied"`; BLIP's is BERT's:
    `norm="post"`, `embedding_norm=True`, `final_norm=False`, `head="mlm"`. Either has `cross_every=1`.
    The LSTM is that of Show, Attend and Tell.

    With `question` it answers questions as BLIP does: layers of their own read the question, up to the text's first
    `sep_id`, both ways and with the image; the decoder looks at what they give, and no more at the image. It writes the
    answer, whose positions are counted from that separator, in whose place stands `caption_id`.

    Parameters: `image`, `text`, with `question` that, too.

    What is not listed is as in `ImageTextModel`.

    Attributes:
      text: settings of `TextStack` or `LSTMCaptioner`, `context_length` (the longest text) and `eos_id`.
      decoder: a name in `DECODERS`.
      caption_id: token in place of a text's first one (BLIP's [DEC]); None to leave it.
      question: settings of the `TextStack` that reads questions; None where the decoder reads all of a text.
    """

    question: Mapping[str, Any] | None = None
    decoder: str = "transformer"
    caption_id: int | None = None

    serves: ClassVar[tuple[str, ...]] = ("captions",)
    attention_maps: ClassVar[tuple[str, ...]] = ("written",)

    def setup(self):
        self.image_encoder = self.make_image_tower()
        validate_choice("model.decoder", self.decoder, DECODERS)
        submodules.check_first_id("caption_id", self.caption_id, self.text["vocab_size"])
        if self.question is not None:
            submodules.check_question(self.question, self.text)
            fixed: dict[str, Any] = dict(causal=False, cross_every=1, cross_from=0, cross_mlp=False, head="none")
            fixed |= dict(dtype=self.dtype, ignored=submodules.TEXT_IDS)
            self.reader = build(language.TextStack, "question", self.question, **fixed)
        if self.decoder == "lstm":
            if self.question is not None:
                raise UserError("model.question is read for a decoder of layers; set model.decoder='transformer'")
            ignored = (*submodules.TEXT_IDS, "context_length")
            cls = lstm_captioner.LSTMCaptioner
            self.writer = build(cls, "text", self.text, ignored=ignored, dtype=self.dtype)
            return
        if not self.text.get("causal", True):
            raise UserError("model.text.causal=False would let words see those after them; set it to True")
        submodules.check_cross_attention("text", self.text)
        self.writer = self.make_text_stack()

    def run_writer(self, image, text, text_mask, keys):
        writer = self.writer
        if isinstance(writer, lstm_captioner.LSTMCaptioner):  # padding stands after what is real
            return writer(image, submodules.with_first(text, self.caption_id), keys)
        row = self._row(image, text, text_mask, keys)
        x = writer.embed(row.words, row.positions, keys=keys)
        return writer.logits(writer.run(x, row.spec, keys, memory=row.memory).tokens)

    def start(self, image, text, text_mask, slots):
        writer = self.writer
        if isinstance(writer, lstm_captioner.LSTMCaptioner):
            real = jnp.ones(text.shape, bool) if text_mask is None else text_mask
            return self._read_prompt(writer, image, submodules.with_first(text, self.caption_id), real)
        row = self._row(image, text, text_mask)
        return writer.start(writer.embed(row.words, row.positions), row.spec, slots=slots, memory=row.memory)

    def _row(
        self,
        image: Encoded,
        text: Int[Array, "B T"],
        text_mask: Bool[Array, "B T"] | None,
        keys: Key[Array, " B"] | None = None,
    ) -> _Row:
        """The text, or its answer alone where its question is read by layers of their own."""
        memory = submodules.as_memory(image)
        if self.question is None:
            words = submodules.with_first(text, self.caption_id)
            return _Row(memory, words, None, attention.AttentionSpec(causal=True, valid=text_mask))
        real = jnp.ones(text.shape, bool) if text_mask is None else text_mask
        column = jnp.arange(text.shape[1])[None]
        end = jnp.argmax(text == self.text["sep_id"], axis=1, keepdims=True)  # of a text without one, its first token
        keys = layers.fold_keys(keys, EncoderStream.QUESTION)
        question = self.reader(text, real & (column <= end), memory, keys)
        words = text if self.caption_id is None else jnp.where(column == end, self.caption_id, text)
        spec = attention.AttentionSpec(causal=True, valid=real & (column >= end))
        return _Row(submodules.as_memory(question), words, jnp.maximum(column - end, 0), spec)

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
        """Where the decoder looks: the LSTM's additive attention, or the last layer's cross-attention.

        Where it looks at a question, by way of the question's words: the product of the two.
        """
        del patches
        if self.decoder == "lstm":
            return sown["text"]["weights"][-1].astype(jnp.float32)
        weights = sown_attention.last_cross_attention(sown, "text", "transformer")[:, :words]
        if self.question is None:
            return weights
        return weights @ sown_attention.last_cross_attention(sown, "question", "transformer")

    def __call__(self, images, text, text_mask=None):
        """Scores the token after each text's last position; used to initialise every parameter."""
        return self.caption_logits(self.encode_image(images), text, text_mask)[:, -1]
