"""Fields of the objects in files of JSON, which must be there and of the right type; and what is wrong with a JSON."""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmjax.errors import UserError

_SHOWN = 60  # characters of a value
_DEEPEST = 32  # lists in lists, and objects in objects: far less than Python's stack has room for


def text_field(entry: Any, name: str, what: str, needs: str, *, may_be_blank: bool = False) -> str:
    """A text of an object, as it is.

    Args:
      entry: the object.
      name: of the field.
      what: which object of which file, to begin errors with.
      needs: the fields that each of them needs, in words.
      may_be_blank: whether blanks alone are a text.

    Raises:
      UserError: it is no object, or has no such field, or one that is null, a number or another thing that is no text.
    """
    value = field_of(entry, name, what, needs)
    if not isinstance(value, str) or not (may_be_blank or value.strip()):
        raise UserError(f"{what} has {name}={shorten(value)}, which is no text; each needs {needs}")
    return value


def number_field(entry: Any, name: str, what: str, needs: str) -> int:
    """An integer of an object, which may be written as a text; see `text_field`.

    Raises:
      UserError: as there.
    """
    value = field_of(entry, name, what, needs)
    if isinstance(value, str) and value.isdecimal() and len(value) < 19:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{what} has {name}={shorten(value)}, which is no integer; each needs {needs}")
    return value


def field_of(entry: Any, name: str, what: str, needs: str) -> Any:
    """A field of an object, whatever its type; see `text_field`.

    Raises:
      UserError: as there.
    """
    if not isinstance(entry, Mapping):
        raise UserError(f"{what} is {shorten(entry)}, which is no JSON object; each needs {needs}")
    if name not in entry:
        raise UserError(f"{what} lacks {name!r}; each needs {needs}")
    return entry[name]


def shorten(value: Any) -> str:
    """A value as a message shows it."""
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def json_fault(error: Exception) -> str:
    """Why a text is no JSON, of what `json.loads` raised."""
    if isinstance(error, RecursionError):
        return "nested too deep"
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno}: {error.msg}"
    if "set_int_max_str_digits" in str(error):  # advice for programmers
        return f"an integer of more than {sys.get_int_max_str_digits():,} digits"
    return " ".join(str(error).split())


def get_nested(value: Any, path: str, *, lists: int = 0) -> Any:
    """Returns what lies at a path of nested dicts, None where nothing does; in a list, of each of its elements.

    Lists that lie in more than `_DEEPEST` lists have nothing; `lists` says in how many this one lies.
    """
    if isinstance(value, Mapping):
        if path in value:
            return value[path]
        head, *rest = re.split("[./]", path, maxsplit=1)
        return get_nested(value.get(head), rest[0]) if rest else None
    if isinstance(value, Sequence) and not isinstance(value, str | bytes) and lists < _DEEPEST:
        return [get_nested(item, path, lists=lists + 1) for item in value]
    return None


def field_paths(value: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """The fields of an object and of those inside it, also in lists, by their path; not those in `_DEEPEST` others."""
    for key, item in value.items():
        yield before + key
        inside = item[0] if isinstance(item, list) and item else item
        if isinstance(inside, Mapping) and before.count("/") < _DEEPEST:
            yield from field_paths(inside, f"{before}{key}/")
