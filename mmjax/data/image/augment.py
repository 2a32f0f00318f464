"""Colours of training images, changed at random: colour jitter and grayscale.

Each has torchvision's semantics on its Pillow backend and draws from the generator it is given alone. What is switched
off draws nothing.
"""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageEnhance

Jitter = Callable[[Image.Image, float], Image.Image]


def color_jitter(image: Image.Image, strengths: Sequence[float], rng: np.random.Generator) -> Image.Image:
    """Changes brightness, contrast, saturation and hue in random order (torchvision's `ColorJitter`).

    Args:
      image: RGB.
      strengths: (brightness, contrast, saturation, hue). The factors are U(max(0, 1 - x), 1 + x) for the first three,
        the shift is U(-x, x) of the colour circle for the hue; 0 leaves that property alone.
      rng: drawn from five times, whatever the strengths.
    """
    order = rng.permutation(4)
    draws = rng.random(4)
    for i in order.tolist():
        strength = strengths[i]
        if strength == 0:
            continue
        middle = 0.0 if i == 3 else 1.0
        low = -strength if i == 3 else max(0.0, 1.0 - strength)
        image = _JITTERS[i](image, low + (middle + strength - low) * float(draws[i]))
    return image


def adjust_brightness(image: Image.Image, factor: float) -> Image.Image:
    """Multiplies by `factor`: 0 is black, 1 the image."""
    return ImageEnhance.Brightness(image).enhance(factor)


def adjust_contrast(image: Image.Image, factor: float) -> Image.Image:
    """Mixes with the mean of the image's luma: 0 is that grey, 1 the image, above 1 beyond it."""
    return ImageEnhance.Contrast(image).enhance(factor)


def adjust_saturation(image: Image.Image, factor: float) -> Image.Image:
    """Mixes with the luma of each pixel: 0 is grey, 1 the image, above 1 beyond it."""
    return ImageEnhance.Color(image).enhance(factor)


def adjust_hue(image: Image.Image, shift: float) -> Image.Image:
    """Turns the hue by `shift` of the colour circle, in [-0.5, 0.5], in 8-bit HSV."""
    hue, saturation, value = image.convert("HSV").split()
    steps = int(shift * 255) & 255  # truncated and wrapped, as torchvision casts it
    turned = Image.fromarray(np.asarray(hue) + np.uint8(steps))
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


_JITTERS: tuple[Jitter, ...] = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


def grayscale(image: Image.Image) -> Image.Image:
    """The luma (ITU-R 601) of each pixel, in all three channels."""
    return image.convert("L").convert("RGB")
