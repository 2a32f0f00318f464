"""Norms over the last axis: layer norm and RMSNorm; statistics are float32.

Backward passes keep the tokens in their own type and the statistics, and give float32 gradients of the parameters.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mmjax.parallel.mesh import is_traced_for_gpu
from mmjax.utils.custom_gradient import custom_vjp


@custom_vjp((3, 4, 5))
def normalize(
    x: Float[Array, "... D"],
    scale: Float[Array, " D"],
    bias: Float[Array, " D"] | None,
    epsilon: float,
    dtype: DTypeLike,
    fenced: bool = False,
) -> Float[Array, "... D"]:
    """Layer norm (arXiv:1607.06450) over the last axis; of float32, with PyTorch's two-pass variance.

    Kept for the backward pass: `x` in its own type, mean and reciprocal deviation of each token in float32. Autodiff
    would keep the float32 copy, the centred and the scaled tokens as well.

    Args:
      x: tokens in any float type.
      scale, bias: float32 parameters; None for no bias.
      epsilon: added to the variance.
      dtype: of the result.
      fenced: keep the compiler from computing the statistics again in the backward pass.
    """
    return _normalize_forward(x, scale, bias, epsilon, dtype, fenced)[0]


def _statistics(x, epsilon):
    """Mean and reciprocal deviation of each token, [..., 1] in float32."""
    if x.dtype == jnp.float32:
        mean = x.mean(axis=-1, keepdims=True)
        variance = jnp.square(x - mean).mean(axis=-1, keepdims=True)
        return mean, jax.lax.rsqrt(variance + epsilon)
    # In one pass: of inputs in half precision this loses 16 times less than their own rounding has lost, for any mean.
    x = x.astype(jnp.float32)
    mean = x.mean(axis=-1, keepdims=True)
    variance = jnp.square(x).mean(axis=-1, keepdims=True) - jnp.square(mean)
    return mean, jax.lax.rsqrt(jnp.maximum(variance, 0) + epsilon)


def _apply(x, mean, rstd, scale, bias, dtype):
    y = (x.astype(jnp.float32) - mean) * (rstd * scale)
    return (y if bias is None else y + bias).astype(dtype)


def _normalize_forward(x, scale, bias, epsilon, dtype, fenced):
    mean, rstd = _statistics(x, epsilon)
    return _apply(x, mean, rstd, scale, bias, dtype), (x, mean, rstd, scale, bias is not None)


def _normalize_backward(epsilon, dtype, fenced, residuals, gradient):
    x, mean, rstd, scale, has_bias = residuals
    if fenced:
        mean, rstd = jax.lax.optimization_barrier((mean, rstd))
    gradient = gradient.astype(jnp.float32)
    normed = (x.astype(jnp.float32) - mean) * rstd
    scaled = gradient * scale
    of_x = rstd * (
        scaled - scaled.mean(axis=-1, keepdims=True) - normed * (scaled * normed).mean(axis=-1, keepdims=True)
    )
    tokens = tuple(range(x.ndim - 1))
    of_scale = (gradient * normed).sum(axis=tokens)
    return of_x.astype(x.dtype), of_scale, gradient.sum(axis=tokens) if has_bias else None


normalize.defvjp(_normalize_forward, _normalize_backward)


class LayerNorm(nn.Module):
    """Layer norm over the last axis. Parameters: `scale` [D] and, with `use_bias`, `bias` [D], in float32.

    Attributes:
      epsilon: added to the variance.
      dtype: of the result; statistics are float32.
      use_bias: whether there is a bias.
    """

    epsilon: float
    dtype: DTypeLike = jnp.float32
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32) if self.use_bias else None
        if x.ndim != 3 or not is_traced_for_gpu():
            return normalize(x, scale, bias, self.epsilon, self.dtype)
        # There the gradients of scale and bias otherwise take four passes over the tokens in place of one. (A TPU would
        # copy the tokens to have them one below the other.)
        flat = normalize(x.reshape(-1, x.shape[-1]), scale, bias, self.epsilon, self.dtype, True)
        return flat.reshape(x.shape)


def layer_norm(epsilon: float, dtype: DTypeLike, name: str | None = None) -> LayerNorm:
    """A layer norm with scale and bias."""
    return LayerNorm(epsilon=epsilon, dtype=dtype, name=name)


# -- RMSNorm -----------------------------------------------------------------------------------------------------------


@custom_vjp((2, 3, 4))
def normalize_rms(
    x: Float[Array, "... D"], scale: Float[Array, " D"], epsilon: float, dtype: DTypeLike, fenced: bool = False
) -> Float[Array, "... D"]:
    """RMSNorm (arXiv:1910.07467) over the last axis: a token over the root of its mean square, times `scale`.

    Kept for the backward pass: `x` in its own type, and one float32 number of each token.

    Args:
      x: tokens in any float type.
      scale: float32 parameter.
      epsilon: added to the mean square.
      dtype: of the result.
      fenced: as in `normalize`.
    """
    return _normalize_rms_forward(x, scale, epsilon, dtype, fenced)[0]


def _normalize_rms_forward(x, scale, epsilon, dtype, fenced):
    wide = x.astype(jnp.float32)
    rms = jax.lax.rsqrt(jnp.square(wide).mean(axis=-1, keepdims=True) + epsilon)
    return (wide * rms * scale).astype(dtype), (x, rms, scale)


def _normalize_rms_backward(epsilon, dtype, fenced, residuals, gradient):
    x, rms, scale = residuals
    if fenced:
        rms = jax.lax.optimization_barrier(rms)
    gradient = gradient.astype(jnp.float32)
    normed = x.astype(jnp.float32) * rms
    scaled = gradient * scale
    of_x = rms * (scaled - normed * (scaled * normed).mean(axis=-1, keepdims=True))
    return of_x.astype(x.dtype), (gradient * normed).sum(axis=tuple(range(x.ndim - 1)))


normalize_rms.defvjp(_normalize_rms_forward, _normalize_rms_backward)


class RMSNorm(nn.Module):
    """RMSNorm over the last axis. Parameter: `scale` [D] in float32.

    Attributes:
      epsilon: added to the mean square.
      dtype: of the result; statistics are float32.
      plus_one: tokens are multiplied by 1 + `scale`, which starts at 0 (Gemma); else by `scale`, from 1 (Llama).
    """

    epsilon: float
    dtype: DTypeLike = jnp.float32
    plus_one: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        init = nn.initializers.zeros if self.plus_one else nn.initializers.ones
        scale = self.param("scale", init, (x.shape[-1],), jnp.float32)
        scale = 1 + scale if self.plus_one else scale
        if x.ndim != 3 or not is_traced_for_gpu():
            return normalize_rms(x, scale, self.epsilon, self.dtype)
        # As `LayerNorm` has it.
        return normalize_rms(x.reshape(-1, x.shape[-1]), scale, self.epsilon, self.dtype, True).reshape(x.shape)


def make_norm(kind: str, epsilon: float, dtype: DTypeLike, name: str | None = None) -> LayerNorm | RMSNorm:
    """A norm of a kind, `layer_norm`, `rms_norm` or `gemma_rms_norm` (see `RMSNorm`).

    Raises:
      ValueError: another kind.
    """
    if kind == "layer_norm":
        return layer_norm(epsilon, dtype, name)
    if kind not in ("rms_norm", "gemma_rms_norm"):
        raise ValueError(f"norm_type={kind!r} is not known; choose layer_norm, rms_norm or gemma_rms_norm")
    return RMSNorm(epsilon, dtype, kind == "gemma_rms_norm", name=name)
