"""Patch, token and position embeddings."""

import math

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mmjax.parallel.activations import whole


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
        patches = images.astype(self.dtype).reshape(batch, height // p, p, width // p, p, channels)
        x = jnp.einsum("BhpwqC,pqCD->BhwD", patches, whole(kernel).astype(self.dtype))
        x = x.reshape(batch, -1, self.width)
        if self.use_bias:
            x = x + self.param("bias", nn.initializers.zeros, (self.width,), jnp.float32).astype(self.dtype)
        return x


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
    table: Float[Array, "N D"], grid: tuple[int, int], new_grid: tuple[int, int], *, prefix: int = 0
) -> Float[Array, "M D"]:
    """Resamples a 2-D grid of position embeddings bicubically with antialiasing, as OpenCLIP does.

    Args:
      table: `prefix` leading rows (class token), then grid[0] * grid[1] rows in row-major order.
      grid: rows and columns of the table.
      new_grid: rows and columns wanted.
      prefix: leading rows that are kept as they are.
    """
    if grid == new_grid:
        return table
    body = table[prefix:].reshape(*grid, -1).astype(jnp.float32)
    rows = bicubic_matrix(grid[0], new_grid[0], antialias=True).astype(np.float32)
    columns = bicubic_matrix(grid[1], new_grid[1], antialias=True).astype(np.float32)
    body = jnp.einsum("Hh,Ww,hwD->HWD", rows, columns, body, precision="highest")
    return jnp.concatenate([table[:prefix], body.reshape(-1, table.shape[1]).astype(table.dtype)])
