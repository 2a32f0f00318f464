"""Augmentation of training images after their crop: colour jitter, grayscale, RandAugment (arXiv:1909.13719).

Jitter and grayscale have torchvision's semantics on its Pillow backend; what is switched off draws nothing. The
operations of RandAugment, the meaning of a magnitude and what fills uncovered pixels differ between the sources of
published recipes, so each is a policy of its own.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

Jitter = Callable[[Image.Image, float], Image.Image]

# (image, magnitude in [0, 1], sign, generator) -> image. The sign is -1 or 1; only what has a position draws for it.
Operation = Callable[[Image.Image, float, float, np.random.Generator], Image.Image]

_GREY = (128, 128, 128)


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


# -- RandAugment -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Policy:
    """A set of operations that RandAugment draws from.

    Attributes:
      max_magnitude: the integer that stands for the strongest change.
      operations: by name; each is as likely as any other.
      probability: with which an operation that was drawn is applied.
    """

    max_magnitude: int
    operations: Mapping[str, Operation]
    probability: float = 1.0


def rand_augment(
    image: Image.Image, policy: Policy, num_ops: int, magnitude: int, rng: np.random.Generator
) -> Image.Image:
    """An image after operations drawn with replacement.

    Args:
      image: RGB.
      policy: one of `POLICIES`.
      num_ops: operations, one after the other.
      magnitude: from 0 to the policy's largest.
      rng: what all is drawn from.
    """
    names = list(policy.operations)
    for _ in range(num_ops):
        name = names[int(rng.random() * len(names))]
        sign = -1.0 if rng.random() < 0.5 else 1.0
        if policy.probability == 1.0 or rng.random() < policy.probability:
            image = policy.operations[name](image, magnitude / policy.max_magnitude, sign, rng)
    return image


# -- torchvision -------------------------------------------------------------------------------------------------------


def _affine(
    image: Image.Image,
    *matrix: float,
    resample: Image.Resampling = Image.Resampling.NEAREST,
    fill: tuple[int, int, int] = (0, 0, 0),
) -> Image.Image:
    """Output pixel (x, y) is the input's at (a x + b y + c, d x + e y + f), and `fill` where there is none."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample, fillcolor=fill)


