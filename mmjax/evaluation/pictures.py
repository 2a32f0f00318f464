"""Pictures of what a model saw, for the report: an image, frames of a video, a spectrogram, curves, bars."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

THUMBNAIL = 160  # pixels of the longest side
_HEIGHT, _WIDTH = 96, 160  # pixels of curves and bars
_FRAMES, _GAP = 4, 2  # of a video that are shown, two in a row; pixels between them
_WIDEST = 2  # times as many columns as mel bins that a small spectrogram has at most
_COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b")


def example_picture(inputs: Mapping[str, np.ndarray]) -> UInt8[np.ndarray, "h w 3"]:
    """A small picture of the first of an example's inputs, see `EvalExample.inputs`.

    Of a video four frames are shown, from left to right and then below, spread over it; of a long sound the mean of
    neighbouring frames, so that the picture is at most twice as wide as high.
    """
    name, array = next(iter(inputs.items()))
    if array.ndim == 4 and len(array) > 1:
        shown = min(_FRAMES, len(array))
        middles = (np.arange(shown) * 2 + 1) * len(array) // (2 * shown)  # of equal parts
        return thumbnail(_tile([picture(name, array[index]) for index in middles]))
    if name == "audio" and array.ndim == 2:
        array = _fewer_columns(array)
    return thumbnail(picture(name, array))


def picture(name: str, array: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """A picture of a modality's array.

    Args:
      name: of the modality.
      array: of one example: pixels, frames of them, a spectrogram [frames, bins], steps [T, C], or numbers.
    """
    if array.ndim == 4:
        array = array[len(array) // 2]
    if array.ndim == 3 and array.shape[-1] == 3:
        return array if array.dtype == np.uint8 else _to_uint8(array)
    values = np.nan_to_num(array.astype(np.float64).reshape(len(array), -1))
    if name == "audio":  # low frequencies at the bottom
        return np.repeat(_to_uint8(values.T[::-1])[:, :, None], 3, axis=2)
    return _curves(values) if array.ndim > 1 else _bars(values[:, 0])


def level_picture(levels: Float[np.ndarray, "frames bins"], low: float, high: float) -> UInt8[np.ndarray, "h w 3"]:
    """A spectrogram or a mask in grey, black at `low` and white at `high`, with low frequencies at the bottom."""
    shades = np.clip((levels - low) / (high - low), 0, 1)
    return np.repeat(np.round(255 * shades.T[::-1]).astype(np.uint8)[:, :, None], 3, axis=2)


def thumbnail(image: UInt8[np.ndarray, "H W 3"], longest: int = THUMBNAIL) -> UInt8[np.ndarray, "h w 3"]:
    """A copy of an image whose longest side is at most `longest`."""
    small = Image.fromarray(image)
    small.thumbnail((longest, longest))
    return np.array(small)


def _tile(frames: list[UInt8[np.ndarray, "H W 3"]]) -> UInt8[np.ndarray, "h w 3"]:
    """Frames of one size, two in a row, on white."""
    height, width, _ = frames[0].shape
    rows = -(-len(frames) // 2)
    canvas = np.full((rows * (height + _GAP) - _GAP, 2 * width + _GAP, 3), 255, np.uint8)
    for number, frame in enumerate(frames):
        y, x = (number // 2) * (height + _GAP), (number % 2) * (width + _GAP)
        canvas[y : y + height, x : x + width] = frame
    return canvas


def _fewer_columns(spectrogram: Float[np.ndarray, "T F"]) -> Float[np.ndarray, "t F"]:
    """The means of neighbouring frames of a spectrogram that is much longer than high."""
    step = -(-len(spectrogram) // (_WIDEST * spectrogram.shape[1]))
    if step <= 1:
        return spectrogram
    starts = np.arange(0, len(spectrogram), step)
    counts = np.diff(np.append(starts, len(spectrogram)))
    return np.add.reduceat(spectrogram, starts, axis=0) / counts[:, None]


def _to_uint8(values: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Values from the least, which is 0, to the largest, which is 255."""
    low, high = values.min(), values.max()
    return np.round((values - low) / max(high - low, 1e-12) * 255).astype(np.uint8)


def _curves(values: Float[np.ndarray, "T C"]) -> UInt8[np.ndarray, "h w 3"]:
    """A curve a channel over the steps."""
    canvas = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    draw: Any = ImageDraw.Draw(canvas)
    low, high = values.min(), values.max()
    x = np.linspace(1, _WIDTH - 2, max(2, len(values)))
    for channel, color in zip(values.T, _colors(values.shape[1]), strict=True):
        y = (_HEIGHT - 2) - (channel - low) / max(high - low, 1e-12) * (_HEIGHT - 3)
        draw.line(list(zip(x.tolist(), y.tolist(), strict=False)), fill=color)
    return np.array(canvas)


def _bars(values: Float[np.ndarray, " N"]) -> UInt8[np.ndarray, "h w 3"]:
    """A bar a number, up or down from the middle."""
    canvas = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    draw: Any = ImageDraw.Draw(canvas)
    largest, width = max(np.abs(values).max(), 1e-12), _WIDTH / len(values)
    for index, value in enumerate(values.tolist()):
        middle, end = _HEIGHT / 2, _HEIGHT / 2 * (1 - value / largest)
        box = (index * width, min(middle, end), max((index + 1) * width - 1, index * width), max(middle, end))
        draw.rectangle(box, fill=_COLORS[0])
    return np.array(canvas)


def _colors(count: int) -> list[str]:
    return [_COLORS[index % len(_COLORS)] for index in range(count)]
