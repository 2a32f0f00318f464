"""Softmax cross-entropy against integer targets, in float32, whose backward pass keeps only the logits."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmjax.utils.custom_gradient import custom_vjp


def cross_entropy(
    logits: Float[Array, "*T V"], targets: Int[Array, "*T"], label_smoothing: float = 0.0
) -> Float[Array, "*T"]:
    """`(1 - s) * -log p_target + s * mean_v -log p_v`, each in nats (PyTorch's `cross_entropy(label_smoothing=s)`).

    Autodiff would keep the exponentials in float32, at four bytes a logit; here the backward pass makes them again.

    Args:
      logits: any float type; computed in float32.
      targets: in [0, V).
      label_smoothing: s in [0, 1).

    Raises:
      ValueError: label_smoothing outside of [0, 1).
    """
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing={label_smoothing} must be at least 0 and below 1")
    return _cross_entropy(float(label_smoothing), logits, targets)


def _is_target(logits: Float[Array, "*T V"], targets: Int[Array, "*T"]) -> Bool[Array, "*T V"]:
    """Compared rather than indexed, so that nothing is gathered from or scattered over a sharded vocabulary."""
    return jnp.arange(logits.shape[-1], dtype=targets.dtype) == targets[..., None]


@custom_vjp((0,))
def _cross_entropy(label_smoothing, logits, targets):
    return _forward(label_smoothing, logits, targets)[0]


def _forward(label_smoothing, logits, targets):
    x = logits.astype(jnp.float32)
    lse = jax.nn.logsumexp(x, axis=-1)
    wanted = jnp.sum(jnp.where(_is_target(x, targets), x, 0.0), axis=-1)
    if label_smoothing:
        wanted = (1.0 - label_smoothing) * wanted + label_smoothing * jnp.mean(x, axis=-1)
    return lse - wanted, (logits, targets, lse)


def _backward(label_smoothing, residuals, cotangent):
    logits, targets, lse = residuals
    p = jnp.exp(logits.astype(jnp.float32) - lse[..., None])
    wanted = jnp.where(_is_target(logits, targets), 1.0 - label_smoothing, 0.0) + label_smoothing / logits.shape[-1]
    return ((p - wanted) * cotangent[..., None]).astype(logits.dtype), None


_cross_entropy.defvjp(_forward, _backward)
