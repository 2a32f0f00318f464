"""Crops of training images: drawn from the header, resized and augmented on the host.

What a device resizes instead is in `frames`; both draw the same crops.
"""

import contextlib
import copy
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, JpegImagePlugin

from mmjax.data.image import augment
from mmjax.data.image.four_nearest import four_nearest
from mmjax.data.image.image_file import MAX_PIXELS, apply_orientation, find_orientation, from_array, open_file, to_rgb
from mmjax.data.image.transforms import RESAMPLING, ImageSpec, central_box

Box = tuple[float, float, float, float]

_CROP_TRIES = 10
_PARTS = 8  # of a pixel


class DrawnCrop(NamedTuple):
    """A crop that has been drawn, of an image that may not have been decoded yet.

    Attributes:
      image: as the file stores it, at the size at which it will be decoded.
      box: of the crop in that image: (left, top, right, bottom), in pixels.
      orientation: what makes it upright, see `find_orientation`.
      scale: what libjpeg divides the file's size by while it decodes.
    """

    image: Image.Image
    box: Box
    orientation: int = 1
    scale: int = 1


def train_image(
    image: bytes | np.ndarray, spec: ImageSpec, rng: np.random.Generator, *, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "H W 3"]:
    """Decodes a training image, resizes a part of it or all of it, and augments it as the spec says.

    The part is found from the size of the upright image, see `training_box`, and resampled in place
    (`resize(box=...)`), so that at its border the filter sees the neighbouring pixels. It is the same with `spec.draft`
    and without. Then come the flip, RandAugment, colour jitter and grayscale.

    Args:
      image: see `image_file.decode`.
      spec: what to do.
      rng: everything random is drawn from it.
      max_pixels: see `image_file.decode`.

    Raises:
      BadExample: as `image_file.decode` does.
    """
    with draw_crop(image, spec, rng, max_pixels) as drawn:
        crop = resize_crop(drawn, spec)
    return np.asarray(_augment(crop, spec, rng))


def train_frames(
    frames: Iterable[tuple[Image.Image, int]], spec: ImageSpec, rng: np.random.Generator
) -> list[UInt8[np.ndarray, "H W 3"]]:
    """The frames of a clip as `train_image` makes them of images, all cropped, mirrored and augmented alike.

    Args:
      frames: images of one size, each with the EXIF orientation that makes it upright.
      spec: what to do.
      rng: everything random is drawn from it, once for all.
    """
    box, after, out = None, rng, []
    for image, orientation in frames:
        if box is None:
            upright = (image.height, image.width) if orientation >= 5 else image.size
            box = _stored_box(training_box(*upright, spec, rng), orientation, upright)
        after = copy.deepcopy(rng)  # each frame's augmentation draws the same numbers
        out.append(np.asarray(_augment(resize_crop(DrawnCrop(image, box, orientation), spec), spec, after)))
    rng.bit_generator.state = after.bit_generator.state
    return out


@contextlib.contextmanager
def draw_crop(
    image: bytes | np.ndarray, spec: ImageSpec, rng: np.random.Generator, max_pixels: int
) -> Iterator[DrawnCrop]:
    """Opens an image, for as long as the block lasts, and draws its crop.

    Raises:
      BadExample: as `image_file.decode` does; also for what goes wrong in the block.
    """
    if isinstance(image, np.ndarray):
        opened = from_array(image)
        yield DrawnCrop(opened, training_box(*opened.size, spec, rng))
        return
    with open_file(image, max_pixels) as opened:
        jpeg = isinstance(opened, JpegImagePlugin.JpegImageFile)
        if not jpeg:  # some plugins know orientation and size for sure only after this
            opened.load()
        orientation, scale = find_orientation(opened), 1
        width, height = opened.size
        upright = (height, width) if orientation >= 5 else (width, height)
        box = _stored_box(training_box(*upright, spec, rng), orientation, upright)
        if jpeg and spec.draft and spec.antialias:  # what libjpeg divides it averages
            box, scale = _draft(opened, box, spec.size)
        yield DrawnCrop(opened, box, orientation, scale)


def resize_crop(drawn: DrawnCrop, spec: ImageSpec) -> Image.Image:
    """The crop, resized and upright: the small crop is turned, not the large image."""
    return apply_orientation(_crop(drawn.image, drawn.box, spec), drawn.orientation)


