"""What is done to images, and how evaluation resizes them: encoded bytes or arrays -> uint8 [H,W,3].

What training sees of them is in `crops`. Pixels stay uint8 here; `MEAN_STD` is applied on the device.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mmjax.data.image import augment
from mmjax.data.image.four_nearest import four_nearest
from mmjax.data.image.image_file import MAX_PIXELS, apply_orientation, find_orientation, from_array, open_file, to_rgb
from mmjax.errors import UserError, validate_choice

MEAN_STD = {
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "siglip": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # Of ViViT's image processor: to -1 to 1, and then by 0.5 and 0.5.
    "vivit": ((0.75, 0.75, 0.75), (0.25, 0.25, 0.25)),
}

TRAIN_RESIZE = ("crop", "squash", "center")
RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a library does to an image for evaluation, before it is numbers; docs/interop.md has them side by side.

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """How an image becomes a [size, size, 3] array. Recorded in the checkpoint, where evaluation finds it.

    Fields from `train_resize` on are of training alone. A record without the newer ones reads as what was done then.

    Attributes:
      size: side of the square output, in pixels.
      resize: at evaluation, `crop` (shortest side to `size`, then the centre; CLIP) or `squash` (both sides to `size`,
        whatever the aspect ratio; SigLIP).
      interpolation: `bicubic` or `bilinear`.
      mean: per-channel mean in [0, 1], subtracted on the device after dividing by 255.
      std: per-channel standard deviation, divided by after that.
      antialias: whether the filter grows as images shrink; without, `bilinear` takes the four nearest pixels and rounds
        down, see `four_nearest`.
      image_rule: at evaluation, whose rule orientation, conversion and centre crop follow, see `RULES`.
      train_resize: in training, `crop` (a random part of the image, whose shape is then lost; CLIP), `squash` (all of
        it, resized to the square; SigLIP) or `center` (its middle): as evaluation's `squash` and `crop` do it.
      crop_scale: of `crop`: range of the part's area as a fraction of the image's.
      crop_ratio: of `crop`: range of the part's aspect ratio, width / height.
      draft: let libjpeg decode at 1/2, 1/4 or 1/8 where the crop keeps at least `size` pixels a side.
      flip: mirror half of the training images.
      color_jitter: brightness, contrast, saturation and hue, see `augment.color_jitter`.
      color_jitter_prob: share of the training images that are jittered.
      grayscale: share of the training images that lose their colours.
      randaugment: operations an image and their magnitude, see `augment.rand_augment`.
      randaugment_policy: which operations, and what a magnitude means: one of `augment.POLICIES`.
      frame: side of the frames in which training images travel to a device that resizes them, see `frames`; 0 where the
        host resizes them. The pixels are the same but for rounding.
    """

    size: int
    resize: str = "crop"
    interpolation: str = "bicubic"
    mean: Sequence[float | int] = MEAN_STD["clip"][0]
    std: Sequence[float | int] = MEAN_STD["clip"][1]
    antialias: bool = True
    image_rule: str = "mmjax"
    train_resize: str = "crop"
    crop_scale: Sequence[float | int] = (0.9, 1.0)
    crop_ratio: Sequence[float | int] = (3 / 4, 4 / 3)
    draft: bool = False
    flip: bool = False
    color_jitter: Sequence[float | int] = (0.0, 0.0, 0.0, 0.0)
    color_jitter_prob: float = 1.0
    grayscale: float = 0.0
    randaugment: Sequence[float] = (0, 9)  # integers, which is checked
    randaugment_policy: str = "torchvision"
    frame: int = 0

    def __post_init__(self):
        for name in ("mean", "std", "crop_scale", "crop_ratio", "color_jitter"):  # JSON gives lists, even of ints
            object.__setattr__(self, name, tuple(float(x) for x in getattr(self, name)))
        object.__setattr__(self, "randaugment", tuple(self.randaugment))
        validate_choice("data.resize", self.resize, ("crop", "squash"))
        validate_choice("data.train_resize", self.train_resize, TRAIN_RESIZE)
        validate_choice("data.interpolation", self.interpolation, RESAMPLING)
        validate_choice("data.image_rule", self.image_rule, RULES)
        if not self.antialias and self.interpolation != "bilinear":
            raise UserError(
                f"data.antialias=False goes with data.interpolation='bilinear' alone, and it is {self.interpolation!r};"
                " set that, or leave antialias true"
            )
        if self.size < 1:
            raise UserError(f"image size {self.size} is not positive; set model.image.image_size to 1 or more")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise UserError(f"data.mean_std: mean {self.mean}, std {self.std}: give three numbers each, std above 0")
        for name, upper in (("crop_scale", 1.0), ("crop_ratio", math.inf)):
            value = getattr(self, name)
            if len(value) != 2 or not 0 < value[0] <= value[1] <= upper or math.isinf(value[1]):
                limit = " <= 1" if upper == 1.0 else ", both finite"
                raise UserError(f"data.{name}={value}: give (low, high) with 0 < low <= high{limit}")
        for name in ("color_jitter_prob", "grayscale"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"data.{name}={getattr(self, name)} is no probability; give a number from 0 to 1")
        jitter = self.color_jitter
        if len(jitter) != 4 or not all(0 <= x < math.inf for x in jitter) or jitter[3] > 0.5:
            raise UserError(
                f"data.color_jitter={jitter}: give (brightness, contrast, saturation, hue), none negative, hue <= 0.5"
            )
        if self.frame and self.frame < self.size:
            raise UserError(f"a frame of {self.frame} pixels is smaller than the model's images of {self.size}")
        policy = validate_choice("data.randaugment_policy", self.randaugment_policy, augment.POLICIES)
        ops, largest = self.randaugment, augment.POLICIES[policy].max_magnitude
        are_integers = len(ops) == 2 and all(isinstance(x, int) and not isinstance(x, bool) for x in ops)
        if not are_integers or ops[0] < 0 or not 0 <= ops[1] <= largest:
            raise UserError(
                f"data.randaugment={ops}: give (operations, magnitude) as integers, operations >= 0 (0 = off) and"
                f" magnitude from 0 to {largest}, the largest of data.randaugment_policy={policy!r}"
            )
        if policy != "torchvision" and not ops[0]:
            raise UserError(
                f"data.randaugment_policy={policy!r} is not read: data.randaugment={ops} is off; give it operations, or"
                " leave the policy out"
            )

    def of_evaluation(self) -> dict[str, Any]:
        """The fields that evaluation depends on, by name; newer ones only where they differ from their defaults."""
        fields = {name: getattr(self, name) for name in ("size", "resize", "interpolation", "mean", "std")}
        usual = {"antialias": True, "image_rule": "mmjax"}
        return fields | {name: getattr(self, name) for name in usual if getattr(self, name) != usual[name]}


def eval_image(
    image: bytes | np.ndarray, spec: ImageSpec, *, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "H W 3"]:
    """Decodes and resizes an image for evaluation.

    Args:
      image: see `image_file.decode`.
      spec: what to do.
      max_pixels: see `image_file.decode`.

    Raises:
      BadExample: as `image_file.decode` does.
    """
    if isinstance(image, np.ndarray):
        return eval_transform(convert_mode(from_array(image, convert=False), spec), spec)
    with open_file(image, max_pixels) as opened:
        opened.load()
        converted = convert_mode(opened, spec)
        if RULES[spec.image_rule].upright:
            converted = apply_orientation(converted, find_orientation(opened))
    return eval_transform(converted, spec)


def convert_mode(image: Image.Image, spec: ImageSpec) -> Image.Image:
    """An image as RGB, or in its own mode where the rule converts after resizing.

    16-bit samples are converted first by every rule, to their high byte: the libraries clip them to 255, to white.
    """
    rule = RULES[spec.image_rule]
    if image.mode == "F" or image.mode.startswith("I"):
        return to_rgb(image)
    if not rule.converted_first:
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
        return _resize(image, size, size, spec)
    new_width, new_height = size_with_shortest(width, height, size)
    return _window(image, spec, central_start(new_width, spec), central_start(new_height, spec))


def eval_crops(image: Image.Image, spec: ImageSpec, count: int) -> list[UInt8[np.ndarray, "H W 3"]]:
    """Crops along an image's longer side, evenly spaced from its one end to the other; the middle one where it is one.

    Args:
      image: what is cropped.
      spec: its `resize` is `crop` where there is more than one.
      count: of crops.
    """
    size = spec.size
    new_width, new_height = size_with_shortest(*image.size, size)
    margin = max(new_width, new_height) - size
    if count == 1 or not margin:
        return [eval_transform(image, spec)] * count
    starts = [round(margin * i / (count - 1)) for i in range(count)]
    return [_window(image, spec, *((start, 0) if new_width > new_height else (0, start))) for start in starts]


def _window(image: Image.Image, spec: ImageSpec, left: int, top: int) -> UInt8[np.ndarray, "H W 3"]:
    """A square of an image that is resized to the shortest side."""
    size = spec.size
    width, height = image.size
    new_width, new_height = size_with_shortest(width, height, size)
    if not spec.antialias:
        return four_nearest(np.asarray(to_rgb(image)), new_width, new_height, (left, top, left + size, top + size))
    if new_width * new_height > MAX_PIXELS:
        x, y = width / new_width, height / new_height
        return _resize(image, size, size, spec, (left * x, top * y, (left + size) * x, (top + size) * y))
    return _resize(image, new_width, new_height, spec)[top : top + size, left : left + size]


def _resize(
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
    return four_nearest(np.asarray(to_rgb(image)), width, height)


def size_with_shortest(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height of an image whose shortest side becomes `size`, as torchvision's `Resize` rounds the other."""
    return (size, int(size * height / width)) if width <= height else (int(size * width / height), size)


def central_start(side: int, spec: ImageSpec) -> int:
    """Where the central `spec.size` of `side` pixels begins."""
    margin = side - spec.size
    return margin // 2 if RULES[spec.image_rule].floor else round(margin / 2.0)


def central_box(width: int, height: int, spec: ImageSpec) -> tuple[float, float, float, float]:
    """What the central crop of the resized image shows, in pixels of the image itself: left, top, right, bottom."""
    new_width, new_height = size_with_shortest(width, height, spec.size)
    x, y = width / new_width, height / new_height
    left, top = central_start(new_width, spec), central_start(new_height, spec)
    return left * x, top * y, (left + spec.size) * x, (top + spec.size) * y
