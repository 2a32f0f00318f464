"""The attention kernel for a kind of device."""

from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from mmjax.nn.tpu_tiles import group_of_heads

IMPLEMENTATIONS = ("auto", "cudnn", "pallas", "xla")


def choose_implementation(wanted: str, device: Any, dtype: DTypeLike, heads: int, head_dim: int) -> tuple[str, str]:
    """Chooses the attention kernel for a kind of device.

    Args:
      wanted: a name in `IMPLEMENTATIONS`; `auto` takes cuDNN's or, on a TPU, mmjax's own (`tpu_attention`, which is
        written in jax's Pallas) where they apply.
      device: one of those that will run it.
      dtype: compute type.
      heads: how many.
      head_dim: width of a head.

    Returns:
      `cudnn`, `pallas` or `xla`, and what keeps a fused kernel from applying ('' when nothing does). `pallas` is for
      the shapes and masks that it knows; `SelfAttention` takes XLA's for the others.
    """
    fused = {"cudnn": "cudnn", "pallas": "pallas"}.get(wanted, "pallas" if device.platform == "tpu" else "cudnn")
    reasons = []
    if fused == "cudnn" and not _has_cudnn_attention(device):
        reasons.append("needs an NVIDIA GPU of compute capability 8.0 or newer")
    if fused == "pallas" and device.platform != "tpu":
        reasons.append("needs a TPU")
    if dtype != jnp.bfloat16 and (fused == "pallas" or dtype != jnp.float16):
        reasons.append("computes in bfloat16 only")
    if fused == "cudnn" and (head_dim % 8 or head_dim > 128):
        reasons.append(f"wants heads of at most 128 and a multiple of 8, not {head_dim}")
    if fused == "pallas" and not (head_dim % 8 == 0 and 64 <= head_dim <= 128 and group_of_heads(heads, head_dim)):
        reasons.append(f"wants heads of 64 to 128, a multiple of 8, that fill lanes of 128, not {heads} of {head_dim}")
    obstacle = "; ".join(reasons)
    return ("xla" if wanted == "xla" or obstacle else fused), obstacle


def _has_cudnn_attention(device: Any) -> bool:
    if device.platform != "gpu":
        return False
    try:
        return float(device.compute_capability) >= 8.0
    except (AttributeError, ValueError):  # AMD's are names
        return False
