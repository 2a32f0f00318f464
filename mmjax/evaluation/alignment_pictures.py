"""Pictures of offsets for the report: a histogram of errors, and frames above the sound where they belong."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw

from mmjax.evaluation import pictures

_WIDTH, _HEIGHT = 640, 120  # pixels
_FRAME = 48  # pixels of the side of a frame
_BAR = 8  # pixels of the height of the bar that shows where the video belongs
_RIGHT, _NEAR, _WRONG = "#2ca02c", "#1f77b4", "#d62728"


def error_histogram(errors: Int[np.ndarray, " N"], most: int) -> UInt8[np.ndarray, "h w 3"]:
    """A bar for each error in frames from -most to most; exact ones are green, those of one frame blue, others red."""
    counts = np.bincount(errors + most, minlength=2 * most + 1)
    canvas = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    draw: Any = ImageDraw.Draw(canvas)
    width, bottom = _WIDTH / len(counts), _HEIGHT - 16
    for index, count in enumerate(counts.tolist()):
        left, error = index * width, index - most
        color = _RIGHT if not error else _NEAR if abs(error) == 1 else _WRONG
        if count:
            top = min(bottom - 1, bottom - count / counts.max() * (bottom - 4))
            draw.rectangle((left + 1, top, max(left + 1, left + width - 2), bottom), fill=color)
    for error in sorted({-most, 0, most}):
        draw.text((min((error + most) * width, _WIDTH - 24), bottom + 2), f"{error:+d}" if error else "0", fill="black")
    return np.array(canvas)


def alignment(
    video: UInt8[np.ndarray, "V S S 3"], audio: Float[np.ndarray, "T F"], frames: int, predicted: int, true: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Frames of a clip above its spectrogram where the model puts them, and a bar below it where they belong.

    Args:
      video: of V frames.
      audio: of the time of all shifts and the video.
      frames: of video that last as long as the sound.
      predicted: the shift that the model gives, in frames from the beginning of the sound.
      true: the true one.
    """
    scale = _WIDTH / frames  # pixels of a frame of time
    canvas = Image.new("RGB", (_WIDTH, _FRAME + _HEIGHT + _BAR + 4), "white")
    step = max(1, -(-_FRAME // max(1, int(scale))))
    for number in range(0, len(video), step):
        small = Image.fromarray(video[number]).resize((_FRAME, _FRAME))
        canvas.paste(small, (round((predicted + number) * scale), 0))
    spectrogram = Image.fromarray(pictures.picture("audio", audio)).resize((_WIDTH, _HEIGHT))
    canvas.paste(spectrogram, (0, _FRAME + 2))
    draw: Any = ImageDraw.Draw(canvas)
    color = _RIGHT if predicted == true else _NEAR if abs(predicted - true) == 1 else _WRONG
    top = _FRAME + _HEIGHT + 4
    draw.rectangle((true * scale, top, (true + len(video)) * scale - 1, top + _BAR - 1), fill=color)
    return np.array(canvas)
