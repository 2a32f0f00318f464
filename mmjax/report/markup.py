"""Text and pictures as HTML that refers to nothing outside itself."""

import base64
import html
import io
from typing import Any

import numpy as np
from PIL import Image

_PIXELATED_BELOW = 64  # pictures with a shorter longest side are enlarged without smoothing


def escape(value: Any) -> str:
    """Text as HTML; whatever comes from data or config goes through here."""
    # A lone surrogate (a broken file name, say) could not be written as UTF-8.
    return html.escape(str(value).encode("utf-8", "replace").decode("utf-8"))


def image(pixels: np.ndarray, alt: str) -> str:
    """An image element that holds its picture, uint8 [h, w, 3]."""
    pixelated = " class=pixels" if max(pixels.shape[:2]) <= _PIXELATED_BELOW else ""
    return f'<img{pixelated} alt="{alt}" src="{data_uri(pixels)}">'


def data_uri(pixels: np.ndarray) -> str:
    """A picture, uint8 [h, w, 3] or [h, w, 4], as a data URI."""
    picture, stream = Image.fromarray(pixels), io.BytesIO()
    # Small pictures stay exact; larger photographs would make the page heavy.
    kind = "png" if max(pixels.shape[:2]) <= _PIXELATED_BELOW or picture.mode == "RGBA" else "jpeg"
    picture.save(stream, kind, **({"quality": 88} if kind == "jpeg" else {"optimize": True}))
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
