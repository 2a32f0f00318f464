"""Images that the tests encode, and the files they become."""

import io

import numpy as np
from PIL import Image


def encoded(image, fmt="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def gradient(width, height):
    y, x = np.mgrid[:height, :width]
    red, green = x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1)
    return np.stack([red, green, (red + green) // 2], -1).astype(np.uint8)


def noise(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(width, height, seed=0):
    """Blobs of many colours and sizes, as photographs have: most of the energy in the low frequencies."""
    layers = [Image.fromarray(noise(n, n, seed + n)).resize((width, height), Image.Resampling.BICUBIC) for n in (4, 9)]
    return np.asarray(Image.blend(*layers, 0.3))


def stored(upright, orientation, fmt, **options):
    """The file of an image whose EXIF says where its rows and columns begin (EXIF 2.3, tag 0x0112)."""
    first_row, first_column = (
        ("top", "left"),
        ("top", "right"),
        ("bottom", "right"),
        ("bottom", "left"),
        ("left", "top"),
        ("right", "top"),
        ("right", "bottom"),
        ("left", "bottom"),
    )[orientation - 1]
    pixels = upright if first_row in ("top", "bottom") else upright.swapaxes(0, 1)
    pixels = pixels[::-1] if first_row in ("bottom", "right") else pixels
    pixels = pixels[:, ::-1] if first_column in ("bottom", "right") else pixels
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(np.ascontiguousarray(pixels)), fmt, exif=exif, **options)


GREY_BLUE = encoded(Image.new("RGB", (32, 32), (60, 60, 90)), "JPEG")
