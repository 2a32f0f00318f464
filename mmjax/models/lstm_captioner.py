"""An LSTM that writes captions while it looks at the image."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from mmjax.models.encoders import Encoded
from mmjax.nn.layers import Dense, dropout, fold_keys
from mmjax.nn.lstm import LSTM, LSTMCarry
from mmjax.parallel.gather_rows import take_rows
from mmjax.parallel.mesh import embedding_lookup
from mmjax.utils.random_streams import LSTMCaptionerStream, LSTMReadoutStream


class CaptionerCarry(NamedTuple):
    """All that the next step needs; every leaf has its rows at axis 0.

    Attributes:
      state: of the LSTM.
      tokens: the image's.
      keys: what attention compares them by.
      valid: True where an image token is real; None when all are.
    """

    state: LSTMCarry
    tokens: Float[Array, "R N Dm"]
    keys: Float[Array, "R N A"]
    valid: Bool[Array, "R N"] | None

    def take(self, rows: Int[Array, " R2"], examples: int | None = None) -> "CaptionerCarry":
        """That of these rows, which may repeat; `examples` as in `take_rows`."""
        return take_rows(self, rows, 0, examples)


class LSTMCaptioner(nn.Module):
    """Show, Attend and Tell with soft attention (arXiv:1502.03044), over any encoder's tokens.

    At each step the LSTM's last output asks, by additive attention, for a weighted mean of the image's tokens, gated by
    a learned scalar; the LSTM reads it with the embedding of the last word, and word, output and mean together give
    the next word's logits. The first state is computed from the mean token.

    Attributes:
      vocab_size: rows of the token embedding, and logits.
      width: of the LSTM and of the attention.
      embed_width: of the word embedding.
      layers: of the LSTM.
      dropout: rate on embeddings, between layers and before the logits.
      dtype: compute type; attention weights, the LSTM's state and logits are float32.
    """

    vocab_size: int
    width: int
    embed_width: int
    layers: int = 1
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    def setup(self):
        init = nn.initializers.normal(self.embed_width**-0.5)
        self.token_embedding = self.param("token_embedding", init, (self.vocab_size, self.embed_width), jnp.float32)
        dense = functools.partial(Dense, std=None, dtype=self.dtype)
        self.first_c = dense(self.layers * self.width)
        self.first_h = dense(self.layers * self.width)
        self.attention_key = dense(self.width)
        self.attention_query = dense(self.width, use_bias=False)
        self.attention_score = dense(1, use_bias=False)
        self.attention_gate = dense(1)
        self.lstm = LSTM(self.width, self.layers, self.dropout, self.dtype)
        self.from_state = dense(self.embed_width)
        self.from_image = dense(self.embed_width, use_bias=False)
        self.logits = dense(self.vocab_size, out_dtype=jnp.float32)

    def __call__(
        self, image: Encoded, text: Int[Array, "B T"], keys: Key[Array, " B"] | None = None
    ) -> Float[Array, "B T V"]:
        """Logits of the token after each of `text`, given those up to it (teacher forcing); `keys` turn dropout on.

        Sows `weights` [B, T, N], how much each image token counts for each next token: 1 in all, or 0 for an image
        without any.
        """
        logits, weights = self._read(image, text, keys)
        self.sow("intermediates", "weights", weights)
        return logits

    def start(self, image: Encoded) -> CaptionerCarry:
        """What generation starts from: `step` it over `bos` for the first token's logits."""
        tokens = image.tokens.astype(self.dtype)
        if image.valid is None:
            mean = tokens.mean(axis=1)
        else:
            tokens = jnp.where(image.valid[:, :, None], tokens, 0)
            mean = tokens.sum(axis=1) / jnp.maximum(image.valid.sum(axis=1, keepdims=True), 1).astype(self.dtype)
        shape = (len(tokens), self.layers, self.width)
        c, h = (jnp.tanh(dense(mean)).astype(jnp.float32).reshape(shape) for dense in (self.first_c, self.first_h))
        return CaptionerCarry(LSTMCarry(c, h), tokens, self.attention_key(tokens), image.valid)

    def step(self, carry: CaptionerCarry, tokens: Int[Array, " R"]) -> tuple[Float[Array, "R V"], CaptionerCarry]:
        """Reads one more token of each row: the logits of the next one, and the carry after it."""
        words = embedding_lookup(self.token_embedding, tokens).astype(self.dtype)
        state, (out, seen, _) = self._advance(carry, carry.state, words, None)
        return self._logits(words, out, seen, None), carry._replace(state=state)

    def _read(self, image, text, keys):
        carry = self.start(image)
        words = embedding_lookup(self.token_embedding, text).astype(self.dtype)
        words = dropout(words, self.dropout, fold_keys(keys, LSTMCaptionerStream.WORDS))
        step_keys = fold_keys(keys, LSTMCaptionerStream.STEPS)

        def read(module, state, words, count):
            return module._advance(carry, state, words, fold_keys(step_keys, count))

        axes: dict[str, Any] = {"in_axes": (1, 0), "out_axes": 1}  # flax takes trees of axes, and types none
        scan = nn.scan(read, variable_broadcast="params", split_rngs={"params": False}, **axes)
        _, (out, seen, weights) = scan(self, carry.state, words, jnp.arange(text.shape[1]))
        return self._logits(words, out, seen, fold_keys(keys, LSTMCaptionerStream.READOUT)), weights

    def _advance(self, carry, state, words, keys):
        """One step of attention and LSTM: the new state; and output, what was seen, and by which weights."""
        query = state.h[:, -1].astype(self.dtype)
        # 'BNA,BA->BN'
        scores = self.attention_score(jnp.tanh(carry.keys + self.attention_query(query)[:, None]))[..., 0]
        scores = scores.astype(jnp.float32)
        if carry.valid is None:
            weights = jax.nn.softmax(scores)
        else:  # a finite number, so that an image without any token has finite gradients
            weights = jnp.where(carry.valid, jax.nn.softmax(jnp.where(carry.valid, scores, -1e30)), 0)
        seen = jnp.einsum("BN,BND->BD", weights.astype(self.dtype), carry.tokens)
        seen = nn.sigmoid(self.attention_gate(query)) * seen
        state, out = self.lstm.step(state, jnp.concatenate([words, seen], axis=-1), keys)
        return state, (out, seen, weights)

    def _logits(self, words, out, seen, keys):
        x = words + self.from_state(dropout(out, self.dropout, keys)) + self.from_image(seen)
        return self.logits(dropout(x, self.dropout, fold_keys(keys, LSTMReadoutStream.SUM)))
