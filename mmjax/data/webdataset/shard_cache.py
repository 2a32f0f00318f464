"""The cache of remote shards on the local disk: one download a host, up to a limit, the least recently used removed."""

import contextlib
import hashlib
import logging
import os
import queue
import threading
import time
from collections.abc import Iterable, Sequence

from mmjax.io import file_pool
from mmjax.io.file_locks import locked
from mmjax.io.reader import Reader

_DOWNLOADERS = 4  # threads of a process that fetch ahead
_DEAD_AFTER = 3600.0  # seconds after which nobody is writing to a partial file any more
_TABLE = ".index"
_FAILURES_KEPT = 60.0  # seconds for which a shard whose download failed is not tried again

log = logging.getLogger("mmjax.data")


def user_cache() -> str:
    """The user's cache folder for data."""
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "mmjax")


def scan_path_of_copy(copy: str) -> str:
    """Where the scan of a copy is stored, which is removed with the copy."""
    return copy + _TABLE


class ShardCache:
    """Copies of remote shards in a folder that the processes of a host share. Picklable, thread-safe.

    A shard is downloaded under a lock, so that one process fetches it and the others wait, and gets its name when it
    is whole. The kernel opens the lock of a process that dies.

    Args:
      folder: made when it is needed.
      limit: bytes. Shards of the latest `prefetch` are kept even beyond it.
      reader: fetches the shards.
    """

    def __init__(self, folder: str, limit: float, reader: Reader):
        self.folder, self.limit, self.reader = folder, limit, reader
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._needed: dict[str, None] = {}  # paths of copies
        self._failed: dict[str, tuple[float, OSError]] = {}
        self._queue: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._threads = 0
        self._has_warned = False
        self._process = os.getpid()

    def __getstate__(self) -> tuple:
        return self.folder, self.limit, self.reader

    def __setstate__(self, state: tuple) -> None:
        self.__init__(*state)

    def copy_of(self, url: str) -> str:
        """Where the copy of a shard is, or would be."""
        digest = hashlib.blake2b(url.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
        return os.path.join(self.folder, f"{digest}-{url.rsplit('/', 1)[-1][-80:]}")

    def has(self, url: str) -> bool:
        """Whether the shard is there, whole."""
        return os.path.exists(self.copy_of(url))

    def get(self, url: str) -> str:
        """Returns the path of a shard's copy, fetched now unless it is there.

        Raises:
          FileNotFoundError: there is no such shard.
          OSError: it cannot be read, or its copy not be written.
        """
        copy = self.copy_of(url)
        with contextlib.suppress(FileNotFoundError):
            os.utime(copy)  # used just now
            return copy
        failed = self._failed.get(url)
        if failed and time.monotonic() < failed[0] + _FAILURES_KEPT:
            raise failed[1].with_traceback(None)
        with locked(copy):
            if not os.path.exists(copy):
                self._download(url, copy)
        return copy

    def prefetch(self, urls: Sequence[str]) -> None:
        """Starts to fetch shards in the background; these are not removed until the next call."""
        if self._process != os.getpid():
            self._reset()
        with self._lock:
            self._needed = dict.fromkeys(map(self.copy_of, urls))
            while not self._queue.empty():  # left over from the last window
                with contextlib.suppress(queue.Empty):
                    self._queue.get_nowait()
            missing = [url for url in urls if not self.has(url)]
            for url in missing:
                self._queue.put(url)
            new = min(_DOWNLOADERS, len(missing)) - self._threads
            self._threads += max(0, new)
        for _ in range(new):
            threading.Thread(target=self._fetch, daemon=True, name="shard-cache").start()

    def _fetch(self) -> None:
        """Fetches shards until there are none to fetch. Whoever needs a shard sees its error."""
        while True:
            with self._lock:
                try:
                    url = self._queue.get_nowait()
                except queue.Empty:
                    self._threads -= 1
                    return
            copy = self.copy_of(url)
            # What another process is fetching is not waited for.
            with contextlib.suppress(Exception), locked(copy, wait=False) as is_locked:
                if is_locked and not os.path.exists(copy):
                    self._download(url, copy)

    def _download(self, url: str, copy: str) -> None:
        try:
            self._remove_old(copy)
            with contextlib.suppress(FileNotFoundError):
                os.remove(scan_path_of_copy(copy))  # of a former copy
            self.reader.download(url, copy)
        except OSError as error:
            self._failed[url] = time.monotonic(), error
            raise
        self._failed.pop(url, None)
        self._remove_old(copy)

    def _remove_old(self, added: str) -> None:
        """Removes the least recently used copies, until the rest is within the limit."""
        kept = {added, *self._needed}
        files, total = [], 0
        for entry in _files(self.folder):
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat()
                if entry.name.endswith(".part") and time.time() - status.st_mtime > _DEAD_AFTER:
                    os.remove(entry.path)
                    continue
                total += status.st_size
                if not entry.name.endswith((".part", ".lock", _TABLE)) and entry.path not in kept:
                    files.append((status.st_mtime, status.st_size, entry.path))
        for _, size, path in sorted(files):
            if total <= self.limit:
                return
            for name in (path, scan_path_of_copy(path)):
                with contextlib.suppress(FileNotFoundError):
                    os.remove(name)
            file_pool.evict(path)
            total -= size
        if total > self.limit and not self._has_warned:
            self._has_warned = True
            log.warning(
                "data.cache_gb=%g is less than the shards of two windows take (%.3g GB); they are kept nevertheless",
                self.limit / 1e9,
                total / 1e9,
            )


def _files(folder: str) -> Iterable[os.DirEntry]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if entry.is_file()]
