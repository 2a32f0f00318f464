"""What is said of bad examples while they are replaced: the first of each reason, and a fault of code."""

import logging
import tempfile
import traceback

from mmjax.data.bad_example import BadExample
from mmjax.io import paths
from mmjax.utils.once import Once
from mmjax.utils.terminal import printable

_TRACEBACK = "traceback.txt"

log = logging.getLogger("mmjax.data")


class BadExampleLog:
    """A line of the log for the first bad example of each reason, of all workers of a run."""

    def __init__(self):
        self._once = Once()

    def add(self, error: BadExample, source: str, index: int) -> None:
        """Logs an error of a source's example, where it is the first of its reason."""
        if self._once.is_first(error.reason):
            log.warning(
                "%s: example %d cannot be used (%s); another one takes its place, and all such are counted as bad_%s",
                printable(source),
                index,
                error,
                printable(error.reason),
            )


def write_traceback(error: BaseException, folder: str = "") -> str:
    """Writes an error's traceback into a folder, or into a temporary file where there is none; returns its path."""
    text = "".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace")
    try:
        if folder:
            path = paths.as_path(folder) / _TRACEBACK
            paths.write_atomically(path, text)
            return str(path)
    except Exception:  # whatever the storage raises, the traceback is worth another try
        log.debug("%s: no traceback can be written there", folder)
    try:
        with tempfile.NamedTemporaryFile(prefix="mmjax-traceback-", suffix=".txt", delete=False) as file:
            file.write(text)
        return file.name
    except OSError as unwritable:
        return f"no file ({unwritable.strerror})"
