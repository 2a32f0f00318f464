"""Checks of the settings of a convolutional tower that another library's files give."""

from collections.abc import Mapping
from typing import Any

from mmjax.errors import UserError
from mmjax.models.image_config import CONV_STAGES, CONV_STRIDE

# Far beyond any tower's: a damaged file is refused before it is built.
MOST_BLOCKS, WIDEST = 1_000, 65_536


def check(image: Mapping[str, Any], path: Any) -> None:
    """Checks the sizes of a convolutional tower.

    Raises:
      UserError: naming the field.
    """
    for field in ("blocks", "widths"):
        value, most = image.get(field), MOST_BLOCKS if field == "blocks" else WIDEST
        if value is None:
            continue
        if len(value) != CONV_STAGES or not all(type(number) is int and 1 <= number <= most for number in value):
            raise UserError(f"{path}: image.{field}={str(value)[:80]} wants {CONV_STAGES} numbers from 1 to {most}")
    size = image["image_size"]
    if type(size) is not int or not CONV_STRIDE <= size <= WIDEST or size % CONV_STRIDE:
        raise UserError(f"{path}: image.image_size={size!r} wants a multiple of {CONV_STRIDE} up to {WIDEST}")
    width = image["widths"][-1] if "widths" in image else CONV_STRIDE * image["stem_width"]
    if width > WIDEST or not image["pool_heads"] or width % image["pool_heads"] or image.get("stem_width", 2) % 2:
        raise UserError(
            f"{path}: image.pool_heads={image['pool_heads']} does not divide the tower's width of {width}, or that is"
            f" none of 64 to {WIDEST}"
        )
