"""A thread-safe LRU cache of values that are made by key."""

import collections
import os
import threading
from collections.abc import Callable, Hashable
from typing import Any


class LRUCache:
    """Makes values by key and keeps the ones used most recently, up to a total size. Thread-safe.

    Two threads that need the same key wait for one call of `make`; others are not held up. Values belong to the
    process: a pickled or forked copy begins without any. A value that is still in use lives on.

    Args:
      make: returns the value of a key; its errors go to the caller, and the next call tries again.
      limit: total size; the value asked for last is kept whatever its size.
      size: of a value; by default each counts 1.
    """

    def __init__(self, make: Callable[[Any], Any], limit: float, size: Callable[[Any], float] | None = None):
        self._make, self._limit, self._size = make, limit, size
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._entries: collections.OrderedDict[Hashable, _Entry] = collections.OrderedDict()
        self._total = 0.0
        self._process = os.getpid()

    def get(self, key: Hashable) -> Any:
        """Returns the value of `key`, made now unless it is kept."""
        with self._lock_of_process():
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
        with entry.lock:
            if entry.size is None:
                try:
                    value = self._make(key)
                except BaseException:
                    with self._lock:
                        if self._entries.get(key) is entry:
                            del self._entries[key]
                    raise
                entry.value = value
                self._keep(key, entry)
            return entry.value

    def __contains__(self, key: Hashable) -> bool:
        with self._lock_of_process():
            return key in self._entries

    def evict(self, key: Hashable) -> None:
        """Drops the value of a key, if it is kept."""
        with self._lock_of_process():
            self._remove(key)

    def evict_where(self, is_stale: Callable[[Any], bool]) -> None:
        """Drops the values that are stale."""
        with self._lock_of_process():
            for key, entry in list(self._entries.items()):
                if entry.size is not None and is_stale(entry.value):
                    self._remove(key)

    def _lock_of_process(self) -> threading.Lock:
        """The lock; a forked child begins with a new one and without values."""
        if self._process != os.getpid():
            self._reset()
        return self._lock

    def _remove(self, key: Hashable) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None and entry.size is not None:
            self._total -= entry.size

    def _keep(self, key: Hashable, entry: "_Entry") -> None:
        with self._lock:
            entry.size = self._size(entry.value) if self._size else 1
            if self._entries.get(key) is not entry:  # made by one that waited for a failure
                return
            self._total += entry.size
            for other, kept in list(self._entries.items()):
                if self._total <= self._limit:
                    break
                if other != key and kept.size is not None:
                    self._remove(other)

    def __getstate__(self) -> tuple:
        return self._make, self._limit, self._size

    def __setstate__(self, state: tuple) -> None:
        self.__init__(*state)


class _Entry:
    """A value and, once it is made, its size."""

    def __init__(self):
        self.lock = threading.Lock()
        self.value = None
        self.size: float | None = None
