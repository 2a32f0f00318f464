"""Resizing without antialiasing, as TensorFlow does it."""

import numpy as np
from jaxtyping import UInt8


def four_nearest(
    pixels: UInt8[np.ndarray, "H W 3"],
    width: int,
    height: int,
    window: tuple[int, int, int, int] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Resizes bilinearly from the four nearest pixels, however much smaller the result is, and rounds down.

    That is TensorFlow's `tf.image.resize`, to uint8, which is big_vision's `resize`: nothing is averaged, so that what
    is finer than the result's pixels aliases.

    Args:
      pixels: of the image.
      width, height: of the whole result.
      window: left, top, right, bottom of the part of the result that is made; None for all of it.
    """
    left, top, right, bottom = window or (0, 0, width, height)
    above, below, y = _neighbours(pixels.shape[0], height, top, bottom)
    before, after, x = _neighbours(pixels.shape[1], width, left, right)
    x, y = x[None, :, None], y[:, None, None]
    rows = []
    for row in (above, below):
        one, other = (pixels[row][:, column].astype(np.float32) for column in (before, after))
        rows.append(one + (other - one) * x)
    return (rows[0] + (rows[1] - rows[0]) * y).astype(np.uint8)


def _neighbours(old: int, new: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two nearest of `old` pixels to each of `start` to `stop` of `new`, and the distance from the first."""
    position = (np.arange(start, stop).astype(np.float32) + np.float32(0.5)) * np.float32(old / new) - np.float32(0.5)
    first = np.floor(position)
    lower, upper = np.clip(first, 0, old - 1), np.clip(np.ceil(position), 0, old - 1)
    return lower.astype(np.int64), upper.astype(np.int64), position - first
