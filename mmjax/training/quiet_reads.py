"""Reads of a checkpoint of which many fail together: the first error is enough."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

_LEFT_OVER = ("Event loop is closed", "Encountered error while reading array index")


@contextlib.contextmanager
def first_error_only() -> Iterator[None]:
    """Context in which Orbax reads arrays. Where that fails, what is still under way is told by nobody.

    asyncio would log the other errors when they are collected, and tensorstore print that its callers have gone; both
    may come later, so what keeps them quiet stays after a failure.
    """
    hook, logger = sys.unraisablehook, logging.getLogger("asyncio")

    def quiet(unraisable: Any) -> None:
        if not str(unraisable.exc_value).startswith(_LEFT_OVER):
            hook(unraisable)

    sys.unraisablehook = quiet
    logger.addFilter(_is_retrieved)
    yield
    sys.unraisablehook = hook
    logger.removeFilter(_is_retrieved)


def _is_retrieved(record: logging.LogRecord) -> bool:
    return "exception was never retrieved" not in record.getMessage()
