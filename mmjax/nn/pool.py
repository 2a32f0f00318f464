"""Pooling of tokens into one vector (or a few)."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from mmjax.nn import attention
from mmjax.nn.cross_attention import CrossAttention
from mmjax.nn.layers import broadcast_parameter
from mmjax.nn.mlp import Mlp
from mmjax.nn.norms import layer_norm

POOLS = ("cls", "mean", "last", "eos", "map")
OF_ONE_TOKEN = ("cls", "last", "eos")


def pooled_position(
    kind: str | None, shape: tuple[int, ...], eos: Int[Array, " B"] | None = None
) -> Int[Array, " B"] | None:
    """The token of each example that a pool reads; None for one that reads several.

    Args:
      kind: of the pool.
      shape: of the tokens, (B, N).
      eos: position of the end-of-text token.
    """
    if kind not in OF_ONE_TOKEN:
        return None
    return eos if kind == "eos" else jnp.full(shape[0], 0 if kind == "cls" else shape[1] - 1, jnp.int32)


class Pool(nn.Module):
    """Pools [B, N, D] tokens into [B, D], or into [B, queries, D].

    Attributes:
      kind: `cls` (token 0), `mean` (over valid tokens but for the first `prefix`), `last` (the last position, padding
        or not, as SigLIP's text tower does), `eos` (the first end-of-text token, as CLIP's does) or `map` (multi-head
        attention pooling by learned queries, arXiv:2106.04560).
      heads, activation, norm_eps: of the `map` pool.
      mlp_dim: of the residual MLP after the `map` pool; 0 for none (CoCa's attentional pooler, arXiv:2205.01917).
      queries: learned queries of the `map` pool; the result of one has no axis for it.
      width: of the queries and so of the result; 0 for the tokens' own.
      norm_inputs: layer norms of queries and tokens before they attend (CoCa).
      out_dtype: of the result; the last product and sum of the `map` pool are then made in it. None for `dtype`.
      prefix: tokens before the patches (class token, registers), which a `mean` leaves out.
    """

    kind: str
    heads: int = 1
    mlp_dim: int = 0
    activation: str = "gelu"
    norm_eps: float = 1e-6
    dtype: DTypeLike = jnp.float32
    queries: int = 1
    width: int = 0
    norm_inputs: bool = False
    out_dtype: DTypeLike | None = None
    prefix: int = 0

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "B N D"],
        valid: Bool[Array, "B N"] | None = None,
        eos: Int[Array, " B"] | None = None,
    ) -> Float[Array, "B *queries E"]:
        """Pools; `eos` is the position of the end-of-text token, which the `eos` kind needs."""
        x = self._pooled(tokens, valid, eos)
        return x if self.out_dtype is None else x.astype(self.out_dtype)

    def _pooled(self, tokens, valid, eos):
        if self.kind == "cls":
            return tokens[:, 0]
        if self.kind == "last":
            return tokens[:, -1]
        if self.kind == "eos":
            return attention.take_tokens(tokens, eos)[:, 0]
        if self.kind == "mean":
            if self.prefix:
                tokens, valid = tokens[:, self.prefix :], None if valid is None else valid[:, self.prefix :]
            if valid is None:
                return tokens.mean(axis=1)
            count = jnp.maximum(valid.sum(axis=1, keepdims=True), 1)
            return jnp.where(valid[..., None], tokens, 0).sum(axis=1) / count.astype(tokens.dtype)
        if self.kind == "map":
            return self._map(tokens, valid)
        raise ValueError(f"pool={self.kind!r} is not known; choose one of: {', '.join(POOLS)}")

    def _map(self, tokens, valid):
        width = self.width or tokens.shape[-1]
        std = width**-0.5
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, self.queries, width), jnp.float32)
        query = broadcast_parameter(probe[0], (tokens.shape[0], self.queries, width), self.dtype)
        if self.norm_inputs:
            query = layer_norm(self.norm_eps, self.dtype, "norm_query")(query)
            tokens = layer_norm(self.norm_eps, self.dtype, "norm_memory")(tokens)
        spec = attention.AttentionSpec(valid=valid)
        x, _ = CrossAttention(self.heads, std, self.dtype, name="attention")(query, tokens, spec)
        if self.mlp_dim:
            y = layer_norm(self.norm_eps, self.dtype, "norm")(x)
            y = Mlp(self.mlp_dim, self.activation, std, self.dtype, out_dtype=self.out_dtype, name="mlp")(y)
            x = x.astype(y.dtype) + y
        return x[:, 0] if self.queries == 1 else x
