"""Frames in which training images travel to a device that resizes them: a fixed frame, and the box of the crop in it.

`mmjax.nn.resize` makes of them what `crops.train_image` would have made. The frame holds the crop and the pixels
around it that the filter sees; a picture that does not fit is resized on the host, and its box then is the whole crop.
"""

import functools
import math
from collections.abc import Iterable

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image

from mmjax.data.bad_example import BadExample
from mmjax.data.image import crops, jpeg
from mmjax.data.image.image_file import MAX_PIXELS, to_rgb
from mmjax.data.image.transforms import ImageSpec

# Numbers of a box: left, top, right, bottom in eighths of a pixel (libjpeg divides by up to 8), width and height of
# what the frame holds, whether the result is mirrored, and whether the vertical pass of resizing comes first.
BOX = 8
UNIT = 8

_SUPPORT = {"bicubic": 2.0, "bilinear": 1.0}
_STEP = 32  # sides are multiples of this
_LARGEST = 3  # times the model's side: larger frames cost more to move than resizing on the host costs
_HELD = 0.9  # share of the pictures that fit at all which the frame holds


def train_frame(
    image: bytes | np.ndarray, spec: ImageSpec, rng: np.random.Generator, *, max_pixels: int = MAX_PIXELS
) -> tuple[UInt8[np.ndarray, "F F 3"], Int32[np.ndarray, "8"]]:
    """Decodes a training image and draws its crop and flip, as `crops.train_image` does, which a device carries out.

    Args:
      image: see `image_file.decode`.
      spec: what to do; its `frame` is F.
      rng: everything random is drawn from it.
      max_pixels: see `image_file.decode`.

    Returns:
      The frame, black where it holds nothing, and the box, see `BOX`.

    Raises:
      BadExample: as `image_file.decode` does.
    """
    frame = np.zeros((spec.frame, spec.frame, 3), np.uint8)
    with crops.draw_crop(image, spec, rng, max_pixels) as drawn:
        left, top, right, bottom = region = _region(drawn, spec)
        if drawn.orientation == 1 and _side(region) <= spec.frame:
            pixels = None if isinstance(image, np.ndarray) else jpeg.decode_pixels(image, drawn.image, drawn.scale)
            if pixels is None:
                pixels = np.asarray(to_rgb(drawn.image))
            frame[: bottom - top, : right - left] = pixels[top:bottom, left:right]
            box = [x - start for x, start in zip(drawn.box, (left, top, left, top), strict=True)]
            held, vertical = (right - left, bottom - top), _vertical_first(drawn.image.size, spec.size)
        else:
            frame[: spec.size, : spec.size] = np.asarray(crops.resize_crop(drawn, spec))
            box, held = (0, 0, spec.size, spec.size), (spec.size, spec.size)
            vertical = False
    flip = crops.draw_flip(spec, rng)
    return frame, np.array([*(round(UNIT * x) for x in box), *held, flip, vertical], np.int32)


def blank_frame(spec: ImageSpec) -> tuple[UInt8[np.ndarray, "F F 3"], Int32[np.ndarray, "8"]]:
    """The frame and box of a black picture."""
    side = UNIT * spec.size
    box = np.array([0, 0, side, side, spec.size, spec.size, 0, 0], np.int32)
    return np.zeros((spec.frame, spec.frame, 3), np.uint8), box


def default_side(size: int) -> int:
    """The side of frames where no picture is known: those of 256 pixels for a model of 224, as CLIP's are stored."""
    return _to_multiple(size * 8 / 7)


def choose_side(images: Iterable[bytes | np.ndarray], spec: ImageSpec) -> tuple[int, int, int]:
    """Chooses the side of frames after looking at the headers of some pictures.

    Args:
      images: the pictures.
      spec: how they are cropped.

    Returns:
      The smallest side that holds nine tenths of the pictures that are not too large for any frame, how many pictures
      fit such a frame, and how many were looked at. Those that cannot be opened count for nothing.
    """
    sides, rng = [], np.random.default_rng(0)
    for image in images:
        try:
            with crops.draw_crop(image, spec, rng, MAX_PIXELS) as drawn:
                sides.append(_side(_region(drawn, spec)) if drawn.orientation == 1 else math.inf)
        except BadExample:
            continue
    fitting = sorted(side for side in sides if side <= _LARGEST * spec.size)
    if not fitting:
        return _to_multiple(spec.size), 0, len(sides)
    side = max(_to_multiple(spec.size), _to_multiple(fitting[math.ceil(_HELD * len(fitting)) - 1]))
    return side, sum(each_side <= side for each_side in sides), len(sides)


def _vertical_first(shape: tuple[int, int], size: int) -> bool:
    """Whether Pillow makes the vertical pass first when it resizes an image of this shape to a square.

    Since version 13 it does where the height shrinks by much more than the width. The pixels differ, as each pass is
    rounded.
    """
    width, height = shape
    return height - size > 2 * max(0, width - size) and _has_order()


@functools.cache
def _has_order() -> bool:
    """Whether this Pillow chooses between the passes: then an image is not what two resizings make of it."""
    tall = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 9), dtype=np.uint8))
    horizontal_first = tall.resize((8, 64)).resize((8, 8))
    return not np.array_equal(np.asarray(tall.resize((8, 8))), np.asarray(horizontal_first))


def _to_multiple(side: float) -> int:
    return _STEP * math.ceil(side / _STEP)


def _region(drawn: crops.DrawnCrop, spec: ImageSpec) -> tuple[int, int, int, int]:
    """The pixels that the crop's filter sees: (left, top, right, bottom)."""
    (width, height), (left, top, right, bottom) = drawn.image.size, drawn.box
    # As far as the filter reaches beyond the box, at least; by its nature no more than the picture has.
    x, y = (
        math.ceil(_SUPPORT[spec.interpolation] * max(1.0, side / spec.size)) + 1
        for side in (right - left, bottom - top)
    )
    return (
        max(0, math.floor(left) - x),
        max(0, math.floor(top) - y),
        min(width, math.ceil(right) + x),
        min(height, math.ceil(bottom) + y),
    )


def _side(region: tuple[int, int, int, int]) -> int:
    left, top, right, bottom = region
    return max(right - left, bottom - top)
