"""Normalisation of texts before they are encoded: cleaning, and cutting long ones to a head with enough ids.

Cleaning and encoding take time by the length of a text.
"""

import html
import re
import string
from collections.abc import Callable

import ftfy
import ftfy.badness

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)

# A text of more than HEAD characters is cut before it is cleaned and encoded, to a head with enough ids and _MARGIN
# more, which the cut may have changed.
HEAD = 1024
_MARGIN = 32
_SPACE_IN_ASCII = re.compile(r"(?<=[!-~]) (?=[!-~])")
_MOJIBAKE_HEAD = 10_000
_LONG_GAP = re.compile(r" {17,}")
_BLANK_LINE = re.compile(r"\n[\0-\x09\x0b-\x1a\x1c-\x20\x7f]*(?=\n)")


def clean_clip(text: str) -> str:
    """CLIP's cleaning: mended Unicode, HTML entities resolved twice, whitespace collapsed, lower case."""
    return _whitespace(text).lower()


def canonicalize(text: str) -> str:
    """SigLIP's cleaning (big_vision `canonicalize_text`): no ASCII punctuation, lower case, whitespace collapsed."""
    return " ".join(text.replace("_", " ").translate(_NO_PUNCTUATION).lower().split())


def _fix_unicode(text: str) -> str:
    # ftfy and html leave printable ASCII without entities as it is, and take most of the time.
    if text.isascii() and text.isprintable() and "&" not in text:
        return text
    return html.unescape(html.unescape(ftfy.fix_text(text)))


def _whitespace(text: str) -> str:
    return " ".join(_fix_unicode(text).split())


# OpenCLIP's `clean` by name: the function, and what it does in words.
CLEANERS: dict[str, tuple[Callable[[str], str], str]] = {
    "whitespace": (_whitespace, "ftfy, HTML entities twice, whitespace"),
    "lower": (clean_clip, "ftfy, HTML entities twice, whitespace, lower case"),
    "canonicalize": (
        lambda text: canonicalize(_fix_unicode(text)),
        "ftfy, HTML entities twice, no ASCII punctuation, lower case, whitespace",
    ),
}


def truncate_text(text: str, ids: int, encode: Callable[[str], list[int]]) -> str:
    """The head of a text that has `ids` ids and some more; a short text as it is."""
    length = HEAD
    while length < len(text):
        head = _head(text, length)
        if len(encode(head)) >= ids + _MARGIN:
            return head
        length *= 4
    return text


def truncate_for_ftfy(text: str, ids: int, encode: Callable[[str], list[int]]) -> str:
    """The same, where `encode` mends Unicode by ftfy, which takes its time for every line and every space."""
    if len(text) <= HEAD:
        return text
    # It looks at a few spaces together, at most.
    text = _LONG_GAP.sub(" " * 16, _BLANK_LINE.sub("", text))
    # Whether and how broken Unicode can be mended is decided by the whole line.
    if len(text) <= _MOJIBAKE_HEAD and not text.isascii() and ftfy.badness.is_bad(text):
        return text
    return truncate_text(text, ids, encode)


def _head(text: str, length: int) -> str:
    """Up to `length` characters of a longer text, cut where cleaning sees the same on the left of the cut.

    ftfy goes line by line; words, entities and escapes end at a space, if no broken Unicode stands there.
    """
    line_end = text.rfind("\n", length // 2, length)
    if line_end >= 0:
        return text[: line_end + 1]
    spaces = [match.start() for match in _SPACE_IN_ASCII.finditer(text, length // 2, length)]
    return text[: spaces[-1]] if spaces else text[:length]
