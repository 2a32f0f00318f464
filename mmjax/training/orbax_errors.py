"""Errors of reads and writes of a checkpoint that fail together with another one, which is raised."""

import functools
import logging
import sys
from typing import Any

_LEFT_OVER = ("Event loop is closed", "Encountered error while reading array index")


@functools.cache
def silence_others() -> None:
    """Keeps quiet, from now on, what Orbax leaves behind when an array cannot be read or written.

    It raises the first error, and nobody waits for the others: asyncio logs them when they are collected, tensorstore
    prints that its callers have gone, and both may come much later.
    """
    hook = sys.unraisablehook

    def quiet(unraisable: Any) -> None:
        if not str(unraisable.exc_value).startswith(_LEFT_OVER):
            hook(unraisable)

    sys.unraisablehook = quiet
    logging.getLogger("asyncio").addFilter(_is_awaited)


def _is_awaited(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return "exception was never retrieved" not in message or not (
        "orbax" in message or "tensorstore" in message.lower()
    )
