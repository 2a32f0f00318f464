"""Classes that are named by WordNet ids, as ImageNet's folders are: `n01440764` is a tench.

The names are those of `mmjax/data/classes/imagenet1k.json`, in OpenAI's words; the licence lies beside it.
"""

import functools
import json
import logging
import re
from collections.abc import Sequence
from importlib import resources

_ID = re.compile(r"n\d{8}")

log = logging.getLogger("mmjax.data")


@functools.cache
def _names_by_id() -> dict[str, str]:
    content = json.loads((resources.files("mmjax.data") / "classes" / "imagenet1k.json").read_text(encoding="utf-8"))
    return dict(zip(content["codes"], content["classes"], strict=True))


def unknown_ids(names: Sequence[str]) -> list[str]:
    """The names that are WordNet ids, but none of ImageNet-1k's."""
    ids = [name for name in names if _ID.fullmatch(name)]
    return [name for name in ids if name not in _names_by_id()] if ids else []


def begins_with_id(name: str) -> bool:
    """Whether a name is one of ImageNet-1k's ids with something behind it, such as `n01440764_tench`."""
    return bool(_ID.fullmatch(name[:9]) and name[9:10] in ("_", " ", "-", ".") and name[:9] in _names_by_id())


def readable_names(names: Sequence[str]) -> list[str] | None:
    """Names of classes with words for ImageNet-1k's ids; None where there is none of these."""
    if not any(map(_ID.fullmatch, names)):
        return None
    return [_names_by_id().get(name, name) for name in names]


def log_numbers(names: Sequence[str], where: str, remedy: str) -> None:
    """Logs that classes are called by numbers, of which no prompt can be made, where they are."""
    if names and all(name.isdecimal() for name in names):
        log.warning(
            "%s: classes are called by numbers (%r, ...), and so are the texts made of them: 'a photo of a %s.'; %s",
            where,
            names[0],
            names[0],
            remedy,
        )
