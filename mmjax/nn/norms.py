"""Layer norm with float32 statistics and a backward pass that keeps its input and two numbers a token."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mmjax.parallel.activation_sharding import is_traced_for_gpu


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
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
    return _forward(x, scale, bias, epsilon, dtype, fenced)[0]


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


def _forward(x, scale, bias, epsilon, dtype, fenced):
    mean, rstd = _statistics(x, epsilon)
    return _apply(x, mean, rstd, scale, bias, dtype), (x, mean, rstd, scale, bias is not None)


def _backward(epsilon, dtype, fenced, residuals, gradient):
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


normalize.defvjp(_forward, _backward)


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
