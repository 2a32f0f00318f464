"""Position embeddings on a grid, resampled for inputs of another size."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def bicubic_matrix(old: int, new: int, *, antialias: bool) -> np.ndarray:
    """Returns the [new, old] float64 matrix that resamples a line of samples bicubically.

    It follows PyTorch's `interpolate(mode="bicubic", align_corners=False)`: with antialiasing, Keys' kernel with
    a = -0.5 widened by the reduction factor and normalised over the samples inside; without, a = -0.75 and edge
    samples repeated.
    """
    scale = old / new
    support = max(1.0, scale) if antialias else 1.0
    a = -0.5 if antialias else -0.75

    def kernel(t):
        t = np.abs(t)
        near = (a + 2) * t**3 - (a + 3) * t**2 + 1
        far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
        return np.where(t < 1, near, np.where(t < 2, far, 0.0))

    centres = (np.arange(new) + 0.5) * scale - 0.5
    matrix = np.zeros((new, old))
    for row, centre in enumerate(centres):
        reach = math.ceil(2 * support) + 1
        taps = np.arange(math.floor(centre) - reach, math.floor(centre) + reach + 1)
        weights = kernel((taps - centre) / support)
        if antialias:
            inside = (taps >= 0) & (taps < old)
            taps, weights = taps[inside], weights[inside]
            weights = weights / weights.sum()
        np.add.at(matrix[row], np.clip(taps, 0, old - 1), weights)
    return matrix


def resample_positions(
    table: Float[Array, "N D"], grid: Sequence[int], new_grid: Sequence[int], *, prefix: int = 0, antialias: bool = True
) -> Float[Array, "M D"]:
    """Resamples a grid of position embeddings bicubically along each axis, as OpenCLIP does.

    Args:
      table: `prefix` leading rows (class token), then the rows of the grid, the last axis running fastest.
      grid: the table's length along each axis: rows and columns of an image, frames of a video.
      new_grid: the lengths wanted.
      prefix: leading rows that are kept as they are.
      antialias: see `bicubic_matrix`.
    """
    if tuple(grid) == tuple(new_grid):
        return table
    body = table[prefix:].reshape(*grid, -1).astype(jnp.float32)
    for axis, (old, new) in enumerate(zip(grid, new_grid, strict=True)):
        if old != new:
            matrix = bicubic_matrix(old, new, antialias=antialias).astype(np.float32)
            body = jnp.moveaxis(jnp.tensordot(matrix, body, axes=(1, axis), precision="highest"), 0, axis)
    return jnp.concatenate([table[:prefix], body.reshape(-1, table.shape[1]).astype(table.dtype)])


def stretch_positions(table: Float[Array, "N D"], length: int) -> Float[Array, "M D"]:
    """Positions of a text, interpolated linearly to another length, as OpenCLIP does.

    It follows PyTorch's `interpolate(mode="linear", align_corners=False)`.
    """
    rows = len(table)
    sources = np.clip((np.arange(length) + 0.5) * (rows / length) - 0.5, 0, rows - 1)
    first = np.floor(sources).astype(np.int32)
    share = jnp.asarray(sources - first, jnp.float32)[:, None]
    before, after = table[first], table[np.minimum(first + 1, rows - 1)]
    return (before * (1 - share) + after * share).astype(table.dtype)


def interleaved_sinusoids(length: int, width: int) -> np.ndarray:
    """Sines and cosines of positions (arXiv:1706.03762): float32 [length, width], columns 0, 2, ... sines.

    Computed in float64 by NumPy, so that it is the same everywhere.
    """
    column = np.arange(width)
    angle = np.arange(length)[:, None] / np.power(10_000, 2 * (column // 2) / width)
    return np.where(column % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)


def side_by_side_sinusoids(length: int, width: int) -> np.ndarray:
    """The same as Whisper has it: float32 [length, width], all sines, then all cosines.

    Raises:
      ValueError: an odd width, or one without two frequencies.
    """
    half = width // 2
    if width % 2 or half < 2:
        raise ValueError(f"a table of sines and cosines side by side has an even width of 4 or more, and not {width}")
    angle = np.arange(length)[:, None] * np.exp(-np.log(10_000) / (half - 1) * np.arange(half))
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)
