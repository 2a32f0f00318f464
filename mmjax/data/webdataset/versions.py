"""Sizes and versions of many shards, and which are no longer those that an index speaks of."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mmjax.data.webdataset.index_file import MISSING, Shards
from mmjax.data.webdataset.scan import check_of
from mmjax.data.webdataset.shard_list import ShardList
from mmjax.io.reader import Reader, Stamp, is_local, local_path

_ASKED_AT_ONCE = 32


def stamps_of(paths: Sequence[str], reader: Reader) -> list[Stamp | None]:
    """Sizes and versions of files, None for those that are not there; of buckets that can be listed by a few requests.

    Raises:
      OSError: the storage fails.
    """
    listed = _list(paths, reader)

    def ask(path: str) -> Stamp | None:
        folder, _, name = path.rpartition("/")
        if listed.get(folder) is not None:
            return listed[folder].get(name)
        try:
            return reader.stamp(path)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return None

    with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
        return list(pool.map(ask, paths))


def current_sizes(shards: ShardList, told: Shards, *, reader: Reader) -> tuple[np.ndarray, np.ndarray]:
    """Compares shards with what their index says of them.

    A local shard of the same size and another time is read at its first and its last example, so that a copy or a
    `touch` is told from another shard. Remote shards are looked for in listings of their folders; where there are
    none, as over plain HTTP, they are taken to be what they were.

    Args:
      shards: where they lie.
      told: the description of their index.
      reader: lists folders.

    Returns:
      int64 [S], sizes in bytes, GONE where there is no such file; bool [S], whether it is another file of that size.

    Raises:
      OSError: the storage fails.
    """
    paths = [shards.path(name) for name in told.names]
    if shards.is_local:
        with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
            looked = list(pool.map(lambda place: _look(paths[place], told, place), range(len(paths))))
        return np.array([size for size, _ in looked], np.int64), np.array([other for _, other in looked], bool)
    sizes, listed = told.sizes.copy(), _list(paths, reader)
    for place, path in enumerate(paths):
        folder, _, name = path.rpartition("/")
        if listed[folder] is not None:
            sizes[place] = listed[folder][name].size if name in listed[folder] else MISSING
    return sizes, np.zeros(len(paths), bool)


def _list(paths: Sequence[str], reader: Reader) -> dict[str, dict[str, Stamp] | None]:
    folders = dict.fromkeys(path.rpartition("/")[0] for path in paths if not is_local(path))
    return {folder: reader.list_stamps(folder) for folder in folders}


def _look(path: str, told: Shards, place: int) -> tuple[int, bool]:
    """A local shard's size, and whether it is another shard of the same size."""
    try:
        with open(local_path(path), "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if status.st_size != told.sizes[place] or status.st_mtime_ns == told.modified[place]:
                return status.st_size, False
            read = lambda offset, length: os.pread(file.fileno(), length, offset)
            return status.st_size, check_of(read, told.ends[place].tolist()) != told.checks[place]
    except PermissionError:  # whoever reads it is told
        return os.stat(local_path(path)).st_size, False
    except OSError:
        return MISSING, False
