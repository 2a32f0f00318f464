"""Rotary positions (RoPE, arXiv:2104.09864): queries and keys are turned by angles that grow with their position."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# Which numbers of a head are turned together: i and i + K / 2 (Hugging Face's Llama), or 2 i and 2 i + 1 (EVA-02).
Pairs = Literal["half", "interleaved"]


class Rotation(NamedTuple):
    """Cosines and sines of the angles of every token's pairs of numbers, [b, N, K / 2] in float32; b is 1 or B."""

    cos: Float[Array, "b N F"]
    sin: Float[Array, "b N F"]

    def take(self, chosen: Int[Array, " B"]) -> "Rotation":
        """That of one token of each example, [B, 1, F]."""
        rows = jnp.zeros_like(chosen) if len(self.cos) == 1 else jnp.arange(len(chosen))
        return Rotation(*(part[rows, chosen][:, None] for part in self))


def rotation_of(
    positions: Float[Array, "b N *axes"] | Int[Array, "b N *axes"], head_dim: int, theta: float
) -> Rotation:
    """The rotation of tokens by their positions; a token at 0 is not turned.

    Args:
      positions: of each token, along one axis or several, which share a head's pairs one axis after the other.
      head_dim: K, a multiple of twice the axes.
      theta: the slowest of F pairs turns by about 1 / theta in one step: pair i by theta ** (-i / F).

    Raises:
      ValueError: a width of heads that is not such a multiple.
    """
    positions = jnp.asarray(positions, jnp.float32)
    positions = positions[..., None] if positions.ndim == 2 else positions
    axes = positions.shape[-1]
    if head_dim % (2 * axes):
        raise ValueError(f"rotary positions along {axes} axes need heads of a multiple of {2 * axes}, not {head_dim}")
    count = head_dim // 2 // axes
    frequencies = np.asarray(1 / theta ** (np.arange(count) / count), np.float32)
    angles = positions[..., None] * frequencies  # [b, N, axes, count]
    angles = angles.reshape(*angles.shape[:2], -1)
    return Rotation(jnp.cos(angles), jnp.sin(angles))


def rotate(x: Float[Array, "B N H K"], rotation: Rotation, pairs: str) -> Float[Array, "B N H K"]:
    """Queries or keys, turned in float32."""
    cos, sin = (part[:, :, None] for part in rotation)
    wide = x.astype(jnp.float32)
    if pairs == "half":
        first, second = jnp.split(wide, 2, axis=-1)
    else:
        first, second = wide[..., 0::2], wide[..., 1::2]
    turned = (first * cos - second * sin, second * cos + first * sin)
    y = jnp.concatenate(turned, axis=-1) if pairs == "half" else jnp.stack(turned, axis=-1).reshape(x.shape)
    return y.astype(x.dtype)


def grid_positions(
    grid: Sequence[int], *, prefix: int = 0, reference: int = 0, offset: float = 0.0, axes: str = "ij"
) -> Float[np.ndarray, "1 N 2"]:
    """Positions of an image's tokens, rows of patches one after the other, as timm's `RotaryEmbeddingCat` has them.

    Args:
      grid: rows and columns of patches.
      prefix: tokens before the patches, which are not turned.
      reference: rows and columns of the grid that positions are stretched to; 0 for the image's own.
      offset: position of the first row and column.
      axes: the first half of a head is turned by the row (`ij`) or by the column (`xy`).
    """
    lines = [(np.arange(size, dtype=np.float32) + offset) / size * (reference or size) for size in grid]
    rows, columns = np.meshgrid(*lines, indexing="ij")
    patches = np.stack((rows, columns) if axes == "ij" else (columns, rows), axis=-1).reshape(-1, 2)
    return np.concatenate([np.zeros((prefix, 2), np.float32), patches.astype(np.float32)])[None]
