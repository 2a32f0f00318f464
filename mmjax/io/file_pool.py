"""A pool of local files that a process keeps open, for reading parts of them."""

import errno
import os
import time

from mmjax.io.regular_file import check_regular
from mmjax.utils.lru_cache import LRUCache

_OPEN_FILES = 256
_CHECK_SECONDS = 5.0


class OpenFile:
    """A file descriptor that is closed when nobody reads from it any more."""

    def __init__(self, path: str):
        check_regular(path)
        self.fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def is_removed(self) -> bool:
        """Whether no folder names the file any more."""
        try:
            return os.fstat(self.fd).st_nlink == 0
        except OSError:  # stale, on a network file system
            return True

    def __del__(self):
        if hasattr(self, "fd"):
            os.close(self.fd)


class _FilePool:
    """The most recently used files of this process."""

    def __init__(self):
        self.files = LRUCache(OpenFile, _OPEN_FILES)
        self.next_check = 0.0

    def get(self, path: str) -> OpenFile:
        """Returns an open file; every few seconds, files whose last name is gone are closed, which frees their disk."""
        if time.monotonic() >= self.next_check:
            self.next_check = time.monotonic() + _CHECK_SECONDS
            self.files.evict_where(OpenFile.is_removed)
        return self.files.get(path)


_pool = _FilePool()


def pread(path: str, offset: int, length: int) -> bytes:
    """Part of a local file, which stays open while it is among the most recently used ones.

    Raises:
      OSError: it cannot be read.
    """
    try:
        return pread_open(_pool.get(path), offset, length)
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
    evict(path)  # another file has its name now, on a network file system
    return pread_open(_pool.get(path), offset, length)


def evict(path: str) -> None:
    """Closes a local file, so that the next read opens what has its name by then."""
    _pool.files.evict(path)


def pread_open(file: OpenFile, offset: int, length: int) -> bytes:
    """Part of an open file; fewer bytes where it ends before.

    Raises:
      OSError: it cannot be read.
    """
    data = os.pread(file.fd, length, offset)
    while data and len(data) < length:  # a read may give less than is there
        more = os.pread(file.fd, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data
