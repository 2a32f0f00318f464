"""The MLP of a transformer layer and its activations, whose backward passes keep their input alone."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mmjax.nn.layers import Dense
from mmjax.parallel.mesh import shard_activation


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


def _gating(name: str) -> Callable[[Array, Array], Array]:
    """`activation(gate) * x`, computed in float32; the backward pass keeps both factors alone, in their own type."""
    value, slope = _AGAIN[name]

    @jax.custom_vjp
    def apply(gate, x):
        return (ACTIVATIONS[name](gate.astype(jnp.float32)) * x.astype(jnp.float32)).astype(x.dtype)

    def backward(residuals, gradient):
        gate, x = (part.astype(jnp.float32) for part in residuals)
        wide = gradient.astype(jnp.float32)
        of_gate, of_x = wide * x * slope(gate), wide * value(gate)
        return of_gate.astype(gradient.dtype), of_x.astype(gradient.dtype)

    apply.defvjp(lambda gate, x: (apply(gate, x), (gate, x)), backward)
    return apply


def _gelu_again(x):
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


def _gelu_tanh_again(x):
    return x * jax.lax.logistic(2 * (2 / math.pi) ** 0.5 * (x + 0.044715 * x**3))


def _swish_again(x, rate):
    return x * _sigmoid(rate * x)


# An activation and its derivative for a backward pass, in operations that the forward pass does not have.
_AGAIN = {
    "gelu": (_gelu_again, _gelu_slope),
    "gelu_tanh": (_gelu_tanh_again, _gelu_tanh_slope),
    "quick_gelu": (functools.partial(_swish_again, rate=1.702), functools.partial(_swish_slope, rate=1.702)),
    "relu": (jax.nn.relu, lambda x: (x > 0).astype(x.dtype)),
    "silu": (functools.partial(_swish_again, rate=1.0), functools.partial(_swish_slope, rate=1.0)),
}
GATINGS = {name: _gating(name) for name in ACTIVATIONS}


class Mlp(nn.Module):
    """Two dense layers; of a gated one (arXiv:2002.05202) the activation of `gate` times `fc1` goes into `fc2`.

    Parameters: `fc1` kernel [D, F], `fc2` kernel [F, D], with biases; with `gated`, `gate` as `fc1`; with `inner_norm`,
    `norm` [F].

    Attributes:
      out_dtype: of the result; None for `dtype`.
      gated: SwiGLU with `silu`, GeGLU with `gelu`.
      use_bias: whether the dense layers have biases.
      inner_norm: makes a norm of the hidden units by its name; None for none (arXiv:2110.09456).
    """

    hidden: int
    activation: str
    out_std: float
    dtype: DTypeLike = jnp.float32
    out_dtype: DTypeLike | None = None
    gated: bool = False
    use_bias: bool = True
    inner_norm: Callable[[str], nn.Module] | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        width = x.shape[-1]
        first = {"std": (2 * width) ** -0.5, "dtype": self.dtype, "use_bias": self.use_bias}
        # Each `tensor` device has its own hidden units.
        spread = lambda hidden: shard_activation(hidden, *[None] * (hidden.ndim - 2), "tensor")
        hidden = spread(Dense(self.hidden, **first, name="fc1")(x))
        if self.gated:
            hidden = GATINGS[self.activation](spread(Dense(self.hidden, **first, name="gate")(x)), hidden)
        else:
            hidden = ACTIVATIONS[self.activation](hidden)
        if self.inner_norm is not None:
            hidden = self.inner_norm("norm")(hidden)
        last = Dense(
            width, std=self.out_std, dtype=self.dtype, out_dtype=self.out_dtype, use_bias=self.use_bias, name="fc2"
        )
        return last(hidden)
