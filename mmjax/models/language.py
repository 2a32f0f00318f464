"""Text through one stack, read or written: BERT, GPT, and decoders that look at an image."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Key

from mmjax.models import encoders
from mmjax.nn import attention, layers, transformer
from mmjax.nn.kv_cache import Cache
from mmjax.nn.layers import Dense, dense_float32, multiply
from mmjax.nn.mlp import ACTIVATIONS
from mmjax.nn.norms import layer_norm
from mmjax.parallel.gather_rows import take_rows
from mmjax.parallel.mesh import embedding_lookup, replicate_param
from mmjax.utils.random_streams import EncoderStream

HEADS = ("none", "tied", "linear", "mlm")


class TextStack(encoders.TransformerTower, kw_only=True):
    """Token embeddings, a transformer that may cross-attend to a memory, and a head over the vocabulary.

    Parameters: `token_embedding` [V, D], with `learned_positions` `position_embedding` [L, D], with `token_types`
    `type_embedding` [types, D], with `embedding_norm` `norm_embed`, `transformer`, with `final_norm` `norm`, and the
    head's: `head` (`linear`: kernel [D, V]), or `head_dense`, `head_norm` and `head_bias` [V] (`mlm`; its matrix is the
    token embedding).

    What is not listed is as in `TransformerTower`; `dropout` is of the embeddings, too.

    Attributes:
      vocab_size, context_length: rows of the token and of the position table.
      causal: each token sees itself and those before it.
      norm: `pre` (GPT) or `post` (BERT).
      token_types: rows of the table of token types (BERT's segments); 0 for none.
      embedding_norm: a layer norm of the embedded tokens (BERT).
      final_norm: a layer norm after the last layer (GPT).
      cross_every, cross_from, cross_mlp, key_bias: see `Transformer`.
      head: over the vocabulary: `none`, `tied` (the token embedding, as GPT-2 does), `linear` (with bias where
        `head_bias`), `mlm` (BERT's: dense, activation, norm, the token embedding, bias).
      head_bias: see `head`.
      learned_positions: there is a table of positions; Llama and Gemma, with `block.rope`, have none.
      embed_scale: embedded tokens are multiplied by the root of the width (Gemma).
    """

    vocab_size: int
    context_length: int
    causal: bool = True
    norm: str = "pre"
    token_types: int = 0
    embedding_norm: bool = False
    final_norm: bool = True
    cross_every: int = 0
    cross_from: int = 0
    cross_mlp: bool = False
    key_bias: bool = True
    head: str = "none"
    head_bias: bool = True
    learned_positions: bool = True
    embed_scale: bool = False

    def setup(self):
        if self.head not in HEADS:
            raise ValueError(f"head={self.head!r} is not known; choose one of: {', '.join(HEADS)}")
        init, norm = nn.initializers.normal, layer_norm
        self.token_embedding = self.param("token_embedding", init(0.02), (self.vocab_size, self.width), jnp.float32)
        if self.learned_positions:
            shape = (self.context_length, self.width)
            self.position_embedding = self.param("position_embedding", init(0.01), shape, jnp.float32)
        if self.token_types:
            self.type_embedding = self.param("type_embedding", init(0.02), (self.token_types, self.width), jnp.float32)
        if self.embedding_norm:
            self.norm_embed = norm(self.norm_eps, self.dtype)
        self.transformer = self.make_transformer(
            norm=self.norm,
            cross_every=self.cross_every,
            cross_from=self.cross_from,
            cross_mlp=self.cross_mlp,
            key_bias=self.key_bias,
        )
        if self.final_norm:
            self.final = self.make_norm("norm")
        std = self.width**-0.5
        if self.head == "linear":
            self.head_linear = dense_float32(
                self.vocab_size, std=std, dtype=self.dtype, name="head", use_bias=self.head_bias
            )
        elif self.head == "mlm":
            self.head_dense = Dense(self.width, std=std, dtype=self.dtype, name="head_dense")
            self.head_norm = norm(self.norm_eps, self.dtype)
            self.output_bias = self.param("head_bias", nn.initializers.zeros, (self.vocab_size,), jnp.float32)

    def embed(
        self,
        text: Int[Array, "B T"],
        positions: Int[Array, "B T"] | None = None,
        types: Int[Array, "B T"] | int = 0,
        keys: Key[Array, " B"] | None = None,
    ) -> Float[Array, "B T D"]:
        """Embeds token ids; `positions` are 0, 1, ... unless given.

        Raises:
          ValueError: more tokens than positions.
        """
        length = text.shape[1]
        if length > self.context_length:
            raise ValueError(f"text of {length} tokens is longer than the model's context_length={self.context_length}")
        x = embedding_lookup(self.token_embedding, text)
        if self.embed_scale:
            x = x * self.width**0.5
        if self.learned_positions:
            x = x + (self.position_embedding[:length] if positions is None else self.position_embedding[positions])
        if self.token_types:
            x = x + self.type_embedding[types]
        x = x.astype(self.dtype)
        x = self.norm_embed(x) if self.embedding_norm else x
        return layers.dropout(x, self.dropout, layers.fold_keys(keys, EncoderStream.EMBEDDING))

    def run(
        self,
        x: Float[Array, "B N D"],
        spec: attention.AttentionSpec,
        keys: Key[Array, " B"] | None = None,
        **options: Any,
    ) -> transformer.Output:
        """Runs embedded tokens through the transformer and the final norm; `options` as `Transformer` has them.

        The rotary position of a token is the number of real tokens before it, those of a cache included.
        """
        if self.is_rotary and options.get("positions") is None:
            options["positions"] = _numbers(x, spec, options.get("cache"))
        out = self.transformer(x, spec, layers.fold_keys(keys, EncoderStream.LAYERS), **options)
        return out._replace(tokens=self.final(out.tokens)) if self.final_norm else out

    def __call__(
        self,
        text: Int[Array, "B T"],
        text_mask: Bool[Array, "B T"] | None = None,
        memory: transformer.Memory | None = None,
        keys: Key[Array, " B"] | None = None,
    ) -> encoders.Encoded:
        """Encodes token ids; what `text_mask` calls padding is seen by no token."""
        spec = attention.AttentionSpec(causal=self.causal, valid=text_mask)
        return encoders.Encoded(self.run(self.embed(text, keys=keys), spec, keys, memory=memory).tokens, text_mask)

    def logits(self, tokens: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Scores over the vocabulary, in float32."""
        if self.head == "linear":
            return self.head_linear(tokens)
        if self.head == "none":
            raise ValueError("head='none' has no logits; choose head='tied', 'linear' or 'mlm'")
        if self.head == "mlm":
            tokens = self.head_norm(ACTIVATIONS[self.activation](self.head_dense(tokens)))
        out = multiply(tokens, replicate_param(self.token_embedding).T, 1, jnp.float32)
        return out + self.output_bias if self.head == "mlm" else out

    def start(
        self,
        prefix: Float[Array, "B P D"],
        spec: attention.AttentionSpec,
        *,
        slots: int,
        memory: transformer.Memory | None = None,
    ) -> tuple[Float[Array, "B V"], "Carry"]:
        """Reads an embedded prefix, for writing what follows it.

        Args:
          prefix: embedded tokens (the first of all texts, or image tokens and a question); each example has at least
            one valid token.
          spec: who attends to whom among them; `valid` tells which are real, in any places.
          slots: tokens in all that will ever be read, the prefix included.
          memory: what cross-attention looks at.

        Returns:
          Logits of the token after the last real one, and what `step` continues from.
        """
        out = self.run(prefix, spec, memory=memory, slots=slots)
        cache = out.kept_cache
        last = prefix.shape[1] - 1 - jnp.argmax(cache.valid[:, : prefix.shape[1]][:, ::-1], axis=1)
        tokens = jnp.take_along_axis(out.tokens, last[:, None, None], axis=1)
        return self.logits(tokens)[:, 0], Carry(cache, jnp.zeros(len(prefix), jnp.int32))

    def step(self, carry: "Carry", tokens: Int[Array, " B"]) -> tuple[Float[Array, "B V"], "Carry"]:
        """Reads one more token of each example and scores the next one.

        The token's position is the number of real tokens before it, less those that `Carry.skipped` counts.
        """
        positions = carry.cache.counts - carry.skipped
        x = self.embed(tokens[:, None], positions[:, None])
        out = self.run(x, attention.AttentionSpec(), cache=carry.cache)
        return self.logits(out.tokens)[:, 0], carry._replace(cache=out.cache)


def _numbers(x, spec, cache):
    """How many real tokens stand before each, [b, N]."""
    start = 0 if cache is None else cache.counts[:, None]
    if spec.valid is None:
        return start + jnp.arange(x.shape[1])[None]
    return start + jnp.maximum(jnp.cumsum(spec.valid, axis=1) - 1, 0)


class Carry(NamedTuple):
    """What a decoder remembers between two tokens.

    Attributes:
      cache: keys and values of all tokens so far.
      skipped: [B] tokens of the prefix that have no text position, such as an image's.
    """

    cache: Cache
    skipped: Int[Array, " B"]

    def take(self, rows: Int[Array, " R"], examples: int | None = None) -> "Carry":
        """That of these rows, which may repeat; `examples` as in `take_rows`."""
        return Carry(self.cache.take(rows, examples), take_rows(self.skipped, rows, 0, examples))
