"""Images for evaluation: decoded, converted and resized by the rule of the library that a model comes from.

Libraries differ in what they do with EXIF orientation, transparency and palettes, in the order of conversion and
resizing, and in where a centre crop begins. `ImageSpec.image_rule` says whose rule it is; docs/interop.md has them side
by side.
"""

import dataclasses

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mmjax.data.images import (
    MAX_PIXELS,
    RESAMPLING,
    ImageSpec,
    find_orientation,
    four_nearest,
    from_array,
    open_file,
    to_rgb,
    turned,
)


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a library does to an image before it is numbers.

    Attributes:
      upright: whether the EXIF orientation is applied.
      on_white: whether what is transparent shows white; else its colours are taken as they are.
      converted_first: whether images become RGB before they are resized; else after it, so that palettes and bitmaps
        are resized by their nearest pixels, colours of RGBA count by their opacity, and CMYK is resized as such.
      floor: whether a centre crop with an odd margin has the smaller half of it in front; else half is rounded to even.
    """

    upright: bool = False
    on_white: bool = False
    converted_first: bool = True
    floor: bool = False


RULES = {
    "mmjax": Rule(upright=True),
    "open_clip": Rule(converted_first=False),  # OpenAI's, too
    "huggingface": Rule(on_white=True, floor=True),
    "big_vision": Rule(floor=True),
}


def eval_image(
    image: bytes | np.ndarray, spec: ImageSpec, *, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "H W 3"]:
    """Decodes and resizes an image for evaluation.

    Args:
      image: see `images.decode`.
      spec: what to do.
      max_pixels: see `images.decode`.

    Raises:
      BadExample: as `images.decode` does.
    """
    if isinstance(image, np.ndarray):
        return eval_transform(converted(from_array(image, convert=False), spec), spec)
    with open_file(image, max_pixels) as opened:
        opened.load()
        whole = converted(opened, spec)
        if RULES[spec.image_rule].upright:
            whole = turned(whole, find_orientation(opened))
    return eval_transform(whole, spec)


def converted(image: Image.Image, spec: ImageSpec) -> Image.Image:
    """An image as RGB, or in its own mode where the rule converts after resizing.

    16-bit samples are converted first by every rule, to their high byte: the libraries clip them to 255, to white.
    """
    rule = RULES[spec.image_rule]
    if not rule.converted_first and not (image.mode == "F" or image.mode.startswith("I")):
        return image
    if rule.on_white and ("A" in image.getbands() or image.info.get("transparency") is not None):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return to_rgb(image)


def eval_transform(image: Image.Image, spec: ImageSpec) -> UInt8[np.ndarray, "H W 3"]:
    """Resizes for evaluation, with the rounding of torchvision's `Resize(size)`, and crops as the rule has it.

    An image that already has the target size comes back unchanged. A ribbon whose long side would come out too long for
    the memory is resized within the crop alone, the same up to rounding.
    """
    size = spec.size
    width, height = image.size
    if (width, height) == (size, size):
        return np.asarray(to_rgb(image))
    if spec.resize == "squash":
        return _resized(image, size, size, spec)
    new_width, new_height = shortest_to(width, height, size)
    if new_width * new_height > MAX_PIXELS:
        return _resized(image, size, size, spec, central_box(width, height, spec))
    pixels = _resized(image, new_width, new_height, spec)
    left, top = (central_start(side, spec) for side in (new_width, new_height))
    return pixels[top : top + size, left : left + size]


def _resized(
    image: Image.Image,
    width: int,
    height: int,
    spec: ImageSpec,
    box: tuple[float, float, float, float] | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """The image, or a box of it, at another size, as RGB."""
    if box is None and image.size == (width, height):
        return np.asarray(to_rgb(image))
    if spec.antialias:
        return np.asarray(to_rgb(image.resize((width, height), RESAMPLING[spec.interpolation], box=box)))
    return four_nearest(np.asarray(to_rgb(image)), width, height, box)


def shortest_to(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height of an image whose shortest side becomes `size`, as torchvision's `Resize` rounds the other."""
    return (size, int(size * height / width)) if width <= height else (int(size * width / height), size)


def central_start(side: int, spec: ImageSpec) -> int:
    """Where the central `spec.size` of `side` pixels begins."""
    margin = side - spec.size
    return margin // 2 if RULES[spec.image_rule].floor else round(margin / 2.0)


def central_box(width: int, height: int, spec: ImageSpec) -> tuple[float, float, float, float]:
    """What the central crop of the resized image shows, in pixels of the image itself: left, top, right, bottom."""
    new_width, new_height = shortest_to(width, height, spec.size)
    x, y = width / new_width, height / new_height
    left, top = central_start(new_width, spec), central_start(new_height, spec)
    return left * x, top * y, (left + spec.size) * x, (top + spec.size) * y
