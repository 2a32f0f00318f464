"""Elementary layers: dense, patches of an image, dropout.

Backward passes keep little, and give float32 gradients of float32 parameters, whatever the compute type. Dropout takes
one random key an example, which meets the same noise however the batch is split into microbatches or over devices.
"""

import math
from collections.abc import Sequence
from typing import Any, overload

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from mmjax.nn import low_rank
from mmjax.parallel.mesh import replicate_param
from mmjax.utils.custom_gradient import custom_vjp

# Names for the policies of what is computed again in the backward pass: jax's own look for matrix products does not see
# into layers with a backward pass of their own.
ATTENTION_OUTPUT, PRODUCT = "attention_output", "product"

# -- dense -------------------------------------------------------------------------------------------------------------


@custom_vjp((2, 3))
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


@custom_vjp((1, 2))
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


@custom_vjp(())
def scale_by_parameter(x: Float[Array, "... D"], parameter: Float[Array, " D"]) -> Float[Array, "... D"]:
    """Product of activations and a float32 parameter, in the activations' type; its gradient is summed in float32."""
    return (x.astype(jnp.float32) * parameter).astype(x.dtype)


def _scale_forward(x, parameter):
    return scale_by_parameter(x, parameter), (x, parameter)


def _scale_backward(residuals, gradient):
    x, parameter = residuals
    gradient = gradient.astype(jnp.float32)
    of_parameter = (gradient * x.astype(jnp.float32)).sum(axis=tuple(range(x.ndim - 1)))
    return (gradient * parameter).astype(x.dtype), of_parameter


scale_by_parameter.defvjp(_scale_forward, _scale_backward)


class Dense(nn.Module):
    """A linear map of the last axes of its input.

    Parameters: `kernel` float32 [*inputs, *features], and `bias` float32 [*features], without what is `unbiased`.

    Attributes:
      features: sizes of the result's last axes.
      std: of the kernel's normal initialisation; None for LeCun's, as `flax.linen.Dense` has it.
      axes: how many axes of the input are mapped.
      dtype: compute type.
      use_bias: whether there is a bias.
      out_dtype: type that products are summed and returned in; None for `dtype`.
      flat: return the features as one axis, in the same order. Not for features that are sharded.
      unbiased: along the first axis of the features, which of them have no bias; None for none such.
    """

    features: int | Sequence[int]
    std: float | None
    axes: int = 1
    dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    out_dtype: DTypeLike | None = None
    flat: bool = False
    unbiased: int | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "..."], part: slice = slice(None)) -> Float[Array, "..."]:
        """Maps; `part` chooses, along the first axis of the features, those that are wanted."""
        features = (self.features,) if isinstance(self.features, int) else tuple(self.features)
        inputs = x.shape[x.ndim - self.axes :]
        kernel = self.param("kernel", self._init, (*inputs, *features), jnp.float32)
        if part != slice(None):
            kernel = kernel[(*[slice(None)] * self.axes, part)]
        kernel = kernel.reshape(*inputs, -1) if self.flat else kernel
        x = x.astype(self.dtype)
        y = checkpoint_name(multiply(x, kernel, self.axes, self.out_dtype), PRODUCT)
        if any(map(low_rank.is_adapter, self.variables["params"])):
            product = lambda a, b: multiply(checkpoint_name(multiply(x, a, self.axes), PRODUCT), b, 1, self.out_dtype)
            y = low_rank.add_adapters(self.variables["params"], self.name, part, y, product)
        if self.use_bias:
            biased = (features[0] - (self.unbiased is not None), *features[1:])
            bias = self.param("bias", nn.initializers.zeros, biased, jnp.float32)
            bias = (bias if self.unbiased is None else jnp.insert(bias, self.unbiased, 0.0, axis=0))[part]
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


class PatchEmbed(nn.Module):
    """Non-overlapping image patches through one linear map.

    Parameters: kernel [P, P, C, D] (as a convolution's HWIO), optional bias [D].
    """

    width: int
    patch_size: int
    use_bias: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"]) -> Float[Array, "B N D"]:
        p = self.patch_size
        batch, height, width, channels = images.shape
        if height % p or width % p:
            raise ValueError(f"an image of {height}x{width} pixels does not divide into patches of {p} pixels")
        init = nn.initializers.normal((p * p * channels) ** -0.5)
        kernel = self.param("kernel", init, (p, p, channels, self.width), jnp.float32)
        patches = images.astype(self.dtype).reshape(batch, height // p, p, width // p, p, channels).swapaxes(2, 3)
        x = multiply(patches, replicate_param(kernel), 3).reshape(batch, -1, self.width)
        if self.use_bias:
            x = add_parameter(x, self.param("bias", nn.initializers.zeros, (self.width,), jnp.float32))
        return x


# -- dropout -----------------------------------------------------------------------------------------------------------


@overload
def fold_keys(keys: Key[Array, " B"], data: int | Array) -> Key[Array, " B"]: ...
@overload
def fold_keys(keys: None, data: int | Array) -> None: ...
@overload
def fold_keys(keys: Key[Array, " B"] | None, data: int | Array) -> Key[Array, " B"] | None: ...
def fold_keys(keys: Key[Array, " B"] | None, data: int | Array) -> Key[Array, " B"] | None:
    """Derives another independent set of per-example keys; None stays None (evaluation)."""
    return None if keys is None else jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, data)


def dropout(
    x: Float[Array, "B ..."],
    rate: float,
    keys: Key[Array, " B"] | None,
    chosen: Int[Array, " B"] | None = None,
    length: int = 0,
) -> Float[Array, "B ..."]:
    """Zeroes each element with probability `rate` and rescales the rest; the identity when `keys` is None.

    Args:
      x: activations.
      rate: share that is zeroed.
      keys: one an example.
      chosen: the token, of `length`, that `x` [B, 1, D] holds of each example: its noise is what it would be among all.
      length: tokens of an example.
    """
    if keys is None or rate == 0.0:
        return x
    if chosen is None:
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, x.shape[1:]))(keys)
    else:
        draw = lambda key, token: jax.random.bernoulli(key, 1.0 - rate, (length, *x.shape[2:]))[token][None]
        keep = jax.vmap(draw)(keys, chosen)
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)
