"""A reader of files and parts of files, on disks and in buckets, with retries for storage that fails for a while."""

import asyncio
import dataclasses
import datetime
import errno
import hashlib
import logging
import os
import random
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import fsspec

from mmjax.io.file_pool import pread

_FIRST_WAIT, _LONGEST_WAIT = 0.2, 20.0  # seconds
_SILENCE = 60.0  # seconds without a byte, after which an HTTP connection counts as broken
# Errors that waiting does not mend.
_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError)
_PERMANENT_OTHERS = (ImportError, ValueError, TypeError)
_PERMANENT_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG)
_WORTH_WAITING = (408, 425, 429)  # client errors of HTTP that pass: timeout, too early, too many requests
_FORBIDDEN, _RANGE_NOT_SATISFIABLE = (401, 403), 416
# The names that stores have for the version of a file.
_VERSIONS = (
    *("ETag", "etag", "generation", "md5Hash", "Content-MD5", "Digest", "mtime", "LastModified", "last_modified"),
    *("Last-Modified", "updated", "created"),
)
# Errors of connections that are no OSError, by the client whose they are.
_CONNECTION_ERRORS = {
    "aiohttp": ("ClientError",),
    "botocore.exceptions": ("HTTPClientError",),
    "requests.exceptions": ("RequestException",),
    "google.auth.exceptions": ("TransportError",),
    "http.client": ("HTTPException",),
}

log = logging.getLogger("mmjax.data")


class ReadError(OSError):
    """A file that could not be read, after trying again where that could help."""


def is_local(path: str) -> bool:
    """Whether a path is on this machine's file system: everything without a scheme, and file://."""
    return "://" not in path or path.startswith("file://")


def local_path(path: str) -> str:
    """A local path without file://, and with ~ resolved."""
    return os.path.expanduser(path.removeprefix("file://"))


class Stamp(NamedTuple):
    """A file's size in bytes, and what changes when it is written anew: for local files nanoseconds since 1970, for
    others a positive hash of what the store has as a version (ETag, generation, times), 0 where it has none."""

    size: int
    version: int


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads local paths and fsspec URLs. Picklable; open files and connections belong to the process.

    Attributes:
      retry_seconds: how long reads are repeated after transient errors (503, timeouts, broken connections), with
        growing pauses. A server that accepts a connection and then sends nothing is given up after as long, and after
        a minute at most.
    """

    retry_seconds: float = 120.0

    def read(self, path: str) -> bytes:
        """Returns a file's contents.

        Raises:
          FileNotFoundError: there is no such file.
          PermissionError: it may not be read.
          ReadError: it cannot be read.
        """
        if is_local(path):
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
        return self._with_retries(path, lambda: self._read_remote_range(path, offset, length))

    def has_ranges(self, path: str) -> bool:
        """Whether the server of `path` sends parts of files on request, as far as this process has tried."""
        return _server(path) not in _without_ranges

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
        stamp = _stamp(self._with_retries(path, lambda: self._filesystem(path).info(path)))
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
        stamps = {str(entry["name"]).rstrip("/").rsplit("/", 1)[-1]: _stamp(entry) for entry in entries}
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

    def _filesystem(self, path: str) -> Any:
        """The fsspec file system of a URL; fsspec keeps one for each thread."""
        if not path.startswith(("http://", "https://")):
            return fsspec.core.url_to_fs(path)[0]
        import aiohttp  # fsspec says how to get it where it is missing

        silence = min(_SILENCE, max(1.0, self.retry_seconds))
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=silence, sock_read=silence)
        return fsspec.core.url_to_fs(path, client_kwargs={"timeout": timeout})[0]

    def _read_remote_range(self, path: str, offset: int, length: int) -> bytes:
        fs = self._filesystem(path)
        if path.startswith(("http://", "https://")):
            return asyncio.run_coroutine_threadsafe(_http_range(fs, path, offset, length), fs.loop).result()
        try:
            return fs.cat_file(path, start=offset, end=offset + length)
        except Exception as error:
            if _is_past_the_end(error):
                return b""
            raise

    def _with_retries(self, path: str, call: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + self.retry_seconds
        wait, has_warned = _FIRST_WAIT, False
        while True:
            try:
                return call()
            except Exception as raised:
                error = _underlying_error(raised)
                if not _is_transient(error):
                    if _status(error) in _FORBIDDEN:
                        raise PermissionError(errno.EACCES, _error_text(error), path) from error
                    if isinstance(error, (OSError, *_PERMANENT_OTHERS)):
                        raise
                    raise ReadError(f"{path}: {_error_text(error)}") from error
                if time.monotonic() + wait > deadline:
                    raise ReadError(f"{path}: {_error_text(error)}, for {self.retry_seconds:g} s") from error
                if not has_warned:
                    log.warning("%s: %s; trying again for up to %g s", path, _error_text(error), self.retry_seconds)
                    has_warned = True
                # Jitter, so that many workers do not retry in step.
                time.sleep(wait * (0.5 + random.random()))
                wait = min(2 * wait, _LONGEST_WAIT)


_without_ranges: set[str] = set()  # servers that send a whole file on a request for a part of it


async def _http_range(fs: Any, url: str, offset: int, length: int) -> bytes:
    """Part of a file over HTTP. fsspec's own takes a whole file for a part."""
    session = await fs.set_session()
    request = dict(fs.kwargs)
    headers = {
        **request.pop("headers", {}),
        "Range": f"bytes={offset}-{offset + length - 1}",
        "Accept-Encoding": "identity",
    }
    async with session.get(fs.encode_url(url), headers=headers, **request) as response:
        if response.status == _RANGE_NOT_SATISFIABLE:
            return b""
        if response.status == 404:
            raise FileNotFoundError(errno.ENOENT, "no such file", url)
        response.raise_for_status()
        if response.status == 206:
            begins = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            if begins and int(begins[1]) != offset:
                raise ReadError(f"{url}: the server was asked for byte {offset} and sent byte {begins[1]}")
            return (await response.read())[:length]
        if _server(url) not in _without_ranges:
            _without_ranges.add(_server(url))
            log.warning("%s sends whole files when asked for a part: every example costs a shard", _server(url))
        await _skip(response.content, offset)
        parts = []
        while length > 0 and (part := await response.content.read(length)):
            parts.append(part)
            length -= len(part)
        response.close()
        return b"".join(parts)