def _stored_box(box: Box, orientation: int, upright: tuple[int, int]) -> Box:
    """Where a box (left, top, right, bottom) of the upright image of this size lies in the file's image."""
    left, top, right, bottom = box
    width, height = upright
    if orientation in (2, 3, 6, 7):
        left, right = width - right, width - left
    if orientation in (3, 4, 7, 8):
        top, bottom = height - bottom, height - top
    return (top, left, bottom, right) if orientation >= 5 else (left, top, right, bottom)


def _draft(jpeg: JpegImagePlugin.JpegImageFile, box: Box, size: int) -> tuple[Box, int]:
    """Makes libjpeg decode at the smallest scale that keeps the box `size` pixels a side.

    Returns:
      The scaled box, and what it was divided by.
    """
    side = min(box[2] - box[0], box[3] - box[1])
    scale = next((s for s in (8, 4, 2) if side >= s * size), 1)
    if scale > 1 and jpeg.draft(None, (jpeg.width // scale, jpeg.height // scale)) is None:
        return box, 1  # Pillow has another decoder for this file
    left, top, right, bottom = box
    return (left / scale, top / scale, right / scale, bottom / scale), scale


def _crop(image: Image.Image, box: Box, spec: ImageSpec) -> Image.Image:
    """The box of an image in any mode, as RGB [size, size]."""
    if image.mode != "L":  # grey stays grey while it is resampled: a third of the work for the same pixels
        image = to_rgb(image)
    size = spec.size
    is_square = (box[2] - box[0], box[3] - box[1]) == (size, size)
    if not spec.antialias or (is_square and all(x == int(x) for x in box)):  # without, boxes are of whole pixels
        left, top, right, bottom = map(int, box)
        image = image.crop((left, top, right, bottom))
    else:
        image = image.resize((size, size), RESAMPLING[spec.interpolation], box=box)
    image = to_rgb(image)
    return image if image.size == (size, size) else Image.fromarray(four_nearest(np.asarray(image), size, size))


def _augment(image: Image.Image, spec: ImageSpec, rng: np.random.Generator) -> Image.Image:
    if draw_flip(spec, rng):
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    num_ops, magnitude = map(int, spec.randaugment)
    if num_ops:
        policy = augment.POLICIES[spec.randaugment_policy]
        image = augment.rand_augment(image, policy, num_ops, magnitude, rng)
    if any(spec.color_jitter) and rng.random() < spec.color_jitter_prob:
        image = augment.color_jitter(image, spec.color_jitter, rng)
    if spec.grayscale and rng.random() < spec.grayscale:
        image = augment.grayscale(image)
    return image


def draw_flip(spec: ImageSpec, rng: np.random.Generator) -> bool:
    """Draws whether an image is mirrored; where none is, nothing is drawn."""
    return spec.flip and rng.random() < 0.5


def training_box(width: int, height: int, spec: ImageSpec, rng: np.random.Generator) -> Box:
    """Which part of an image of this size training sees, in pixels: (left, top, right, bottom).

    By `spec.train_resize` a random crop, for which alone something is drawn; all of it; or its middle, which is what
    evaluation's `crop` shows, to whole pixels, or in an image of less than twice the model's side to eighths.
    """
    if spec.train_resize == "crop":
        return random_crop_box(width, height, spec, rng)
    if spec.train_resize == "squash":
        return 0, 0, width, height
    # Libjpeg divides images of twice the model's side, and devices count in eighths of what is left, see `frames.BOX`.
    parts = 1 if not spec.antialias or min(width, height) >= 2 * spec.size else _PARTS
    left, top, right, bottom = (x * parts for x in central_box(width, height, spec))
    (left, right), (top, bottom) = _to_whole(left, right, width * parts), _to_whole(top, bottom, height * parts)
    return left / parts, top / parts, right / parts, bottom / parts


def _to_whole(start: float, stop: float, end: int) -> tuple[int, int]:
    """An interval of [0, end] to whole numbers. Its length is rounded, not both of its ends: that might leave none."""
    length = max(1, round(stop - start))
    start = min(round(start), end - length)
    return start, start + length


def random_crop_box(width: int, height: int, spec: ImageSpec, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draws the training crop of an image of this size, in pixels: (left, top, right, bottom).

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
            return left, top, left + crop_width, top + crop_height
    if width / height < ratio_low:
        crop_width, crop_height = width, max(1, min(height, round(width / ratio_low)))
    elif width / height > ratio_high:
        crop_width, crop_height = max(1, min(width, round(height * ratio_high))), height
    else:
        crop_width, crop_height = width, height
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return left, top, left + crop_width, top + crop_height
