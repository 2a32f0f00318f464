"""A decoder of JPEGs by libjpeg-turbo's own interface, where that gives Pillow's pixels, only faster.

Pillow has opened the file before and knows its format; it also decodes whatever this decoder refuses.
"""

import functools
import importlib.metadata
import io
from types import ModuleType

import numpy as np
from jaxtyping import UInt8
from PIL import Image, JpegImagePlugin, features

PACKAGE = "simplejpeg"

# What the two decoders are compared on: (width, height) that fill no block, JPEG options, and libjpeg's scales.
_COMPARED = (
    *(((37, 29), {"quality": 90, "subsampling": subsampling}) for subsampling in (0, 1, 2)),
    ((61, 43), {"quality": 75, "subsampling": 2, "progressive": True}),
    ((37, 29), {"quality": 95}),
)


def decode_pixels(data: bytes, opened: Image.Image, scale: int) -> UInt8[np.ndarray, "H W C"] | None:
    """The pixels of a JPEG, RGB or a single channel; None where Pillow is to decode it.

    None also for damaged files: Pillow alone decides whether they are a bad example.

    Args:
      data: the file.
      opened: by Pillow, not decoded, at the size that is wanted.
      scale: what libjpeg divides the file's size by.
    """
    if not isinstance(opened, JpegImagePlugin.JpegImageFile) or opened.mode not in ("RGB", "L"):
        return None
    library, _ = _library()
    return None if library is None else _decode(library, data, opened.mode, opened.size, scale)


def describe() -> str:
    """The decoder of JPEGs, for the log."""
    library, obstacle = _library()
    if library is None:
        return f"Pillow ({obstacle})"
    return f"libjpeg-turbo ({PACKAGE} {importlib.metadata.version(PACKAGE)})"


def _decode(library: ModuleType, data: bytes, mode: str, size: tuple[int, int], scale: int) -> np.ndarray | None:
    width, height = size
    # Without a scale the full size is decoded; with one, the smallest size that is at least this.
    least = {"min_width": width, "min_height": height} if scale > 1 else {}
    try:
        decoded = library.decode_jpeg(data, "RGB" if mode == "RGB" else "GRAY", **least)
    except (ValueError, RuntimeError):  # it is strict: what libjpeg only warns of is an error, too
        return None
    return decoded if decoded.shape[:2] == (height, width) else None


@functools.cache
def _library() -> tuple[ModuleType | None, str]:
    """The package, where its pixels are Pillow's; or None, and why.

    Pillow may have been built with another libjpeg, and then a run's pixels would depend on what is installed.
    """
    try:
        import simplejpeg
    except ImportError:
        return None, f"{PACKAGE} is not installed"
    for size, options in _COMPARED:
        mode = "RGB" if "subsampling" in options else "L"
        file = io.BytesIO()
        noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).convert(mode).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", **options)
        for scale in (1, 2, 4):
            with Image.open(io.BytesIO(file.getvalue())) as opened:
                if scale > 1:
                    opened.draft(None, (size[0] // scale, size[1] // scale))
                decoded = _decode(simplejpeg, file.getvalue(), mode, opened.size, scale)
                expected = np.asarray(opened)
            if decoded is None or not np.array_equal(decoded.reshape(expected.shape), expected):
                built = "libjpeg-turbo" if features.check_feature("libjpeg_turbo") else "another libjpeg"
                return None, f"{PACKAGE} decodes otherwise than this Pillow, which was built with {built}"
    return simplejpeg, ""
