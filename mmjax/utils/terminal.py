"""Lines for people, on a terminal or in a log file.

Names, captions and configs come from files of others. A control character among them could hide a line or change
another one, so it is written as an escape; what the stream's encoding lacks is, too.
"""

import logging
import re
import sys
from typing import Any

# Control characters but for line ends and tabs, marks that turn the direction of writing, and halves of characters.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""A text with escapes such as `\x1b` in place of its control characters."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def size(count: float) -> str:
    """Bytes in decimal units, as data sheets give them."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count:.0f} B"


def show(text: str = "", *, file: Any = None) -> None:
    """Prints lines, on standard output by default, at once."""
    file = sys.stdout if file is None else file
    encoding = getattr(file, "encoding", None) or "utf-8"
    print(printable(text).encode(encoding, "backslashreplace").decode(encoding), file=file, flush=True)


def show_error(text: str) -> None:
    """Prints lines on standard error."""
    show(text, file=sys.stderr)


def format_log() -> None:
    """Lets what is logged by `logging` be printed as `show_error` does; called by commands, not by the library.

    The root logger has the handler, so that absl, whose first line installs another one where that has none, does not
    print each line again.
    """
    logger = logging.getLogger()
    if not any(isinstance(handler, _ErrorLines) for handler in logger.handlers):
        logger.addHandler(_ErrorLines(logging.WARNING))


class _ErrorLines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        show_error(self.format(record))
