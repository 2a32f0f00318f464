"""Multi-head attention, and the one description of who attends to whom."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float


@struct.dataclass
class AttentionSpec:
    """Which keys a query may see. Nothing else in mmjax builds attention masks.

    Attributes:
      causal: query i sees keys 0..i only.
      valid: [B, S] bool, True where the key is real; None when all are. It masks keys only.
    """

    causal: bool = struct.field(pytree_node=False, default=False)
    valid: Bool[Array, "B S"] | None = None


def attend(
    q: Float[Array, "B T H K"], k: Float[Array, "B S H K"], v: Float[Array, "B S H K"], spec: AttentionSpec
) -> Float[Array, "B T H K"]:
    """Scaled dot-product attention under `spec`; softmax in float32. A query without any key outputs 0."""
    mask = None if spec.valid is None else spec.valid[:, None, None, :]
    out = jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=spec.causal)
    if spec.valid is None:
        return out
    # A softmax over nothing but masked keys is uniform over garbage: make it an explicit zero.
    sees = jnp.cumsum(spec.valid, axis=1) > 0 if spec.causal else spec.valid.any(axis=1, keepdims=True)
    return jnp.where(sees[:, :, None, None], out, 0)


def dense_general(features, *, axis=-1, std, dtype, name, use_bias=True) -> nn.DenseGeneral:
    """A dense layer with float32 parameters, normal(`std`) weights and compute in `dtype`."""
    init = nn.initializers.normal(std)
    return nn.DenseGeneral(features, axis=axis, use_bias=use_bias, dtype=dtype, kernel_init=init, name=name)


class SelfAttention(nn.Module):
    """Multi-head self-attention with one fused projection.

    Parameters: `qkv` kernel [D, 3, H, K] and bias [3, H, K]; `out` kernel [H, K, D] and bias [D].
    """

    heads: int
    out_std: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], spec: AttentionSpec) -> Float[Array, "B N D"]:
        width = x.shape[-1]
        head_dim = width // self.heads
        # 'BND,DTHK->BNTHK'
        qkv = dense_general((3, self.heads, head_dim), std=width**-0.5, dtype=self.dtype, name="qkv")(x)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        # 'BNHK,HKD->BND'
        return dense_general(width, axis=(-2, -1), std=self.out_std, dtype=self.dtype, name="out")(
            attend(q, k, v, spec)
        )


class CrossAttention(nn.Module):
    """Multi-head attention of queries over a memory of any width.

    Parameters: `q` kernel [D, H, K]; `kv` kernel [Dm, 2, H, K]; `out` kernel [H, K, D]; each with its bias.
    """

    heads: int
    out_std: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], memory: Float[Array, "B S Dm"], spec: AttentionSpec
    ) -> Float[Array, "B T D"]:
        width, memory_width = x.shape[-1], memory.shape[-1]
        head_dim = width // self.heads
        q = dense_general((self.heads, head_dim), std=width**-0.5, dtype=self.dtype, name="q")(x)
        kv = dense_general((2, self.heads, head_dim), std=memory_width**-0.5, dtype=self.dtype, name="kv")(memory)
        out = attend(q, kv[:, :, 0], kv[:, :, 1], spec)
        return dense_general(width, axis=(-2, -1), std=self.out_std, dtype=self.dtype, name="out")(out)
