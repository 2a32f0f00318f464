"""Elementary layers: dense, patches of an image, layer norm, the MLP of a transformer layer, dropout.

Backward passes keep little, and give float32 gradients of float32 parameters, whatever the compute type. Dropout takes
one random key an example, which meets the same noise however the batch is split into microbatches or over devices.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, overload

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from mmjax.nn import low_rank
from mmjax.parallel.mesh import is_traced_for_gpu, replicate_param, shard_activation
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


# -- layer norm --------------------------------------------------------------------------------------------------------


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


# -- MLP ---------------------------------------------------------------------------------------------------------------


def _keeping_input(function: Callable[[Array], Array], slope: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """An elementwise function, computed in float32, whose backward pass keeps its input alone, in the input's type.

    Args:
      function: of float32.
      slope: its derivative. It is written with other operations than `function`: the compiler would find that both
        compute the same, and keep the result of the forward pass in float32 for the backward pass.
    """

    @jax.custom_vjp
    def apply(x):
        return function(x.astype(jnp.float32)).astype(x.dtype)

    def backward(x, gradient):
        return ((gradient.astype(jnp.float32) * slope(x.astype(jnp.float32))).astype(x.dtype),)

    apply.defvjp(lambda x: (apply(x), x), backward)
    return apply


def _sigmoid(x):
    return 0.5 * (1 + jnp.tanh(0.5 * x))


def _gelu_slope(x):
    return 0.5 * (1 + jax.lax.erf(x * 0.5**0.5)) + x * jnp.exp(-0.5 * x * x) * (2 * math.pi) ** -0.5


def _gelu_tanh_slope(x):
    # gelu_tanh(x) = x sigmoid(2 u(x))
    root = (2 / math.pi) ** 0.5
    sigmoid = jax.lax.logistic(2 * root * (x + 0.044715 * x**3))
    return sigmoid + x * sigmoid * (1 - sigmoid) * 2 * root * (1 + 3 * 0.044715 * x * x)


def _swish_slope(x, rate):
    # Of x sigmoid(rate x).
    sigmoid = _sigmoid(rate * x)
    return sigmoid + rate * x * sigmoid * (1 - sigmoid)


ACTIVATIONS = {
    # OpenCLIP: exact, by erf
    "gelu": _keeping_input(functools.partial(jax.nn.gelu, approximate=False), _gelu_slope),
    # big_vision, Hugging Face SigLIP
    "gelu_tanh": _keeping_input(functools.partial(jax.nn.gelu, approximate=True), _gelu_tanh_slope),
    # OpenAI's CLIP
    "quick_gelu": _keeping_input(lambda x: x * jax.nn.sigmoid(1.702 * x), functools.partial(_swish_slope, rate=1.702)),
    "relu": jax.nn.relu,  # keeps a comparison
    "silu": _keeping_input(jax.nn.silu, functools.partial(_swish_slope, rate=1.0)),
}


class Mlp(nn.Module):
    """Two dense layers. Parameters: `fc1` kernel [D, F], `fc2` kernel [F, D], with biases.

    Attributes:
      out_dtype: of the result; None for `dtype`.
    """

    hidden: int
    activation: str
    out_std: float
    dtype: DTypeLike = jnp.float32
    out_dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        width = x.shape[-1]
        x = Dense(self.hidden, std=(2 * width) ** -0.5, dtype=self.dtype, name="fc1")(x)
        # Each `tensor` device has its own hidden units.
        x = ACTIVATIONS[self.activation](shard_activation(x, *[None] * (x.ndim - 2), "tensor"))
        return Dense(width, std=self.out_std, dtype=self.dtype, out_dtype=self.out_dtype, name="fc2")(x)


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
