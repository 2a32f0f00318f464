"""Arrays in a file on the local disk, of which parts are read when they are wanted: they take no memory."""

import contextlib
import hashlib
import operator
import os
import threading
import time
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np

from mmjax.io.file_pool import pread

_SUFFIX = ".arrays"
_UNUSED_SECONDS = 90 * 86400  # after which a file that nobody has read or stored again is removed


class StoredArray:
    """A one-dimensional array in a file; slices without a step, and single elements, are read from it. Picklable.

    Args:
      path: of the file.
      offset: of the first element, in bytes.
      dtype: of the elements.
      length: how many.
    """

    def __init__(self, path: str, offset: int, dtype: str, length: int):
        self._path, self._offset, self._dtype, self._length = path, offset, np.dtype(dtype), length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        """Elements of a slice, or one of them.

        Raises:
          OSError: the file is not there or cut off.
        """
        if isinstance(index, slice):
            start, stop, _ = index.indices(self._length)
            return self._read(start, max(0, stop - start))
        number = operator.index(index)
        if not -self._length <= number < self._length:
            raise IndexError(f"index {number} is outside an array of {self._length}")
        return self._read(number % self._length, 1)[0]

    def _read(self, start: int, count: int) -> np.ndarray:
        size = self._dtype.itemsize
        data = pread(self._path, self._offset + start * size, count * size) if count else b""
        if len(data) < count * size:
            raise OSError(f"{self._path} is cut off; remove it")
        return np.frombuffer(data, self._dtype)


def store_arrays(arrays: Sequence[np.ndarray], folder: str) -> list[StoredArray]:
    """Writes arrays [N] into one file of a folder, which is named by its contents and may be there already.

    Other such files that have not been used for 90 days are removed.

    Raises:
      OSError: it cannot be written.
    """
    digest, offsets, offset = hashlib.blake2b(digest_size=16), [], 0
    arrays = [np.ascontiguousarray(array) for array in arrays]
    for array in arrays:
        digest.update(f"{array.dtype.str} {len(array)} ".encode())
        digest.update(array.data)
        offsets.append(offset)
        offset += array.nbytes
    path = os.path.join(folder, f"{digest.hexdigest()}{_SUFFIX}")
    if _holds(path, arrays):
        with contextlib.suppress(OSError):  # somebody else's
            os.utime(path)
    else:
        os.makedirs(folder, exist_ok=True)
        _remove_unused(folder)
        part = f"{path}.{os.getpid()}-{threading.get_ident()}.part"
        try:
            with open(part, "wb") as file:
                for array in arrays:
                    file.write(array.data)
            os.replace(part, path)
        finally:
            if os.path.exists(part):
                os.remove(part)
    return [StoredArray(path, start, array.dtype.str, len(array)) for start, array in zip(offsets, arrays, strict=True)]


def _holds(path: str, arrays: Sequence[np.ndarray]) -> bool:
    """Whether a file is there and has the arrays' bytes, all of them."""
    try:
        with open(path, "rb") as file:
            same = all(np.array_equal(np.fromfile(file, array.dtype, len(array)), array) for array in arrays)
            return same and not file.read(1)
    except FileNotFoundError:
        return False


def _remove_unused(folder: str) -> None:
    oldest = time.time() - _UNUSED_SECONDS
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            status = entry.stat()
            if entry.name.endswith(_SUFFIX) and max(status.st_mtime, status.st_atime) < oldest:
                os.remove(entry.path)
