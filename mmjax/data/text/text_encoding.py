"""The encoding of texts that come as bytes: members of tars, files beside images, tables."""

import codecs

from mmjax.data.bad_example import BadExample
from mmjax.errors import UserError

UTF8 = "utf-8"
# A text that begins so says its encoding itself; UTF-32's mark begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SHOWN = 12  # bytes
# Python's own notations, which take every text for what it may not be.
_NO_ENCODINGS = ("undefined", "unicode-escape", "raw-unicode-escape", "idna", "punycode", "utf-7")


def check_encoding(name: str, field: str = "data.encoding") -> str:
    """Returns the name of an encoding of texts.

    Raises:
      UserError: Python knows none of that name.
    """
    try:
        info = codecs.lookup(name)
        is_text = info.name.replace("_", "-") not in _NO_ENCODINGS and isinstance(b"aaaa".decode(name, "ignore"), str)
    except (LookupError, ValueError, TypeError):
        is_text = False
    if not is_text:
        raise UserError(f"{field}={name!r} is no encoding of texts; give one such as utf-8, gbk, latin-1 or cp1252")
    return name


def encoding_of(content: bytes, encoding: str = UTF8) -> str:
    """The encoding that the first bytes of a text say, or the given one."""
    return next((marked for mark, marked in _MARKS if content.startswith(mark)), encoding)


def decode_text(content: bytes, encoding: str = UTF8) -> str:
    """A text without its byte order mark.

    Raises:
      BadExample: `encoding`, where it is not in that encoding.
    """
    name = encoding_of(content, encoding)
    try:
        return content.decode(name)
    except UnicodeError as error:
        start = getattr(error, "start", 0)
        raise BadExample(
            "encoding",
            f"a text of {len(content):,} bytes is not {name} at byte {start}, {content[start : start + _SHOWN]!r};"
            " data.encoding says what texts are",
        ) from error
