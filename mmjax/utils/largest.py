"""The largest of numbers, with a derivative that cannot be 0 / 0."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def largest(x: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    """The maximum along an axis; its derivative goes to the first of the largest.

    That of `max` goes to what equals it. Where the compiler computes the numbers twice, with other rounding, nothing
    may, and it is NaN.
    """
    return jnp.take_along_axis(x, jnp.argmax(x, axis, keepdims=True), axis).squeeze(axis)