def _sharpness(image: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(factor)


# The factors are those of torchvision's `RandAugment._augmentation_space` on its Pillow backend.
_TORCHVISION: dict[str, Operation] = {
    "Identity": lambda image, level, sign, rng: image,
    "ShearX": lambda image, level, sign, rng: _affine(image, 1, sign * 0.3 * level, 0, 0, 1, 0),
    "ShearY": lambda image, level, sign, rng: _affine(image, 1, 0, 0, sign * 0.3 * level, 1, 0),
    "TranslateX": lambda image, level, sign, rng: _affine(
        image, 1, 0, -sign * math.floor(150 / 331 * image.width * level), 0, 1, 0
    ),
    "TranslateY": lambda image, level, sign, rng: _affine(
        image, 1, 0, 0, 0, 1, -sign * math.floor(150 / 331 * image.height * level)
    ),
    "Rotate": lambda image, level, sign, rng: image.rotate(sign * 30 * level, Image.Resampling.NEAREST),
    "Brightness": lambda image, level, sign, rng: adjust_brightness(image, 1 + sign * 0.9 * level),
    "Color": lambda image, level, sign, rng: adjust_saturation(image, 1 + sign * 0.9 * level),
    "Contrast": lambda image, level, sign, rng: adjust_contrast(image, 1 + sign * 0.9 * level),
    "Sharpness": lambda image, level, sign, rng: _sharpness(image, 1 + sign * 0.9 * level),
    "Posterize": lambda image, level, sign, rng: ImageOps.posterize(image, 8 - round(4 * level)),
    "Solarize": lambda image, level, sign, rng: ImageOps.solarize(image, math.ceil(255 * (1 - level))),
    "AutoContrast": lambda image, level, sign, rng: ImageOps.autocontrast(image),
    "Equalize": lambda image, level, sign, rng: ImageOps.equalize(image),
}


# -- TensorFlow's AutoAugment, of which ALBEF, BLIP and big_vision have copies -----------------------------------------


def _moved(resample: Image.Resampling, pixels: float) -> dict[str, Operation]:
    """Geometric operations; what comes from outside is grey.

    Args:
      resample: how the moved image is sampled.
      pixels: of the strongest translation, whatever the image's size.
    """
    affine = lambda image, *matrix: _affine(image, *matrix, resample=resample, fill=_GREY)
    return {
        "ShearX": lambda image, level, sign, rng: affine(image, 1, sign * 0.3 * level, 0, 0, 1, 0),
        "ShearY": lambda image, level, sign, rng: affine(image, 1, 0, 0, sign * 0.3 * level, 1, 0),
        "TranslateX": lambda image, level, sign, rng: affine(image, 1, 0, sign * pixels * level, 0, 1, 0),
        "TranslateY": lambda image, level, sign, rng: affine(image, 1, 0, 0, 0, 1, sign * pixels * level),
        "Rotate": lambda image, level, sign, rng: image.rotate(sign * 30 * level, resample, fillcolor=_GREY),
    }


def _factor(level: float) -> float:
    """The factor of an enhancement: 0.1 at the weakest, 1 (no change) in the middle, 1.9 at the strongest."""
    return 1.8 * level + 0.1


_ENHANCED: dict[str, Operation] = {
    "Brightness": lambda image, level, sign, rng: adjust_brightness(image, _factor(level)),
    "Sharpness": lambda image, level, sign, rng: _sharpness(image, _factor(level)),
    "AutoContrast": _TORCHVISION["AutoContrast"],
    "Equalize": _TORCHVISION["Equalize"],
}


def _contrast(image: Image.Image, factor: float) -> Image.Image:
    """Mixes with the grey of TensorFlow's AutoAugment: pixels / 256, where Pillow takes their mean."""
    grey = min(255, image.width * image.height // 256)
    return Image.blend(Image.new("RGB", image.size, (grey,) * 3), image, factor)


def _solarize_add(image: Image.Image, addition: int) -> Image.Image:
    """Adds to the values below 128."""
    return image.point([min(255, value + addition) if value < 128 else value for value in range(256)] * 3)


def _cutout(image: Image.Image, reach: int, rng: np.random.Generator) -> Image.Image:
    """Paints grey what lies within `reach` pixels, along both axes, of a random one."""
    x, y = int(rng.random() * image.width), int(rng.random() * image.height)
    box = (max(0, x - reach), max(0, y - reach), min(image.width, x + reach), min(image.height, y + reach))
    image = image.copy()
    image.paste(_GREY, box)
    return image


POLICIES = {
    "torchvision": Policy(30, _TORCHVISION),
    # ALBEF's and BLIP's `RandomAugment`, which leaves colours alone because captions name them.
    "albef": Policy(
        10,
        {"Identity": _TORCHVISION["Identity"]} | _ENHANCED | _moved(Image.Resampling.BILINEAR, 10.0),
        probability=0.5,
    ),
    # big_vision's `randaug`. At its magnitude of 10 Solarize changes nothing and Posterize keeps four bits.
    "big_vision": Policy(
        10,
        _ENHANCED
        | _moved(Image.Resampling.NEAREST, 100.0)
        | {
            "Invert": lambda image, level, sign, rng: ImageOps.invert(image),
            "Posterize": lambda image, level, sign, rng: image.point(
                [value & (255 << (8 - int(4 * level)) & 255) for value in range(256)] * 3
            ),
            "Solarize": lambda image, level, sign, rng: ImageOps.solarize(image, int(256 * level)),
            "SolarizeAdd": lambda image, level, sign, rng: _solarize_add(image, int(110 * level)),
            "Color": lambda image, level, sign, rng: adjust_saturation(image, _factor(level)),
            "Contrast": lambda image, level, sign, rng: _contrast(image, _factor(level)),
            "Cutout": lambda image, level, sign, rng: _cutout(image, int(40 * level), rng),
        },
    ),
}
