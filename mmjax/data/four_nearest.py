"""Resizing without antialiasing, as TensorFlow does it."""

import numpy as np
from jaxtyping import UInt8


def four_nearest(
    pixels: UInt8[np.ndarray, "H W 3"],
    width: int,
    height: int,
    box: tuple[float, float, float, float] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Resizes bilinearly from the four nearest pixels, however much smaller the result is, and rounds down.

    That is TensorFlow's `tf.image.resize`, to uint8, which is big_vision's `resize`: nothing is averaged, so that what
    is finer than the result's pixels aliases.

    Args:
      pixels: of the image.
      width, height: of the result.
      box: left, top, right, bottom of what is resized, in whole pixels; None for all.
    """
    if box is not None:
        left, top, right, bottom = (round(x) for x in box)
        pixels = pixels[top:bottom, left:right]
    (above, below, y), (before, after, x) = (
        _neighbours(old, new) for old, new in zip(pixels.shape[:2], (height, width), strict=True)
    )
    x, y = x[None, :, None], y[:, None, None]
    rows = []
    for row in (above, below):
        one, other = (pixels[row][:, column].astype(np.float32) for column in (before, after))
        rows.append(one + (other - one) * x)
    return (rows[0] + (rows[1] - rows[0]) * y).astype(np.uint8)


def _neighbours(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each of `new` pixels the places of the two nearest among `old`, and how far it lies from the first."""
    place = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * np.float32(old / new) - np.float32(0.5)
    first = np.floor(place)
    lower, upper = np.maximum(first, 0), np.minimum(np.ceil(place), old - 1)
    return lower.astype(np.int64), upper.astype(np.int64), place - first
