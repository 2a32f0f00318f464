"""Multi-head attention, and the one description of who attends to whom."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from mmjax.parallel.activations import place

IMPLEMENTATIONS = ("auto", "cudnn", "xla")


@struct.dataclass
class AttentionSpec:
    """Which keys a query may see. Nothing else in mmjax builds attention masks.

    Attributes:
      causal: query i sees keys 0..i only.
      valid: [B, S] bool, True where the key is real; None when all are. It masks keys only.
      length: how many leading tokens are real, the same for every example; the rest is filling that nobody sees. None
        when all are.
    """

    causal: bool = struct.field(pytree_node=False, default=False)
    valid: Bool[Array, "B S"] | None = None
    length: int | None = struct.field(pytree_node=False, default=None)


def attend(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B S H K"],
    v: Float[Array, "B S H K"],
    spec: AttentionSpec,
    implementation: str = "xla",
) -> Float[Array, "B T H K"]:
    """Scaled dot-product attention under `spec`; softmax in float32. A query without any key outputs 0.

    Args:
      q, k, v: queries, keys and values.
      spec: who attends to whom.
      implementation: `xla`, or `cudnn` where `choose_implementation` says so.
    """
    batch, queries, keys = q.shape[0], q.shape[1], k.shape[1]
    mask, lengths = None, None
    if spec.valid is not None:
        valid = spec.valid if spec.length is None else spec.valid & (jnp.arange(keys) < spec.length)
        # cuDNN wants it whole but for the heads.
        mask = jnp.broadcast_to(valid[:, None, None, :], (batch, 1, queries, keys))
    elif spec.length is not None and not spec.causal:  # filling stands last: a causal query comes before it
        lengths = jnp.full(batch, spec.length, jnp.int32)
    out = jax.nn.dot_product_attention(
        q, k, v, mask=mask, is_causal=spec.causal, key_value_seq_lengths=lengths, implementation=implementation
    )
    if mask is None:
        return out
    # A softmax over nothing but masked keys is uniform over garbage: make it an explicit zero.
    sees = jnp.cumsum(valid, axis=1) > 0 if spec.causal else valid.any(axis=1, keepdims=True)
    return jnp.where(sees[:, :, None, None], out, 0)


def choose_implementation(wanted: str, device: Any, dtype: DTypeLike, head_dim: int) -> tuple[str, str]:
    """Chooses the attention kernel for a kind of device.

    Args:
      wanted: a name in `IMPLEMENTATIONS`; `auto` takes cuDNN's where it applies.
      device: one of those that will run it.
      dtype: compute type.
      head_dim: width of a head.

    Returns:
      `cudnn` or `xla`, and what keeps cuDNN's from applying ('' when nothing does).
    """
    reasons = []
    if not _has_cudnn_attention(device):
        reasons.append("needs an NVIDIA GPU of compute capability 8.0 or newer")
    if dtype not in (jnp.bfloat16, jnp.float16):
        reasons.append("computes in bfloat16 only")
    if head_dim % 8 or head_dim > 128:
        reasons.append(f"wants heads of at most 128 and a multiple of 8, not {head_dim}")
    obstacle = "; ".join(reasons)
    return ("xla" if wanted == "xla" or obstacle else "cudnn"), obstacle


def _has_cudnn_attention(device: Any) -> bool:
    if device.platform != "gpu":
        return False
    try:
        return float(device.compute_capability) >= 8.0
    except (AttributeError, ValueError):  # AMD's are names
        return False


def filled_length(length: int, implementation: str) -> int:
    """How many tokens to give a transformer of `length`, so that its kernel applies: cuDNN's trains on even counts."""
    return length + length % 2 if implementation == "cudnn" else length


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
    implementation: str = "xla"

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], spec: AttentionSpec) -> Float[Array, "B N D"]:
        width = x.shape[-1]
        head_dim = width // self.heads
        # 'BND,DTHK->BNTHK'
        qkv = dense_general((3, self.heads, head_dim), std=width**-0.5, dtype=self.dtype, name="qkv")(x)
        # Each `tensor` device has its own heads.
        q, k, v = (place(qkv[:, :, i], None, "tensor", None) for i in range(3))
        # 'BNHK,HKD->BND'
        return dense_general(width, axis=(-2, -1), std=self.out_std, dtype=self.dtype, name="out")(
            attend(q, k, v, spec, self.implementation)
        )


class CrossAttention(nn.Module):
    """Multi-head attention of queries over a memory of any width, always by XLA's kernel.

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
        k, v = (place(kv[:, :, i], None, "tensor", None) for i in range(2))
        out = attend(place(q, None, "tensor", None), k, v, spec)
        return dense_general(width, axis=(-2, -1), std=self.out_std, dtype=self.dtype, name="out")(out)
