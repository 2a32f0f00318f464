"""Dense layers whose backward pass gives float32 gradients of float32 parameters, whatever the compute type."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mmjax.nn.layer_loop import name_product


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def multiply(
    x: Float[Array, "..."], kernel: Float[Array, "..."], axes: int = 1, out_dtype: DTypeLike | None = None
) -> Float[Array, "..."]:
    """Product of activations and a float32 kernel, in the activations' type.

    The kernel's gradient is accumulated and returned in float32: left to autodiff it would be rounded to the compute
    type, and summed over devices in it.

    Args:
      x: activations [*batch, *inputs].
      kernel: float32 parameters [*inputs, *outputs].
      axes: how many axes the inputs have.
      out_dtype: of the result [*batch, *outputs]; None for that of `x`.
    """
    over_inputs = (tuple(range(x.ndim - axes, x.ndim)), tuple(range(axes)))
    return jax.lax.dot_general(x, kernel.astype(x.dtype), (over_inputs, ((), ())), preferred_element_type=out_dtype)


def _multiply_forward(x, kernel, axes, out_dtype):
    return multiply(x, kernel, axes, out_dtype), (x, kernel)


def _multiply_backward(axes, out_dtype, residuals, gradient):
    x, kernel = residuals
    batch = x.ndim - axes
    over_outputs = (tuple(range(batch, gradient.ndim)), tuple(range(axes, kernel.ndim)))
    of_x = jax.lax.dot_general(
        gradient, kernel.astype(x.dtype), (over_outputs, ((), ())), preferred_element_type=x.dtype
    )
    over_batch = (tuple(range(batch)), tuple(range(batch)))
    of_kernel = jax.lax.dot_general(x, gradient, (over_batch, ((), ())), preferred_element_type=kernel.dtype)
    return of_x.astype(x.dtype), of_kernel


multiply.defvjp(_multiply_forward, _multiply_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def broadcast_parameter(parameter: Float[Array, "..."], shape: Sequence[int], dtype: DTypeLike) -> Float[Array, "..."]:
    """A float32 parameter in the compute type, broadcast over the axes in front of its own.

    Its gradient is summed, also over devices, in float32.

    Args:
      parameter: float32 [*own].
      shape: of the result, (..., *own).
      dtype: compute type.
    """
    return jnp.broadcast_to(parameter.astype(dtype), shape)


def _broadcast_forward(parameter, shape, dtype):
    return broadcast_parameter(parameter, shape, dtype), parameter


def _broadcast_backward(shape, dtype, parameter, gradient):
    added = tuple(range(gradient.ndim - parameter.ndim))
    return (gradient.astype(parameter.dtype).sum(axis=added),)


broadcast_parameter.defvjp(_broadcast_forward, _broadcast_backward)


def add_parameter(x: Float[Array, "..."], parameter: Float[Array, "..."]) -> Float[Array, "..."]:
    """Sum of activations [..., *own] and a float32 parameter [*own], as `broadcast_parameter` has it."""
    return x + broadcast_parameter(parameter, x.shape, x.dtype)


class Dense(nn.Module):
    """A linear map of the last axes of its input.

    Parameters: `kernel` float32 [*inputs, *features], and `bias` float32 [*features].

    Attributes:
      features: sizes of the result's last axes.
      std: of the kernel's normal initialisation; None for LeCun's, as `flax.linen.Dense` has it.
      axes: how many axes of the input are mapped.
      dtype: compute type.
      use_bias: whether there is a bias.
      out_dtype: type that products are summed and returned in; None for `dtype`.
      flat: return the features as one axis, in the same order. Not for features that are sharded.
    """

    features: int | Sequence[int]
    std: float | None
    axes: int = 1
    dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    out_dtype: DTypeLike | None = None
    flat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "..."], part: slice = slice(None)) -> Float[Array, "..."]:
        """Maps; `part` chooses, along the first axis of the features, those that are wanted."""
        features = (self.features,) if isinstance(self.features, int) else tuple(self.features)
        inputs = x.shape[x.ndim - self.axes :]
        kernel = self.param("kernel", self._init, (*inputs, *features), jnp.float32)
        if part != slice(None):
            kernel = kernel[(*[slice(None)] * self.axes, part)]
        kernel = kernel.reshape(*inputs, -1) if self.flat else kernel
        y = name_product(multiply(x.astype(self.dtype), kernel, self.axes, self.out_dtype))
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, features, jnp.float32)[part]
            y = add_parameter(y, bias.reshape(-1) if self.flat else bias)
        return y

    def _init(self, key, shape, dtype):
        # Drawn as a matrix, so that the numbers do not depend on how heads are laid out.
        matrix = (math.prod(shape[: self.axes]), math.prod(shape[self.axes :]))
        init = nn.initializers.lecun_normal() if self.std is None else nn.initializers.normal(self.std)
        return init(key, matrix, dtype).reshape(shape)


def dense_float32(features: int, **settings: Any) -> Dense:
    """A dense layer for scores and embeddings: of inputs in `dtype`, summed and returned in float32, as gradients are.

    Rounded to bfloat16, scores would tie that do not, and log-probabilities be off by a per cent; of an embedding each
    number would be off by up to 0.4 %.
    """
    return Dense(features, out_dtype=jnp.float32, **settings)
