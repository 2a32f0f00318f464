"""Local files that a process keeps open, for reading parts of them."""

import collections
import errno
import os
import threading
import time

_OPEN_FILES = 256
_LOOK_FOR_REMOVED = 5.0  # seconds


class _OpenFiles:
    """The most recently used files of this process, open for reading parts of them."""

    def __init__(self):
        self.lock = threading.Lock()
        self.next_look = 0.0
        self.files: collections.OrderedDict[str, OpenFile] = collections.OrderedDict()

    def get(self, path: str) -> "OpenFile":
        with self.lock:
            self._drop_removed()
            if path in self.files:
                self.files.move_to_end(path)
                return self.files[path]
        opened = OpenFile(path)  # outside the lock: on a slow disk it takes a while
        with self.lock:
            self.files[path] = opened
            while len(self.files) > _OPEN_FILES:
                self.files.popitem(last=False)
        return opened

    def evict(self, path: str) -> None:
        with self.lock:
            self.files.pop(path, None)

    def _drop_removed(self) -> None:
        """Closes files that are gone from their folders, every few seconds: they take room on the disk until then."""
        if time.monotonic() < self.next_look:
            return
        self.next_look = time.monotonic() + _LOOK_FOR_REMOVED
        for path, file in list(self.files.items()):
            if file.is_removed():
                del self.files[path]


class OpenFile:
    """A file descriptor that is closed when nobody reads from it any more."""

    def __init__(self, path: str):
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


_open_files = _OpenFiles()
# A forked child must not share the lock's state.
os.register_at_fork(after_in_child=lambda: _open_files.__init__())


def pread(path: str, offset: int, length: int) -> bytes:
    """Part of a local file, which stays open while it is among the most recently used ones.

    Raises:
      OSError: it cannot be read.
    """
    try:
        return pread_open(_open_files.get(path), offset, length)
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
    evict(path)  # another file has its name now, on a network file system
    return pread_open(_open_files.get(path), offset, length)


def evict(path: str) -> None:
    """Closes a local file, so that the next read opens what has its name by then."""
    _open_files.evict(path)


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