async def _skip(stream: Any, count: int) -> None:
    while count > 0 and (part := await stream.read(min(count, 1 << 20))):
        count -= len(part)


def _server(url: str) -> str:
    return "/".join(url.split("/", 3)[:3])


def _stamp(info: dict) -> Stamp | None:
    """The stamp in a store's entry of a file; None where the entry has no size."""
    if info.get("size") is None:
        return None
    version = next((info[name] for name in _VERSIONS if info.get(name)), "")
    version = str(
        version.timestamp() if isinstance(version, datetime.datetime) else version
    )  # a listing may have it either way
    digest = int.from_bytes(hashlib.blake2b(version.encode(), digest_size=8).digest(), "big") >> 1
    return Stamp(int(info["size"]), digest if version else 0)


def _is_transient(error: Exception) -> bool:
    """Whether a retry may help."""
    if isinstance(error, (*_PERMANENT, *_PERMANENT_OTHERS)) or getattr(error, "errno", None) in _PERMANENT_NUMBERS:
        return False
    status = _status(error)
    if status is not None and 400 <= status < 500:
        return status in _WORTH_WAITING
    kinds = (OSError, EOFError, asyncio.TimeoutError, *_connection_errors())
    return isinstance(error, kinds) or status is not None


def _underlying_error(error: Exception) -> Exception:
    """The error that stopped a call: fsspec raises FileNotFoundError for any that keeps it from a file's size."""
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or not isinstance(cause, Exception):
        return error
    return cause if _is_transient(cause) or _status(cause) in _FORBIDDEN else error


def _status(error: Exception) -> int | None:
    """The HTTP status, which the stores' clients have as `status`, `code`, or in botocore's parsed response."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(error, "status", None) or getattr(error, "code", None)
    return status if isinstance(status, int) and status >= 100 else None


def _connection_errors() -> tuple[type[Exception], ...]:
    """Errors of the clients that are loaded."""
    loaded = [(sys.modules[name], kinds) for name, kinds in _CONNECTION_ERRORS.items() if name in sys.modules]
    return tuple(getattr(module, kind) for module, kinds in loaded for kind in kinds if hasattr(module, kind))


def _is_past_the_end(error: Exception) -> bool:
    """Whether the requested part lies past the end of a file; s3fs makes EINVAL of the status."""
    return _status(error) == _RANGE_NOT_SATISFIABLE or (
        isinstance(error, OSError) and error.errno == errno.EINVAL and "range" in str(error).lower()
    )


def _error_text(error: Exception) -> str:
    """An error in a few words on one line."""
    status = getattr(error, "status", None)
    message = " ".join(str(getattr(error, "message", None) or error).split()) or type(error).__name__
    return f"{status} {message}" if isinstance(status, int) else message
