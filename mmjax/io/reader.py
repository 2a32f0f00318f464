"""A reader of files and parts of files, on disks and in buckets, with retries for storage that fails for a while."""

import dataclasses
import os
import re
import threading
from collections.abc import Callable
from typing import Any

import fsspec

from mmjax.io.file_pool import pread
from mmjax.io.regular_file import check_regular, memory_bytes
from mmjax.io.remote import Stamp, filesystem, has_ranges, read_range, stamp_of
from mmjax.io.retries import ReadError, with_retries


def is_local(path: str) -> bool:
    """Whether a path is on this machine's file system: everything without a scheme, and file://."""
    return "://" not in path or path.startswith("file://")


def local_path(path: str) -> str:
    """A local path without file://, and with ~ resolved."""
    return os.path.expanduser(path.removeprefix("file://"))


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads local paths and fsspec URLs. Picklable; open files and connections belong to the process.

    Attributes:
      retry_seconds: how long reads are repeated after transient errors (503, timeouts, broken connections), with
        growing pauses. A server that accepts a connection and then sends nothing is given up after as long, and after
        a minute at most.
    """

    retry_seconds: float = 120.0

    def read(self, path: str, *, limit: int | None = None) -> bytes:
        """Returns a file's contents.

        Args:
          path: of the file.
          limit: bytes that a local file may have; by default as many as the machine has memory.

        Raises:
          FileNotFoundError: there is no such file.
          NotReadableError: it is no file, or larger, or sparse.
          PermissionError: it may not be read.
          ReadError: it cannot be read.
        """
        if is_local(path):
            check_regular(local_path(path), memory_bytes() if limit is None else limit)
            with open(local_path(path), "rb") as file:
                return file.read()
        return self._with_retries(path, lambda: self._filesystem(path).cat_file(path))

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Returns `length` bytes from `offset`; fewer where the file ends before.

        Raises:
          FileNotFoundError: there is no such file.
          PermissionError: it may not be read.
          ReadError: it cannot be read.
        """
        if length <= 0:
            return b""
        if is_local(path):
            return pread(local_path(path), offset, length)
        return self._with_retries(path, lambda: read_range(self._filesystem(path), path, offset, length))

    def has_ranges(self, path: str) -> bool:
        """Whether the server of `path` sends parts of files on request, as far as this process has tried."""
        return has_ranges(path)

    def size(self, path: str) -> int:
        """Returns a file's size in bytes.

        Raises:
          FileNotFoundError: there is no such file.
          PermissionError: it may not be read.
          ReadError: the server does not send it.
        """
        if is_local(path):
            return os.stat(local_path(path)).st_size
        size = self._with_retries(path, lambda: self._filesystem(path).size(path))
        if size is None:
            raise ReadError(f"{path}: the server does not tell its size")
        return int(size)

    def stamp(self, path: str) -> Stamp:
        """Returns a file's size and version.

        Raises:
          FileNotFoundError: there is no such file.
          PermissionError: it may not be read.
          ReadError: the server does not send the size.
        """
        if is_local(path):
            status = os.stat(local_path(path))
            return Stamp(status.st_size, status.st_mtime_ns)
        stamp = stamp_of(self._with_retries(path, lambda: self._filesystem(path).info(path)))
        if stamp is None:
            raise ReadError(f"{path}: the server does not tell its size")
        return stamp

    def list_stamps(self, folder: str) -> dict[str, Stamp] | None:
        """Returns sizes and versions of the files in a bucket's folder, by name; None where it cannot be listed.

        Raises:
          ReadError: the storage fails.
        """
        if folder.startswith(("http://", "https://")):
            return None
        fs = self._filesystem(folder)

        def list_folder() -> list[dict]:
            fs.invalidate_cache()
            return fs.ls(folder, detail=True)

        try:
            entries = self._with_retries(folder, list_folder)
        except FileNotFoundError:
            return {}
        except (PermissionError, NotImplementedError):
            return None
        stamps = {str(entry["name"]).rstrip("/").rsplit("/", 1)[-1]: stamp_of(entry) for entry in entries}
        return {name: stamp for name, stamp in stamps.items() if stamp is not None}

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        if is_local(path):
            return os.path.isfile(local_path(path))
        try:
            self._with_retries(path, lambda: self._filesystem(path).info(path))
        except FileNotFoundError:
            return False
        return True

    def glob(self, pattern: str) -> list[str]:
        """Returns the sorted paths that match a pattern with * and ?, with their scheme."""
        if is_local(pattern):
            return sorted(fsspec.filesystem("file").glob(local_path(pattern)))
        fs = self._filesystem(pattern)
        if pattern.startswith(("http://", "https://")):  # fsspec takes an error's page for an empty folder
            self.read(re.split(r"[^/]*[*?\[]", pattern, maxsplit=1)[0])
        return sorted(fs.unstrip_protocol(path) for path in self._with_retries(pattern, lambda: fs.glob(pattern)))

    def download(self, path: str, target: str) -> None:
        """Copies a file to a local path, which has its contents only when all of them have come.

        Raises:
          FileNotFoundError: there is no such file.
          PermissionError: it may not be read.
          ReadError: it cannot be read.
        """
        part = f"{target}.{os.getpid()}-{threading.get_ident()}.part"
        try:
            self._with_retries(path, lambda: self._filesystem(path).get_file(path, part))
            os.replace(part, target)
        finally:
            if os.path.exists(part):
                os.remove(part)

    def upload(self, path: str, url: str) -> None:
        """Copies a local file into a bucket.

        Raises:
          OSError: it cannot be written there.
        """
        fs = self._filesystem(url)
        self._with_retries(url, lambda: fs.put_file(path, fs._strip_protocol(url)))

    def _with_retries(self, path: str, call: Callable[[], Any]) -> Any:
        return with_retries(path, call, self.retry_seconds)

    def _filesystem(self, path: str) -> Any:
        return filesystem(path, self.retry_seconds)
