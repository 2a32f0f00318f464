"""Layers of convolutional towers: convolutions of two axes, batch norm with fixed statistics, average pooling.

Kernels are float32 [height, width, inputs / groups, outputs], and get float32 gradients, whatever the compute type.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mmjax.nn.config import STATISTICS
from mmjax.nn.layers import add_parameter, broadcast_parameter
from mmjax.parallel.mesh import replicate_param
from mmjax.utils.custom_gradient import custom_vjp

_FORWARD = ("NHWC", "HWIO", "NHWC")
# Images as channels, and channels as images: the product of inputs and gradients is the kernel's.
_OF_KERNEL = ("CHWN", "IHWO", "HWNC")


@custom_vjp((2, 3, 4))
def convolve(
    x: Float[Array, "B H W C"], kernel: Float[Array, "P Q I O"], stride: int = 1, pad: int = 0, groups: int = 1
) -> Float[Array, "B h w O"]:
    """Convolution of activations with a float32 kernel, in the activations' type.

    Args:
      x: activations.
      kernel: float32 parameters.
      stride: step along both axes.
      pad: zeros on every side.
      groups: of channels that do not see one another; as many as channels for a depthwise convolution.
    """
    return _convolve(x, kernel.astype(x.dtype), stride, pad, groups)


def _convolve(x, kernel, stride, pad, groups):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((pad, pad), (pad, pad)),
        dimension_numbers=_FORWARD,
        feature_group_count=groups,
    )


def _convolve_forward(x, kernel, stride, pad, groups):
    return convolve(x, kernel, stride, pad, groups), (x, kernel)


def _convolve_backward(stride, pad, groups, residuals, gradient):
    x, kernel = residuals
    forward = lambda x: _convolve(x, kernel.astype(x.dtype), stride, pad, groups)
    (of_x,) = jax.linear_transpose(forward, x)(gradient)
    # The last rows and columns of a stride that does not divide are read by no window.
    sizes = zip(kernel.shape[:2], gradient.shape[1:3], x.shape[1:3], strict=True)
    ends = [window + (count - 1) * stride - pad - length for window, count, length in sizes]
    of_kernel = jax.lax.conv_general_dilated(
        x,
        gradient,
        (1, 1),
        [(pad, end) for end in ends],
        rhs_dilation=(stride, stride),
        dimension_numbers=_OF_KERNEL,
        batch_group_count=groups,
        preferred_element_type=kernel.dtype,
    )
    return of_x, of_kernel


convolve.defvjp(_convolve_forward, _convolve_backward)


class Conv(nn.Module):
    """A convolution of two axes. Parameters: `kernel` [size, size, inputs / groups, features], `bias` [features].

    Attributes:
      features: of the result.
      size: of the window's sides.
      stride: of the windows.
      pad: zeros on every side.
      groups: of channels that do not see one another.
      use_bias: whether there is a bias.
      std: of the kernel's normal initialisation; None for He's, sqrt(2 / inputs).
      dtype: compute type.
    """

    features: int
    size: int
    stride: int = 1
    pad: int = 0
    groups: int = 1
    use_bias: bool = False
    std: float | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w F"]:
        shape = (self.size, self.size, x.shape[-1] // self.groups, self.features)
        std = math.sqrt(2 / math.prod(shape[:3])) if self.std is None else self.std
        kernel = self.param("kernel", nn.initializers.normal(std), shape, jnp.float32)
        y = convolve(x.astype(self.dtype), replicate_param(kernel), self.stride, self.pad, self.groups)
        if self.use_bias:
            y = add_parameter(y, self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32))
        return y


class FixedBatchNorm(nn.Module):
    """Batch norm (arXiv:1502.03167) by statistics that stay as they are: an affine map of each channel.

    Parameters: `scale`, `bias`, `running_mean`, `running_var` [C]; the last two get no gradient.

    Attributes:
      epsilon: added to the variance.
      dtype: compute type.
    """

    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... C"]) -> Float[Array, "... C"]:
        values: dict[str, Any] = {}
        for name in ("scale", "bias", *STATISTICS):
            init = nn.initializers.ones if name in ("scale", "running_var") else nn.initializers.zeros
            values[name] = self.param(name, init, (x.shape[-1],), jnp.float32)
        mean, variance = (jax.lax.stop_gradient(values[name]) for name in STATISTICS)
        scale = values["scale"] * jax.lax.rsqrt(variance + self.epsilon)
        x = x.astype(self.dtype) * broadcast_parameter(scale, x.shape, self.dtype)
        return add_parameter(x, values["bias"] - mean * scale)


def average_pool(x: Float[Array, "B H W C"], size: int) -> Float[Array, "B h w C"]:
    """Means of windows side by side; rows and columns beyond the last whole window are left out, as PyTorch does."""
    if size == 1:
        return x
    batch, height, width, channels = x.shape
    rows, columns = height // size, width // size
    x = x[:, : rows * size, : columns * size].reshape(batch, rows, size, columns, size, channels)
    return x.mean(axis=(2, 4))
