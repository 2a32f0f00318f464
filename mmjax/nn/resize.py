"""Cropping and resizing on the device, with Pillow's filters: two products with matrices made from the crops' boxes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, UInt8

UNIT = 8  # parts of a pixel, the unit of boxes: libjpeg divides by up to 8
_PARTS = 2.0**22  # what Pillow rounds weights to


def resize_frames(
    frames: UInt8[Array, "B F F 3"], boxes: Int32[Array, "B 8"], size: int, interpolation: str
) -> Float[Array, "B S S 3"]:
    """Resizes the box of each frame to a square, as `PIL.Image.resize(box=...)` does.

    That is a horizontal pass, rounded and clipped to 8 bits, then a vertical one, likewise; or the vertical one first.
    Pillow sums whole numbers and this float32, so that a sum beside a half may be rounded to the other side of it.

    Args:
      frames: pictures, each in the top left corner of its frame.
      boxes: of the crops: left, top, right, bottom in `UNIT`s from the frame's corner, width and height in pixels of
        what the frame holds, 1 where the result is mirrored, and 1 where the vertical pass comes first.
      size: S, side of the result.
      interpolation: `bicubic` (a = -0.5) or `bilinear`, antialiased.

    Returns:
      Whole numbers from 0 to 255.
    """
    side = frames.shape[1]
    left, top, right, bottom, width, height, flip, vertical = jnp.moveaxis(boxes, 1, 0)
    # Where the vertical pass comes first, rows and columns change places before and after.
    swap = vertical == 1
    choose = lambda one, other: jnp.where(swap, other, one)
    first = _weights(
        choose(left, top), choose(right, bottom), choose(width, height), choose(flip, 0), size, side, interpolation
    )
    second = _weights(
        choose(top, left), choose(bottom, right), choose(height, width), choose(0, flip), size, side, interpolation
    )
    swap = swap[:, None, None, None]
    # Whole numbers below 256 are exact in bfloat16. The barriers make XLA write that, in the order in which the product
    # reads it, in place of float32: two thirds of the bytes in all.
    pixels = jax.lax.optimization_barrier(jnp.where(swap, frames, frames.swapaxes(1, 2)).astype(jnp.bfloat16))
    # The bilinear filter's sums are often halves: fractions of few pixels.
    product = _exact_product if interpolation == "bilinear" else _product
    narrow = jax.lax.optimization_barrier(_rounded(product("bsx,bxyc->bysc", first, pixels)).astype(jnp.bfloat16))
    result = _rounded(product("bty,bysc->btsc", second, narrow))
    return jnp.where(swap, result.swapaxes(1, 2), result)


def _product(spec: str, weights: Array, values: Array) -> Array:
    return jnp.einsum(spec, weights, values.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)


def _exact_product(spec: str, weights: Array, values: Array) -> Array:
    """The product of whole numbers below 256 with weights of 22 bits, as far as rounding it to a whole number needs it.

    Each half of the weights' bits gives sums that float32 holds.
    """
    upper = jnp.round(weights * 2.0**11) / 2.0**11
    above, below = _product(spec, upper, values), _product(spec, weights - upper, values)
    rounded = jnp.floor(above + 0.5)
    return rounded + jnp.floor(above + 0.5 - rounded + below)


def _rounded(values: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.clip(jnp.floor(values + 0.5), 0.0, 255.0)


def _weights(
    start: Int32[Array, " B"],
    stop: Int32[Array, " B"],
    length: Int32[Array, " B"],
    flip: Int32[Array, " B"],
    size: int,
    side: int,
    interpolation: str,
) -> Float[Array, "B S F"]:
    """The filters of one axis, as in Pillow's Resample.c: row s has the weights of the source in the result's pixel s.

    Args:
      start, stop: of the box, in `UNIT`s.
      length: of what the frame holds; pixels beyond it have no weight.
      flip: 1 where the result is mirrored.
      size: S.
      side: F.
      interpolation: see `resize_frames`.
    """
    start, extent, length, flip = (x[:, None, None] for x in (start, stop - start, length, flip))
    target, source = jnp.arange(size)[None, :, None], jnp.arange(side)[None, None, :]
    target = jnp.where(flip == 1, size - 1 - target, target)
    # From the centre of the result's pixel to the source's, in 2 * UNIT * size parts of a pixel: whole numbers, exact.
    distance = UNIT * size * (2 * source + 1) - 2 * size * start - (2 * target + 1) * extent
    # The filter is stretched where the picture shrinks: one unit of it is so many of these parts.
    unit = jnp.maximum(2 * UNIT * size, 2 * extent)
    weights = jnp.where(source < length, _FILTERS[interpolation](jnp.abs(distance), unit), 0.0)
    weights = weights / weights.sum(axis=-1, keepdims=True)
    return jnp.round(weights * _PARTS) / _PARTS


# Filters of a distance in parts of a unit, both whole numbers. Differences of these are exact, so that the weights are
# what Pillow's are in double precision but for the last bits.


def _bicubic(distance: Int32[Array, "..."], unit: Int32[Array, "..."]) -> Float[Array, "..."]:
    x, to_one, to_two = (_ratio(parts, unit) for parts in (distance, unit - distance, 2 * unit - distance))
    near, far = to_one * (1.0 + x * (1.0 - 1.5 * x)), 0.5 * to_one * to_two * to_two
    return jnp.where(x < 1.0, near, jnp.where(x < 2.0, far, 0.0))


def _bilinear(distance: Int32[Array, "..."], unit: Int32[Array, "..."]) -> Float[Array, "..."]:
    return jnp.maximum(0.0, _ratio(unit - distance, unit))


def _ratio(parts: Int32[Array, "..."], unit: Int32[Array, "..."]) -> Float[Array, "..."]:
    return parts.astype(jnp.float32) / unit.astype(jnp.float32)


_FILTERS = {"bicubic": _bicubic, "bilinear": _bilinear}
