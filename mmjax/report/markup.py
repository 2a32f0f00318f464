"""Pages from templates; they refer to nothing outside themselves."""

import base64
import functools
import io
from typing import Any

import numpy as np
from PIL import Image

_PIXELATED_BELOW = 66  # pictures with a shorter longest side are enlarged without smoothing: two frames of 32 pixels


def render(template: str, **values: Any) -> str:
    """A template of `report/templates` with these values, escaped but for `markupsafe.Markup`."""
    return _environment().get_template(template).render(values)


@functools.cache
def _environment():
    # Imported here: a run that writes no page does without.
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mmjax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # A lone surrogate (a broken file name, say) could not be written as UTF-8.
        finalize=lambda value: value.encode("utf-8", "replace").decode() if type(value) is str else value,
    )
    environment.filters |= {"data_uri": data_uri, "is_pixelated": lambda pixels: _longest(pixels) <= _PIXELATED_BELOW}
    return environment


def _longest(pixels: np.ndarray) -> int:
    return max(pixels.shape[:2])


def data_uri(pixels: np.ndarray, kind: str = "") -> str:
    """A picture, uint8 [h, w, 3] or [h, w, 4], as a data URI; `kind` is png or jpeg, by default what suits its size."""
    picture, stream = Image.fromarray(pixels), io.BytesIO()
    # Small pictures stay exact; larger photographs would make the page heavy.
    kind = kind or ("png" if _longest(pixels) <= _PIXELATED_BELOW or picture.mode == "RGBA" else "jpeg")
    picture.save(stream, kind, **({"quality": 88} if kind == "jpeg" else {"optimize": True}))
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
