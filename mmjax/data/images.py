"""Decoding and resizing images on the host: encoded bytes or arrays -> uint8 [H,W,3].

Pixels stay uint8 here; `MEAN_STD` is applied on the device.
"""

import dataclasses
import io
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from mmjax.data.faults import BadExample
from mmjax.errors import UserError, choose

# Images with more pixels than this are refused before they are decoded (Pillow's own warning threshold).
MAX_PIXELS = 89_478_485

MEAN_STD = {
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "siglip": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_ORIENTATION = 0x0112  # EXIF tag
_CROP_TRIES = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """How an image becomes a [size, size, 3] array. Recorded in the checkpoint: evaluation depends on it.

    Attributes:
      size: side of the square output, in pixels.
      resize: at evaluation, `crop` (shortest side to `size`, then the centre; CLIP) or `squash` (both sides to `size`,
        whatever the aspect ratio; SigLIP).
      interpolation: `bicubic` or `bilinear`, both antialiased.
      mean: per-channel mean in [0, 1], subtracted on the device after dividing by 255.
      std: per-channel standard deviation, divided by after that.
      crop_scale: range of the training crop's area as a fraction of the image's.
      crop_ratio: range of the training crop's aspect ratio, width / height.
      flip: mirror half of the training images.
    """

    size: int
    resize: str = "crop"
    interpolation: str = "bicubic"
    mean: Sequence[float | int] = MEAN_STD["clip"][0]
    std: Sequence[float | int] = MEAN_STD["clip"][1]
    crop_scale: Sequence[float | int] = (0.9, 1.0)
    crop_ratio: Sequence[float | int] = (3 / 4, 4 / 3)
    flip: bool = False

    def __post_init__(self):
        for name in ("mean", "std", "crop_scale", "crop_ratio"):  # JSON and config files give lists, even of ints
            object.__setattr__(self, name, tuple(float(x) for x in getattr(self, name)))
        choose("image.resize", self.resize, ("crop", "squash"))
        choose("image.interpolation", self.interpolation, _RESAMPLING)
        if self.size < 1:
            raise UserError(f"image.size={self.size} is not positive")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise UserError(f"image.mean={self.mean}, image.std={self.std}: give three numbers each, std above 0")
        for name, upper in (("crop_scale", 1.0), ("crop_ratio", math.inf)):
            value = getattr(self, name)
            if len(value) != 2 or not 0 < value[0] <= value[1] <= upper:
                limit = " <= 1" if upper == 1.0 else ""
                raise UserError(f"image.{name}={value}: give (low, high) with 0 < low <= high{limit}")


def decode(image: bytes | np.ndarray, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decodes an image to upright 8-bit RGB.

    The EXIF orientation is applied, palettes are expanded, alpha is dropped without compositing (as OpenCLIP does) and
    16-bit samples keep their high byte.

    Args:
      image: an encoded file, or a uint8 array [H,W], [H,W,1], [H,W,3] or [H,W,4].
      max_pixels: larger images are refused from their header, before they can fill the memory.

    Raises:
      BadExample: `empty`, `not_image`, `corrupt` (truncated, damaged, or without a defined range), `too_large`.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if not image:
        raise BadExample("empty", "a file of zero bytes")
    try:
        with Image.open(io.BytesIO(image)) as opened:
            if opened.width * opened.height > max_pixels:
                raise BadExample("too_large", f"{opened.width} x {opened.height} pixels, the limit is {max_pixels}")
            opened.load()
            return _to_rgb(_upright(opened))
    except BadExample:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadExample("too_large", str(error)) from error
    except UnidentifiedImageError as error:
        raise BadExample("not_image", f"{len(image)} bytes of no known image format") from error
    except Exception as error:  # on corrupt files Pillow's plugins raise nearly every type there is
        raise BadExample("corrupt", f"{type(error).__name__}: {error}") from error


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4))):
        raise BadExample("corrupt", f"array of {array.dtype} {list(array.shape)}; expected uint8 [H,W,3]")
    image = Image.fromarray(np.ascontiguousarray(array))
    return image if image.mode == "RGB" else image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # metadata that cannot be parsed says nothing about the pixels
        return image
    return image if orientation == 1 else ImageOps.exif_transpose(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode == "RGB":
        return image
    if mode == "I" or mode.startswith("I;16"):
        # Pillow would clip 16-bit samples at 255; it gives 16-bit greyscale as I;16 or, from some formats, as I.
        samples = np.clip(np.asarray(image, dtype=np.int64), 0, 65535) >> 8
        return Image.fromarray(samples.astype(np.uint8)).convert("RGB")
    if mode == "F":
        raise BadExample("corrupt", "floating-point samples have no defined range")
    if mode in ("P", "PA") and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def train_transform(image: Image.Image, spec: ImageSpec, rng: np.random.Generator) -> UInt8[np.ndarray, "H W 3"]:
    """Random resized crop, as torchvision's `RandomResizedCrop` defines it, and a flip where the spec asks for one.

    The crop is resampled in place (`resize(box=...)`), so that at its border the filter sees the neighbouring pixels.
    """
    left, top, width, height = random_crop_box(image.width, image.height, spec, rng)
    box = (left, top, left + width, top + height)
    if (width, height) == (spec.size, spec.size):
        image = image.crop(box)
    else:
        image = image.resize((spec.size, spec.size), _RESAMPLING[spec.interpolation], box=box)
    pixels = np.asarray(image)
    return np.ascontiguousarray(pixels[:, ::-1]) if spec.flip and rng.random() < 0.5 else pixels


def random_crop_box(width: int, height: int, spec: ImageSpec, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draws the training crop of an image of this size, in pixels: (left, top, crop width, crop height).

    Ten tries with area ~ U(crop_scale) and log aspect ratio ~ U(log crop_ratio); when none fits, the largest central
    crop whose aspect ratio is within `crop_ratio` (torchvision's `RandomResizedCrop.get_params`).
    """
    area = width * height
    (scale_low, scale_high), (ratio_low, ratio_high) = spec.crop_scale, spec.crop_ratio
    log_low, log_high = math.log(ratio_low), math.log(ratio_high)
    for _ in range(_CROP_TRIES):
        target_area = area * (scale_low + (scale_high - scale_low) * rng.random())
        ratio = math.exp(log_low + (log_high - log_low) * rng.random())
        crop_width = round(math.sqrt(target_area * ratio))
        crop_height = round(math.sqrt(target_area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(rng.random() * (height - crop_height + 1))
            left = int(rng.random() * (width - crop_width + 1))
            return left, top, crop_width, crop_height
    if width / height < ratio_low:
        crop_width, crop_height = width, max(1, min(height, round(width / ratio_low)))
    elif width / height > ratio_high:
        crop_width, crop_height = max(1, min(width, round(height * ratio_high))), height
    else:
        crop_width, crop_height = width, height
    return (width - crop_width) // 2, (height - crop_height) // 2, crop_width, crop_height


def eval_transform(image: Image.Image, spec: ImageSpec) -> UInt8[np.ndarray, "H W 3"]:
    """Resizes for evaluation, with the rounding of torchvision's `Resize(size)` and `CenterCrop(size)`.

    An image that already has the target size comes back unchanged.
    """
    size, resampling = spec.size, _RESAMPLING[spec.interpolation]
    width, height = image.size
    if (width, height) == (size, size):
        return np.asarray(image)
    if spec.resize == "squash":
        return np.asarray(image.resize((size, size), resampling))
    if width <= height:
        new_width, new_height = size, int(size * height / width)
    else:
        new_width, new_height = int(size * width / height), size
    if (width, height) != (new_width, new_height):
        image = image.resize((new_width, new_height), resampling)
    left, top = round((new_width - size) / 2.0), round((new_height - size) / 2.0)
    return np.asarray(image.crop((left, top, left + size, top + size)))
