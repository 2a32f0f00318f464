"""Augmentations of training images: colour jitter, random grayscale, RandAugment.

Each has torchvision's semantics on its Pillow backend and draws from the generator it is given alone. What is switched
off draws nothing.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

Jitter = Callable[[Image.Image, float], Image.Image]

_BINS = 31  # torchvision's magnitudes are 0 to 30
MAX_MAGNITUDE = _BINS - 1


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


def rand_augment(image: Image.Image, num_ops: int, magnitude: int, rng: np.random.Generator) -> Image.Image:
    """Applies `num_ops` of RandAugment's 14 operations, drawn with replacement (torchvision's `RandAugment`).

    Args:
      image: RGB.
      num_ops: operations, one after the other.
      magnitude: 0 to 30, on torchvision's scale of 31 bins. The sign of a signed operation is random.
      rng: drawn from twice an operation.
    """
    names = list(OPERATIONS)
    for _ in range(num_ops):
        name = names[int(rng.random() * len(names))]
        sign = -1.0 if rng.random() < 0.5 else 1.0
        image = OPERATIONS[name](image, magnitude / MAX_MAGNITUDE, sign)
    return image


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    """Output pixel (x, y) is the input's nearest to (a x + b y + c, d x + e y + f); black where there is none."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)


def _posterize_bits(level: float) -> int:
    return 8 - round(4 * level)


# Name: (image, magnitude in [0, 1], sign) -> image. The factors are those of torchvision's `_augmentation_space`.
OPERATIONS: dict[str, Callable[[Image.Image, float, float], Image.Image]] = {
    "Identity": lambda image, level, sign: image,
    "ShearX": lambda image, level, sign: _affine(image, 1, sign * 0.3 * level, 0, 0, 1, 0),
    "ShearY": lambda image, level, sign: _affine(image, 1, 0, 0, sign * 0.3 * level, 1, 0),
    "TranslateX": lambda image, level, sign: _affine(
        image, 1, 0, -sign * math.floor(150 / 331 * image.width * level), 0, 1, 0
    ),
    "TranslateY": lambda image, level, sign: _affine(
        image, 1, 0, 0, 0, 1, -sign * math.floor(150 / 331 * image.height * level)
    ),
    "Rotate": lambda image, level, sign: image.rotate(sign * 30 * level, Image.Resampling.NEAREST),
    "Brightness": lambda image, level, sign: adjust_brightness(image, 1 + sign * 0.9 * level),
    "Color": lambda image, level, sign: adjust_saturation(image, 1 + sign * 0.9 * level),
    "Contrast": lambda image, level, sign: adjust_contrast(image, 1 + sign * 0.9 * level),
    "Sharpness": lambda image, level, sign: ImageEnhance.Sharpness(image).enhance(1 + sign * 0.9 * level),
    "Posterize": lambda image, level, sign: ImageOps.posterize(image, _posterize_bits(level)),
    "Solarize": lambda image, level, sign: ImageOps.solarize(image, 255 * (1 - level)),
    "AutoContrast": lambda image, level, sign: ImageOps.autocontrast(image),
    "Equalize": lambda image, level, sign: ImageOps.equalize(image),
}
