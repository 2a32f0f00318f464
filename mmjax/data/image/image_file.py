"""Image files: their suffixes, and their bytes read and decoded to upright 8-bit RGB."""

import contextlib
import errno
import functools
import io
import logging
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError

from mmjax.data.bad_example import BadExample
from mmjax.io.patterns import error_reason
from mmjax.io.reader import Reader
from mmjax.io.regular_file import NotReadableError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")

# Images with more pixels than this are refused before they are decoded (Pillow's own warning threshold).
MAX_PIXELS = 89_478_485
# Files of more bytes are not read: as many as so many pixels have uncompressed, and a little more.
MAX_BYTES = 3 * MAX_PIXELS + (1 << 20)

# Formats that hold photographs, where this Pillow reads them. Its other plugins start programs (EPS), know no magic
# number or are rare.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
# Formats whose decoders hold several copies of an image have a smaller limit, by this factor: none fills 1 GB.
_COPIES = {"WEBP": 2, "JPEG2000": 2, "PPM": 2}
_PLAIN_TEXT = 16  # the same, of PPMs whose numbers are written out: they take long
_BAND = 256  # rows
_LARGE_FILE, _MOST_EXIF = 16 << 20, 200  # bytes; parts of EXIF, of 64 KB at most, in a larger file
_MANY_SCANS_PIXELS = 1 << 18  # smaller JPEGs are decoded quickly whatever they hold

# What makes an image of this EXIF orientation upright.
_ORIENTATION = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_KEYS = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")  # where Pillow finds an orientation

# A damaged file is reported as a BadExample; Pillow's own words about it would fill the log.
for _category in (UserWarning, RuntimeWarning):
    warnings.filterwarnings("ignore", module=r"PIL\.", category=_category)
logging.getLogger("PIL").setLevel(logging.CRITICAL)


def read_image(reader: Reader, path: str, *, limit: int = MAX_BYTES) -> bytes:
    """Returns an image file's contents; or another's, with the limit of its kind.

    Raises:
      OSError: it is not there, or cannot be read.
      BadExample: `read`, where the path is of a kind that nothing here can read; `too_large`.
    """
    try:
        return reader.read(path, limit=limit)
    except NotReadableError as error:
        reason = "too_large" if error.errno == errno.EFBIG else "read"
        raise BadExample(reason, f"{path!r} {error.strerror}") from error
    except (ValueError, ImportError) as error:  # a scheme that is unknown, or whose package is missing
        raise BadExample("read", f"{path!r}: {error_reason(error)}") from error


def decode(image: bytes | np.ndarray, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decodes an image to upright 8-bit RGB.

    The EXIF orientation is applied, palettes are expanded, alpha is dropped without compositing (as OpenCLIP does),
    16-bit samples keep their high byte, and of several frames the first counts.

    Args:
      image: an encoded file in one of FORMATS, or a uint8 array [H,W], [H,W,1], [H,W,3] or [H,W,4].
      max_pixels: larger images are refused from their header, before they can fill the memory.

    Raises:
      BadExample: `empty`, `not_image`, `corrupt` (truncated, damaged, or without a defined range), `too_large`.
    """
    if isinstance(image, np.ndarray):
        return from_array(image)
    with open_file(image, max_pixels) as opened:
        opened.load()
        return apply_orientation(to_rgb(opened), find_orientation(opened))


@contextlib.contextmanager
def open_file(image: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """Opens a file for as long as it is decoded; whatever goes wrong in the block becomes a BadExample."""
    if not image:
        raise BadExample("empty", "a file of zero bytes")
    # Pillow joins them one by one, which takes the square of their number.
    if len(image) > _LARGE_FILE and (parts := image.count(b"Exif\0\0")) > _MOST_EXIF:
        raise BadExample("corrupt", f"{parts} parts of EXIF")
    try:
        with Image.open(io.BytesIO(image), formats=_formats()) as opened:
            _check_size(opened, image, max_pixels)
            yield opened
    except BadExample:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadExample("too_large", str(error)) from error
    except UnidentifiedImageError as error:
        raise BadExample("not_image", f"{len(image)} bytes of no image format that is read here") from error
    except Exception as error:  # on corrupt files Pillow's plugins raise nearly every type there is
        raise BadExample("corrupt", f"{type(error).__name__}: {error}") from error


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()  # all plugins: on its own Pillow starts with a few
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _check_size(opened: Image.Image, image: bytes, max_pixels: int) -> None:
    """Refuses, from its header, an image that would take too much memory or time."""
    width, height = opened.size
    if isinstance(opened, TiffImagePlugin.TiffImageFile):  # a tile is decoded whole, and may be larger than the image
        width = max(width, int(opened.tag_v2.get(322, 0)))
        height = max(height, int(opened.tag_v2.get(323, 0)))
    limit = max_pixels // (_PLAIN_TEXT if image[:2] in (b"P1", b"P2", b"P3") else _COPIES.get(opened.format or "", 1))
    if width * height > limit:
        raise BadExample("too_large", f"{width} x {height} pixels, the limit is {limit} for {opened.format}")
    if isinstance(opened, JpegImagePlugin.JpegImageFile) and width * height > _MANY_SCANS_PIXELS:
        # Each scan goes over all pixels, and an empty one takes few bytes. Encoders write about ten; by chance the
        # marker is found once in 64 KiB of whatever follows the image.
        scans = image.count(b"\xff\xda")
        if scans > 500 + (len(image) >> 14):
            raise BadExample("corrupt", f"{scans} scans")


def from_array(array: np.ndarray, *, convert: bool = True) -> Image.Image:
    """An array as `decode` takes it, as RGB; or as it is, L, RGB or RGBA."""
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4))):
        raise BadExample("corrupt", f"array of {array.dtype} {list(array.shape)}; expected uint8 [H,W,3]")
    if 0 in array.shape:
        raise BadExample("empty", f"array {list(array.shape)} without pixels")
    image = Image.fromarray(np.ascontiguousarray(array))
    return image if image.mode == "RGB" or not convert else image.convert("RGB")


def find_orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, that is still to be applied; Pillow turns TIFFs itself while it loads them."""
    # PNGs may have it after the pixels, where only getexif looks.
    if image.format != "PNG" and not any(key in image.info for key in _EXIF_KEYS):
        return 1
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # metadata that cannot be parsed says nothing about the pixels
        return 1
    return orientation if orientation in _TRANSPOSE else 1


def apply_orientation(image: Image.Image, orientation: int) -> Image.Image:
    """The upright image of one that is stored in this EXIF orientation."""
    return image if orientation == 1 else image.transpose(_TRANSPOSE[orientation])


def _high_bytes(image: Image.Image) -> Image.Image:
    """16-bit greyscale as L, a band of rows at a time: the image itself takes enough memory."""
    width, height = image.size
    samples = np.empty((height, width), np.uint8)
    for top in range(0, height, _BAND):
        band = np.asarray(image.crop((0, top, width, min(top + _BAND, height))))
        samples[top : top + _BAND] = np.clip(band, 0, 65535) >> 8
    return Image.fromarray(samples)


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as 8-bit RGB, see `decode`."""
    mode = image.mode
    if mode == "RGB":
        return image
    if mode == "I" or mode.startswith("I;16"):
        # Pillow would clip 16-bit samples at 255; it gives 16-bit greyscale as I;16 or, from some formats, as I.
        return _high_bytes(image).convert("RGB")
    if mode == "F":
        raise BadExample("corrupt", "floating-point samples have no defined range")
    if mode in ("P", "PA") and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
