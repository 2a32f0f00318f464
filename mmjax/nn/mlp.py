"""The MLP of a transformer layer, and the functions that stand between its two maps."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mmjax.nn.dense import Dense
from mmjax.parallel.activation_sharding import shard_activation


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
