"""The head of a convolutional tower: tokens are pooled, and projected to the shared space in float32."""

import math

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mmjax.models.encoders import Encoded
from mmjax.models.image_config import CONV_STRIDE
from mmjax.nn.attention import AttentionSpec, MultiHeadAttention, attend, attention_weights
from mmjax.nn.layers import Dense, add_parameter, dense_float32
from mmjax.nn.mlp import ACTIVATIONS
from mmjax.nn.norms import layer_norm
from mmjax.nn.positions import resample_positions
from mmjax.parallel.mesh import shard_activation


class AttentionPool(MultiHeadAttention):
    """OpenAI's pool of ResNets: the mean of the tokens looks at itself and at them, all with positions.

    Parameters: `position_embedding` [1 + side^2, D], `q` kernel [D, H, K], `kv` kernel [D, 2, H, K], with biases. What
    it gives is for the head to project.

    Attributes:
      side: cells of an image's side that the table of positions is made for; it is resampled for other images.
    """

    side: int = 7

    @nn.compact
    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B D"]:
        batch, count, width = tokens.shape
        x = jnp.concatenate([tokens.mean(axis=1, keepdims=True), tokens], axis=1)
        shape, grid = (1 + self.side**2, width), 2 * (math.isqrt(count),)
        table = self.param("position_embedding", nn.initializers.normal(width**-0.5), shape, jnp.float32)
        x = add_parameter(x, resample_positions(table, (self.side, self.side), grid, prefix=1))
        size = (self.heads, width // self.heads)
        q = Dense(size, std=width**-0.5, dtype=self.dtype, name="q")(x[:, :1])
        kv = Dense((2, *size), std=width**-0.5, dtype=self.dtype, name="kv")(x)
        q, k, v = (shard_activation(part, None, "tensor", None) for part in (q, kv[:, :, 0], kv[:, :, 1]))
        if self.is_mutable_collection("intermediates"):
            self.sow("intermediates", "weights", attention_weights(q, k, AttentionSpec()))
        return attend(q, k, v, AttentionSpec()).reshape(batch, width)


class ConvHead(nn.Module):
    """Pools a tower's tokens and projects them.

    Parameters: `attention`, `norm`, and `projection` or `fc1` and `fc2` (without bias), where there are such.

    Attributes:
      embed_dim: E.
      pool, pool_norm, pool_heads, projection: as in `image_config.ConvTowerConfig`.
      norm_eps: epsilon of the layer norm.
      image_size: pixels of a side that positions are made for.
    """

    embed_dim: int
    pool: str
    pool_norm: bool
    pool_heads: int
    projection: str
    norm_eps: float
    image_size: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, encoded: Encoded) -> Float[Array, "B E"]:
        x, width = encoded.tokens, encoded.tokens.shape[-1]
        if self.pool == "attention":
            side = self.image_size // CONV_STRIDE
            x = AttentionPool(self.pool_heads, 0.0, self.dtype, side=side, name="attention")(x)
        else:
            x = x.mean(axis=1)
        if self.pool_norm:
            x = layer_norm(self.norm_eps, self.dtype, "norm")(x)
        if self.projection == "none":
            return x.astype(jnp.float32)
        std = width**-0.5
        if self.projection == "mlp":
            x = Dense(2 * self.embed_dim, std=std, dtype=self.dtype, name="fc1")(x)
            std = (2 * self.embed_dim) ** -0.5
            return dense_float32(self.embed_dim, std=std, dtype=self.dtype, name="fc2", use_bias=False)(
                ACTIVATIONS["gelu"](x)
            )
        bias = self.projection == "bias"
        return dense_float32(self.embed_dim, std=std, dtype=self.dtype, name="projection", use_bias=bias)(x)
