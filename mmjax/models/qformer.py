"""Q-Former: learned queries that read an image for a text (BLIP-2's first stage, arXiv:2301.12597)."""

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
from mmjax.nn.dense import broadcast_parameter, dense_float32
from mmjax.utils.random_streams import EncoderStream, ExampleStream


class QFormer(nn.Module):
    """An image tower, usually frozen, and BERT, which reads learned queries and a text; only queries see the image.

    Queries and text share self-attention and have an MLP each. For contrast each is read alone; for matching they see
    each other; for captions the text sees the queries and its own past, and the queries each other alone.

    Parameters: `image`, `queries` [Q, D], `text` (with `caption` also its head), `image_projection`,
    `text_projection`, `logit_scale` (log space, scalar), with `logit_bias_init` `logit_bias`, with `match`
    `match_head`, with `answers` `answer_head`.

    Attributes:
      embed_dim: E, width of the shared space.
      image: settings of `VisionTransformer`.
      text: settings of `TextStack`, and `eos_id`; `cross_every` says which layers look at the image (BLIP-2: 2).
      queries: Q.
      match: a head for image-text matching.
      caption: a head for captions.
      answers: of the head for questions; 0 for none.
      caption_id: token in place of a text's first one when it is a caption (BLIP-2's [DEC]); None to leave it.
      logit_scale_init: of the scale itself, not of its logarithm.
      logit_bias_init: None for no bias.
      dtype: compute type; embeddings and logits are float32.
      image_attention, text_attention: kernels of self-attention, `xla` or `cudnn`.
    """

    embed_dim: int
    image: Mapping[str, Any]
    text: Mapping[str, Any]
    queries: int = 32
    match: bool = False
    caption: bool = False
    answers: int = 0
    caption_id: int | None = None
    logit_scale_init: float = 1 / 0.07
    logit_bias_init: float | None = None
    dtype: DTypeLike = jnp.float32
    image_attention: str = "xla"
    text_attention: str = "xla"

    supported_objectives: ClassVar[tuple[str, ...]] = ("itc", "sigmoid", "triplet", "itm", "caption", "vqa")
    fuse_reads_words: ClassVar[bool] = True  # whether `fuse` reads token ids, not encoded text

    def setup(self):
        submodules.check_looks("text", self.text)
        if self.caption_id is not None and not 0 <= self.caption_id < self.text["vocab_size"]:
            raise errors.UserError(
                f"model.caption_id={self.caption_id} is none of the {self.text['vocab_size']} ids of"
                " model.text.vocab_size; choose one of them, or raise that"
            )
        shared = dict(dtype=self.dtype, attention_impl=self.image_attention)
        self.image_encoder = submodules.build(encoders.VisionTransformer, "image", self.image, **shared)
        shared = dict(dtype=self.dtype, attention_impl=self.text_attention)
        fixed = shared | dict(causal=False, cross_mlp=False, head="mlm" if self.caption else "none")
        self.reader = submodules.build(language.TextStack, "text", self.text, ignored=submodules.TEXT_IDS, **fixed)
        width = self.text["width"]
        self.learned = self.param("queries", nn.initializers.normal(0.02), (self.queries, width), jnp.float32)
        dense = lambda: dense_float32(self.embed_dim, std=width**-0.5, dtype=self.dtype, name=None)
        self.image_projection, self.text_projection = dense(), dense()
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
        """Encodes normalised images: the tower's tokens, which the queries have not read yet."""
        return self.image_encoder(images, dropout.fold_keys(keys, ExampleStream.IMAGE))

    def encode_text(
        self,
        text: Int[Array, "B L"],
        text_mask: Bool[Array, "B L"] | None = None,
        keys: Key[Array, " B"] | None = None,
    ) -> encoders.Encoded:
        """Encodes token ids without queries; padding is seen by no token."""
        keys = dropout.fold_keys(keys, ExampleStream.TEXT)
        spec = attention.AttentionSpec(valid=text_mask)
        out = self.reader.run(self.reader.embed(text, keys=keys), spec, keys, segments=(0, text.shape[1]))
        return encoders.Encoded(out.tokens, text_mask)

    def embed_image(self, image: encoders.Encoded) -> Float[Array, "B Q E"]:
        """Embeds encoded images, each query by itself; rows have unit length. Here nothing is dropped out."""
        x = self._embedded(len(image.tokens), None)
        memory = submodules.as_memory(image)
        out = self.reader.run(x, attention.AttentionSpec(), memory=memory, segments=(self.queries, 0))
        return l2_normalize(self.image_projection(out.tokens))

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
        """Queries and text once they have seen each other, the queries first.

        Args:
          image: what `encode_image` returned.
          text: what `encode_text` returned, of which only `valid` is used: the text is read again.
          words: the text's ids.
          keys: one an example, for dropout.
        """
        return self._read(image, words, text.valid, dropout.fold_keys(keys, ExampleStream.FUSION), causal=False)

    def match_logits(self, fused: encoders.Encoded) -> Float[Array, "B 2"]:
        """Whether image and text belong together, the mean of what the queries say; index 1 says yes."""
        heads.needs("match", self.match)
        return self.match_head(fused.tokens[:, : self.queries]).mean(axis=1)

    def answer_logits(self, fused: encoders.Encoded) -> Float[Array, "B A"]:
        """Scores of the answers to a question, each for itself (sigmoid), from the mean of the queries."""
        heads.needs("answers", self.answers)
        return self.answer_head(fused.tokens[:, : self.queries].mean(axis=1))

    def caption_logits(
        self,
        image: encoders.Encoded,
        text: Int[Array, "B T"],
        text_mask: Bool[Array, "B T"] | None = None,
        keys: Key[Array, " B"] | None = None,
    ) -> Float[Array, "B T V"]:
        """Teacher forcing: logits [:, t] score token t + 1."""
        heads.needs("caption", self.caption)
        read = self._read(
            image, self._as_caption(text), text_mask, dropout.fold_keys(keys, ExampleStream.DECODER), causal=True
        )
        return self.reader.logits(read.tokens[:, self.queries :])

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
        heads.needs("caption", self.caption)
        batch, count = len(text), self.queries
        looked = self.reader.run(
            self._embedded(batch, None),
            attention.AttentionSpec(),
            memory=submodules.as_memory(image),
            segments=(count, 0),
            slots=count + slots,
        )
        # No text token looks at the image: its keys and values need not be kept, nor copied when rows are taken.
        carry = language.Carry(looked.cache.without_memory(), jnp.full(batch, count, jnp.int32))
        x = self.reader.embed(self._as_caption(text))
        tokens, carry = self._go_on(carry, x, attention.AttentionSpec(valid=text_mask))
        return self.reader.logits(submodules.last_valid(tokens, text_mask)[:, None])[:, 0], carry

    def step(self, carry: language.Carry, tokens: Int[Array, " B"]) -> tuple[Float[Array, "B V"], language.Carry]:
        """Reads one more token of each example and scores the next one."""
        x = self.reader.embed(tokens[:, None], (carry.cache.counts - carry.skipped)[:, None])
        read, carry = self._go_on(carry, x, attention.AttentionSpec())
        return self.reader.logits(read)[:, 0], carry

    @staticmethod
    def take(carry: language.Carry, rows: Int[Array, " R"], examples: int | None = None) -> language.Carry:
        """The carry of these rows, which may repeat; `examples` as in `parallel.gather_rows.take_rows`."""
        return carry.take(rows, examples)

    def __call__(self, images, text, text_mask=None):
        """Fuses both, with every head; used to initialise every parameter."""
        # Both segments in one pass, which makes the parameters of every layer.
        fused = self._read(self.encode_image(images), text, text_mask, None, causal=False)
        queries, words = fused.tokens[:, : self.queries], fused.tokens[:, self.queries :]
        out = [self.image_projection(queries), self.text_projection(words[:, 0])]
        out += [self.match_logits(fused)] if self.match else []
        out += [self.reader.logits(words)[:, 0]] if self.caption else []
        return (*out, *([self.answer_logits(fused)] if self.answers else []))

    def _embedded(self, batch: int, keys: Key[Array, " B"] | None) -> Float[Array, "B Q D"]:
        """The learned queries as the layers are given them."""
        x = broadcast_parameter(self.learned, (batch, *self.learned.shape), self.dtype)
        x = self.reader.norm_embed(x) if self.reader.embedding_norm else x
        return dropout.dropout(x, self.reader.dropout, dropout.fold_keys(keys, EncoderStream.QUERIES))

    def _read(self, image, words, valid, keys, *, causal: bool) -> encoders.Encoded:
        """Queries and text in one pass; with `causal` each word sees the queries and the words before it alone."""
        batch, length = words.shape
        x = jnp.concatenate([self._embedded(batch, keys), self.reader.embed(words, keys=keys)], axis=1)
        real = None if valid is None else jnp.pad(valid, ((0, 0), (self.queries, 0)), constant_values=True)
        ar = (jnp.arange(self.queries + length) >= self.queries).astype(jnp.int32) if causal else None
        spec = attention.AttentionSpec(valid=real, ar=ar)
        options = dict(memory=submodules.as_memory(image), segments=(self.queries, length))
        return encoders.Encoded(self.reader.run(x, spec, keys, **options).tokens, real)

    def _go_on(
        self, carry: language.Carry, x: Float[Array, "B P D"], spec: attention.AttentionSpec
    ) -> tuple[Float[Array, "B P D"], language.Carry]:
        """Reads more words."""
        out: transformer.Output = self.reader.run(x, spec, cache=carry.cache, segments=(0, x.shape[1]))
        return out.tokens, carry._replace(cache=out.cache)

    def _as_caption(self, text: Int[Array, "B T"]) -> Int[Array, "B T"]:
        return text if self.caption_id is None else text.at[:, 0].set(self.caption_id)
