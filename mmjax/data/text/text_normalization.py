"""Normalisation of texts before they are encoded: cleaning, and cutting long ones to a head with enough ids.

Cleaning and encoding take time by the length of a text.
"""

import re
import string
from collections.abc import Callable

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)

# A text of more than HEAD characters is cut before it is cleaned and encoded, to a head with enough ids and _MARGIN
# more, which the cut may have changed.
HEAD = 1024
# Nothing behind this many characters, or as many an id, is looked at: cleaning takes its time, and no text has so few
# ids for so many characters.
_LONGEST, _LONGEST_OF_ID = 32768, 64
_MARGIN = 32
_SPACE_IN_ASCII = re.compile(r"(?<=[!-~]) (?=[!-~])")


def canonicalize(text: str) -> str:
    """SigLIP's cleaning (big_vision `canonicalize_text`): no ASCII punctuation, lower case, whitespace collapsed."""
    return " ".join(text.replace("_", " ").translate(_NO_PUNCTUATION).lower().split())


def truncate_text(text: str, ids: int, encode: Callable[[str], list[int]]) -> str:
    """The head of a text that has `ids` ids and some more; a short text as it is."""
    length, longest = HEAD, max(_LONGEST, _LONGEST_OF_ID * (ids + _MARGIN))
    text = text if len(text) <= longest else _head(text, longest)
    while length < len(text):
        head = _head(text, length)
        if len(encode(head)) >= ids + _MARGIN:
            return head
        length *= 4
    return text


def _head(text: str, length: int) -> str:
    """Up to `length` characters of a longer text, cut where cleaning sees the same on the left of the cut.

    ftfy goes line by line; words, entities and escapes end at a space, if no broken Unicode stands there.
    """
    line_end = text.rfind("\n", length // 2, length)
    if line_end >= 0:
        return text[: line_end + 1]
    spaces = [match.start() for match in _SPACE_IN_ASCII.finditer(text, length // 2, length)]
    return text[: spaces[-1]] if spaces else text[:length]
