"""Arrays of the numbers in fields of a JSON member, as `json:a,b` in `data.image_key` names them."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmjax.data.bad_example import BadExample
from mmjax.data.formats.json_fields import get_nested, json_fault, shorten


def member_of(ending: str) -> str:
    """The ending of the member that a part of `data.image_key` reads: `json` of `json:a,b`."""
    return ending.partition(":")[0]


def inputs_of_fields(content: bytes, fields: Sequence[str]) -> dict[str, Any]:
    """What fields of a member give of an example, by modality; nothing where all are missing.

    Numbers are a `table` [fields], lists of numbers a `series` [steps, fields], one list of lists a `series` as it is.
    NaN stands for null and for a field that is not there.

    Args:
      content: of the member.
      fields: their names, those inside others by their path.

    Raises:
      BadExample: `corrupt` where it is no JSON, `other` where the fields hold something else, or lists that differ in
        length.
    """
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadExample("corrupt", f"its .json is no JSON ({json_fault(error)})") from error
    values = {field: get_nested(parsed, field) for field in fields}
    if all(value is None for value in values.values()):
        return {}
    arrays = {field: _numbers(value, field) for field, value in values.items() if value is not None}
    shape = next(iter(arrays.values())).shape
    if wrong := next((field for field, array in arrays.items() if array.shape != shape), ""):
        raise BadExample("other", f"field {wrong!r} of its .json is {list(arrays[wrong].shape)}, others {list(shape)}")
    if len(shape) == 2 and len(fields) == 1:
        return {"series": arrays[fields[0]]}
    if len(shape) > 1 or 0 in shape:
        raise BadExample("other", f"field {fields[0]!r} of its .json is {list(shape)}; give numbers, or lists of them")
    missing = np.full(shape, np.nan, np.float32)
    array = np.stack([arrays.get(field, missing) for field in fields], axis=-1)
    return {"series" if shape else "table": array}


def _numbers(value: Any, field: str) -> np.ndarray:
    """A number, or lists of them, as float32.

    Raises:
      BadExample: it holds something else.
    """
    try:
        array = np.array(value)
        is_number = array.dtype.kind in "biuf" or all(isinstance(x, int | float | None) for x in array.ravel())
        if is_number and not isinstance(value, str):
            return array.astype(np.float32)
    except (ValueError, OverflowError):  # lists of different lengths
        pass
    raise BadExample(
        "other",
        f"field {field!r} of its .json is {shorten(value)}, no number and no list of them; data.table.columns reads"
        " categories",
    )
