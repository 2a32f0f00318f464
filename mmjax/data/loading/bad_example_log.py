"""What is said of bad examples while they are replaced: the first of each reason, and a fault of code."""

import logging
import os
import shutil
import tempfile
import traceback
import uuid
import weakref

from mmjax.data.bad_example import BadExample
from mmjax.io import paths
from mmjax.utils.terminal import printable

_TRACEBACK = "traceback.txt"

log = logging.getLogger("mmjax.data")


class BadExampleLog:
    """A line of the log for the first bad example of each reason, whichever process or thread of this machine meets it.

    Picklable: the workers of a run share an (empty) file for each reason, in a folder of the main process.
    """

    def __init__(self):
        self._folder = os.path.join(tempfile.gettempdir(), f"mmjax-{uuid.uuid4().hex}")
        self._seen: set[str] = set()
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def add(self, error: BadExample, source: str, index: int) -> None:
        """Logs an error of a source's example, where it is the first of its reason."""
        reason = error.reason
        if reason in self._seen:
            return
        self._seen.add(reason)
        if self._is_first(reason):
            log.warning(
                "%s: example %d cannot be used (%s); another one takes its place, and all such are counted as bad_%s",
                printable(source),
                index,
                error,
                printable(reason),
            )

    def _is_first(self, reason: str) -> bool:
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            name = os.path.join(self._folder, reason.encode("utf-8", "replace").hex())
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return False
        except OSError:  # twice is better than never
            return True
        return True


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
