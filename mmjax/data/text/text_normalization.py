"""What happens to a text before it is tokenized."""

import html
import string
from collections.abc import Callable

import ftfy

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def clean_clip(text: str) -> str:
    """CLIP's cleaning: mended Unicode, HTML entities resolved twice, whitespace collapsed, lower case."""
    return _whitespace(text).lower()


def canonicalize(text: str) -> str:
    """SigLIP's cleaning (big_vision `canonicalize_text`): no ASCII punctuation, lower case, whitespace collapsed."""
    return " ".join(text.replace("_", " ").translate(_NO_PUNCTUATION).lower().split())


def _mended(text: str) -> str:
    # ftfy and html leave printable ASCII without entities as it is, and take most of the time.
    if text.isascii() and text.isprintable() and "&" not in text:
        return text
    return html.unescape(html.unescape(ftfy.fix_text(text)))


def _whitespace(text: str) -> str:
    return " ".join(_mended(text).split())


# OpenCLIP's `clean` by name: the function, and what it does in words.
CLEANINGS: dict[str, tuple[Callable[[str], str], str]] = {
    "whitespace": (_whitespace, "ftfy, HTML entities twice, whitespace"),
    "lower": (clean_clip, "ftfy, HTML entities twice, whitespace, lower case"),
    "canonicalize": (
        lambda text: canonicalize(_mended(text)),
        "ftfy, HTML entities twice, no ASCII punctuation, lower case, whitespace",
    ),
}
