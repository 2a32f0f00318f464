"""Forty-one files of images: many sizes, modes and formats, with EXIF and without."""

import numpy as np
from PIL import Image

from tests.helpers.image_files import encoded, noise, smooth, stored

# Margins of 0, 1, 2 and 3 modulo 4 on either side, ribbons, pictures smaller than a model's, and just its size.
SIZES = [
    *((640, 427), (427, 640), (640, 480), (480, 640), (333, 500), (57, 56), (56, 58), (59, 56), (56, 60)),
    *((56, 56), (20, 31), (31, 20), (7, 50), (400, 9), (112, 112)),
]


def _picture(width, height):
    """Smooth, with fine noise over it, so that every filter and offset shows."""
    return Image.blend(Image.fromarray(smooth(width, height)), Image.fromarray(noise(width, height)), 0.2)


def _with_alpha(width, height):
    picture = _picture(width, height)
    picture.putalpha(Image.fromarray(smooth(width, height, seed=3)[..., 0]))
    return picture


def _transparent_palette(width, height):
    picture = _picture(width, height).quantize(32)
    return encoded(picture, "PNG", transparency=5)


def _sixteen(width, height):
    return (smooth(width, height)[..., 0].astype(np.uint16) << 8) + 77


FILES = {f"RGB {width}x{height}": encoded(_picture(width, height)) for width, height in SIZES}
FILES |= {f"exif {n}": stored(np.asarray(_picture(90, 61)), n, "JPEG", quality=95) for n in range(1, 9)}
FILES |= {
    "JPEG 300x201": encoded(_picture(300, 201), "JPEG", quality=90),
    "grey JPEG 77x120": encoded(_picture(77, 120).convert("L"), "JPEG"),
    "CMYK JPEG 80x61": encoded(_picture(80, 61).convert("CMYK"), "JPEG"),
    "grey 61x90": encoded(_picture(61, 90).convert("L")),
    "grey with alpha 60x84": encoded(_with_alpha(60, 84).convert("LA")),
    "RGBA 97x61": encoded(_with_alpha(97, 61)),
    "RGBA WebP 61x97": encoded(_with_alpha(61, 97), "WEBP", lossless=True),
    "palette 90x60": encoded(_picture(90, 60).quantize(64)),
    "palette with transparency 70x90": _transparent_palette(70, 90),
    "GIF 66x93": encoded(_picture(66, 93).quantize(64), "GIF"),
    "bitmap 90x61": encoded(_picture(90, 61).convert("1")),
    "BMP 91x60": encoded(_picture(91, 60), "BMP"),
    "colour key 60x60": encoded(_picture(60, 60), transparency=(1, 2, 3)),
    "exif 6 PNG": stored(np.asarray(_picture(90, 61)), 6, "PNG"),
    "exif 8 WebP": stored(np.asarray(_picture(61, 90)), 8, "WEBP", lossless=True),
    "16 bits PNG 90x60": encoded(Image.fromarray(_sixteen(90, 60))),
    "16 bits PNG with a colour key 90x60": encoded(Image.fromarray(_sixteen(90, 60)), transparency=(100 << 8) + 77),
    "16 bits TIFF 60x90": encoded(Image.fromarray(_sixteen(60, 90)), "TIFF"),
}
SIXTEEN_BITS = [name for name in FILES if name.startswith("16 bits")]
assert len(FILES) == 41
