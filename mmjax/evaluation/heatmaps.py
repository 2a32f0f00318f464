"""Maps of attention and similarity over an image's patches: rollout, upsampling, overlays. Plain numpy, no model."""

import functools

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

HEAD_REDUCTIONS = {"mean": np.mean, "max": np.max, "min": np.min}
COLOURS = "viridis"  # equal steps look equal, also without colour vision, and in grey
_DARKEST = 48  # of the grey image under a map
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def rollout(
    weights: Float[np.ndarray, "depth B H N N"], *, head: str = "mean", residual: float = 0.5
) -> Float[np.ndarray, "B N N"]:
    """Attention rollout (Abnar & Zuidema, arXiv:2005.00928): how much each input token went into each output token.

    Every layer is taken for a mixture of its attention and the residual connection, and the layers are multiplied.

    Args:
      weights: each layer's attention, rows are queries.
      head: how heads are put together, a name in `HEAD_REDUCTIONS`; the paper's is `mean`.
      residual: share of the residual connection; the paper's is 0.5.

    Returns:
      Row t says what token t of the last layer is made of; rows sum to 1.

    Raises:
      ValueError: an unknown `head`, or a `residual` outside [0, 1].
    """
    if head not in HEAD_REDUCTIONS:
        raise ValueError(f"head={head!r} is not known; choose one of: {', '.join(HEAD_REDUCTIONS)}")
    if not 0.0 <= residual <= 1.0:
        raise ValueError(f"residual={residual} is not in [0, 1]")
    count = weights.shape[-1]
    identity = np.eye(count, dtype=weights.dtype)
    total = np.broadcast_to(identity, (weights.shape[1], count, count))
    for layer in weights:
        mixed = HEAD_REDUCTIONS[head](layer, axis=1)
        sums = mixed.sum(axis=-1, keepdims=True)
        # Rows of max and min do not sum to 1; a token that attends to nothing keeps to itself.
        mixed = np.where(sums > 0, mixed / np.where(sums > 0, sums, 1), identity)
        total = ((1 - residual) * mixed + residual * identity) @ total
    return total


def patch_map(
    values: Float[np.ndarray, " N"], grid: tuple[int, int], size: tuple[int, int]
) -> Float[np.ndarray, "h w"]:
    """Values of an image's tokens as a picture.

    Args:
      values: of all tokens: class token and registers, if any, then the patches row by row.
      grid: rows and columns of patches.
      size: height and width in pixels, by bilinear interpolation between the patches' centres.

    Raises:
      ValueError: fewer values than patches.
    """
    rows, columns = grid
    first = len(values) - rows * columns
    if first < 0:
        raise ValueError(f"{len(values)} values are fewer than {rows} x {columns} patches")
    cells = np.asarray(values[first:], np.float32).reshape(rows, columns)
    return np.asarray(Image.fromarray(cells).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def overlay(
    image: UInt8[np.ndarray, "h w 3"],
    heat: Float[np.ndarray, "h w"],
    low: float,
    high: float,
    *,
    strength: float = 0.6,
) -> UInt8[np.ndarray, "h w 3"]:
    """A heat map over a grey version of its image, whose range of light is stretched so that dark ones show, too.

    Args:
      image: of the map's size, see `resize_longest`.
      heat: the map.
      low, high: values of the first and of the last colour; all that is equal is the first.
      strength: share of the colour, in [0, 1].
    """
    level = (heat - low) / (high - low) if high > low else np.zeros_like(heat)
    colour = _colormap()[np.rint(255 * np.clip(level, 0, 1)).astype(np.int64)]
    light = (image @ np.array(_LUMA))[..., None]
    light = (light - light.min()) / max(np.ptp(light), 1.0)
    grey = _DARKEST + (255 - _DARKEST) * light
    return np.rint((1 - strength) * grey + strength * colour).astype(np.uint8)


def resize_longest(image: UInt8[np.ndarray, "H W 3"], longest: int) -> UInt8[np.ndarray, "h w 3"]:
    """An image with this longest side: smaller ones are enlarged pixel by pixel, larger ones smoothly made smaller."""
    height, width = image.shape[:2]
    scale = longest / max(height, width)
    kind = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(image).resize(size, kind))


def colormap_stops(stops: int = 9) -> list[str]:
    """Colours from low to high, as CSS has them."""
    picked = _colormap()[np.linspace(0, 255, stops).round().astype(int)].round().astype(int)
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in picked.tolist()]


@functools.cache
def _colormap() -> Float[np.ndarray, "256 3"]:
    import matplotlib

    return matplotlib.colormaps[COLOURS](np.arange(256))[:, :3] * 255.0
