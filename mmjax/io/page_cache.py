"""Read-ahead of local files, whole and one after the other, for disks that are slow at random access."""

import os
import threading
from collections.abc import Sequence

from mmjax.io.regular_file import check_regular

_CHUNK = 1 << 20  # bytes
THREAD_NAME = "read-ahead"


class ReadAhead:
    """Brings files into the kernel's page cache in the background. Picklable, thread-safe, never fails.

    posix_fadvise would copy less, but Linux reads no more than one request of the disk for it. Worker processes of a
    host read the same files: what one has read, the others find in the cache. Never more than half of the
    memory is filled, since pages that push one another out would be read twice.

    Args:
      limit: bytes; half of the machine's memory by default.
    """

    def __init__(self, limit: int | None = None):
        self.limit = _half_of_memory() if limit is None else limit
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._pending: list[str] = []
        self._done: dict[str, int] = {}  # bytes of those that are still wanted
        self._is_running = False
        self._process = os.getpid()

    def __getstate__(self) -> int:
        return self.limit

    def __setstate__(self, limit: int) -> None:
        self.__init__(limit)

    def prefetch(self, paths: Sequence[str]) -> None:
        """Starts to read the files that the last call did not name; those of it that are left over are dropped."""
        if self._process != os.getpid():
            self._reset()
        with self._lock:
            self._done = {path: self._done[path] for path in paths if path in self._done}
            self._pending = [path for path in paths if path not in self._done]
            if self._is_running or not self._pending:
                return
            self._is_running = True
        try:
            threading.Thread(target=self._run, daemon=True, name=THREAD_NAME).start()
        except RuntimeError:  # no more threads
            self._is_running = False

    def _run(self) -> None:
        while True:
            with self._lock:
                room = self.limit - sum(self._done.values())
                if not self._pending or room <= 0:
                    self._is_running = False
                    return
                path = self._pending.pop(0)
                self._done[path] = 0
            try:
                count = read_through(path, room)
            except OSError:  # reading the file raises it again
                count = 0
            with self._lock:
                if path in self._done:
                    self._done[path] = count


def read_through(path: str, limit: int) -> int:
    """Reads a file from its beginning and keeps nothing; returns how many bytes, about `limit` at most.

    Raises:
      OSError: it cannot be read.
    """
    buffer = bytearray(_CHUNK)
    total = 0
    check_regular(path)
    with open(path, "rb", buffering=0) as file:
        while total < limit and (count := file.readinto(buffer)):
            total += count
    return total


def _half_of_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
