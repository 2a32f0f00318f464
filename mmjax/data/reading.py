"""Reading files and parts of files, on disks and in buckets, with patience for storage that fails for a while."""

import asyncio
import collections
import dataclasses
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import fsspec

_OPEN_FILES = 64  # kept open by a process, for reading parts of shards
_FIRST_WAIT, _LONGEST_WAIT = 0.2, 20.0  # seconds
# What does not become better by waiting.
_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError)
_PERMANENT_OTHERS = (ImportError, ValueError, TypeError)
_WORTH_WAITING = (408, 425, 429)  # client errors of HTTP that pass: timeout, too early, too many requests

log = logging.getLogger("mmjax.data")


class ReadError(OSError):
    """A file that could not be read, after trying again where that could help."""


def is_local(path: str) -> bool:
    """Whether a path is on this machine's file system: everything without a scheme, and file://."""
    return "://" not in path or path.startswith("file://")


def local_path(path: str) -> str:
    """A local path without file://, and with ~ resolved."""
    return os.path.expanduser(path.removeprefix("file://"))


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads local paths and fsspec URLs. Picklable; open files belong to the process.

    Attributes:
      retry_seconds: how long errors that may pass (503, timeouts, broken connections) are answered by asking again,
        with growing pauses.
    """

    retry_seconds: float = 120.0

    def read(self, path: str) -> bytes:
        """Returns a file's contents.

        Raises:
          FileNotFoundError: there is no such file.
          ReadError: it cannot be read.
        """
        if is_local(path):
            with open(local_path(path), "rb") as file:
                return file.read()
        return self._patiently(path, lambda: _filesystem(path).cat_file(path))

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Returns `length` bytes from `offset`; fewer where the file ends before.

        Raises:
          FileNotFoundError: there is no such file.
          ReadError: it cannot be read.
        """
        if is_local(path):
            return _pread(local_path(path), offset, length)
        data = self._patiently(path, lambda: _filesystem(path).cat_file(path, start=offset, end=offset + length))
        # A server that does not know ranges sends the whole file.
        return data if len(data) <= length else data[offset : offset + length]

    def size(self, path: str) -> int:
        """Returns a file's size in bytes.

        Raises:
          FileNotFoundError: there is no such file.
          ReadError: it cannot be told.
        """
        if is_local(path):
            return os.stat(local_path(path)).st_size
        size = self._patiently(path, lambda: _filesystem(path).size(path))
        if size is None:
            raise ReadError(f"{path}: the server does not tell its size")
        return int(size)

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        if is_local(path):
            return os.path.isfile(local_path(path))
        try:
            self._patiently(path, lambda: _filesystem(path).info(path))
        except FileNotFoundError:
            return False
        return True

    def glob(self, pattern: str) -> list[str]:
        """Returns the sorted paths that match a pattern with * and ?, with their scheme."""
        if is_local(pattern):
            return sorted(fsspec.filesystem("file").glob(local_path(pattern)))
        fs = _filesystem(pattern)
        return sorted(fs.unstrip_protocol(path) for path in self._patiently(pattern, lambda: fs.glob(pattern)))

    def download(self, path: str, target: str) -> None:
        """Copies a file to a local path, which has its contents only when all of them have come.

        Raises:
          FileNotFoundError: there is no such file.
          ReadError: it cannot be read.
        """
        part = f"{target}.{os.getpid()}-{threading.get_ident()}.part"
        try:
            self._patiently(path, lambda: _filesystem(path).get_file(path, part))
            os.replace(part, target)
        finally:
            if os.path.exists(part):
                os.remove(part)

    def _patiently(self, path: str, call: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + self.retry_seconds
        wait, told = _FIRST_WAIT, False
        while True:
            try:
                return call()
            except Exception as error:
                if not _may_pass(error):
                    if isinstance(error, (OSError, *_PERMANENT_OTHERS)):
                        raise
                    raise ReadError(f"{path}: {_told(error)}") from error
                if time.monotonic() + wait > deadline:
                    raise ReadError(f"{path}: {_told(error)}, for {self.retry_seconds:g} s") from error
                if not told:
                    log.warning("%s: %s; trying again for up to %g s", path, _told(error), self.retry_seconds)
                    told = True
                # Jitter, so that many workers do not ask in step.
                time.sleep(wait * (0.5 + random.random()))
                wait = min(2 * wait, _LONGEST_WAIT)


def _may_pass(error: Exception) -> bool:
    """Whether asking again may help. Clients of the stores tell HTTP's status as `status`, `code` or in a response."""
    if isinstance(error, (*_PERMANENT, *_PERMANENT_OTHERS)):
        return False
    status = getattr(error, "status", None) or getattr(error, "code", None)
    if isinstance(status, int) and 400 <= status < 500:
        return status in _WORTH_WAITING
    return isinstance(error, (OSError, EOFError, asyncio.TimeoutError)) or isinstance(status, int)


def _told(error: Exception) -> str:
    """An error in a few words on one line."""
    status = getattr(error, "status", None)
    message = " ".join(str(getattr(error, "message", None) or error).split()) or type(error).__name__
    return f"{status} {message}" if isinstance(status, int) else message


def _filesystem(path: str) -> Any:
    return fsspec.core.url_to_fs(path)[0]


class _OpenFiles:
    """The most recently used files of this process, open for reading parts of them."""

    def __init__(self):
        self.lock = threading.Lock()
        self.files: collections.OrderedDict[str, _OpenFile] = collections.OrderedDict()

    def get(self, path: str) -> "_OpenFile":
        with self.lock:
            if path in self.files:
                self.files.move_to_end(path)
            else:
                self.files[path] = _OpenFile(path)
                while len(self.files) > _OPEN_FILES:
                    self.files.popitem(last=False)
            return self.files[path]


class _OpenFile:
    """A file descriptor that is closed when nobody reads from it any more."""

    def __init__(self, path: str):
        self.fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self):
        if hasattr(self, "fd"):
            os.close(self.fd)


_open_files = _OpenFiles()
# A forked child must not share the lock's state.
os.register_at_fork(after_in_child=lambda: _open_files.__init__())


def _pread(path: str, offset: int, length: int) -> bytes:
    file = _open_files.get(path)
    data = os.pread(file.fd, length, offset)
    while data and len(data) < length:  # a read may give less than is there
        more = os.pread(file.fd, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data
