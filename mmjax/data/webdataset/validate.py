"""The comparison of shards with their index: sizes, versions, and what is missing or damaged."""

import logging
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mmjax.data.source_protocols import SourceOptions
from mmjax.data.webdataset.index_file import MISSING, Shards
from mmjax.data.webdataset.scan import check_of
from mmjax.data.webdataset.shard_list import ShardList
from mmjax.errors import UserError
from mmjax.io.reader import Reader, is_local, local_path
from mmjax.io.regular_file import check_regular
from mmjax.io.remote import Stamp

_CONCURRENT_REQUESTS = 32
_NO_FAULT = "no examples"  # the index's word for an empty but complete tar, as where no download succeeded

log = logging.getLogger("mmjax.data")


def check_shards(shards: ShardList, description: Shards, *, path: str, options: SourceOptions, where: str) -> None:
    """Compares an index with the shards that are there, and logs in one line what is wrong with them.

    Shards that are missing, cut off, damaged or no tars are borne while their share of all shards is at most
    `options.max_bad_fraction`: by default one in a hundred, so that sets of fewer than a hundred shards must be whole.
    A cut shard counts like a missing one, whatever can still be read of it.

    Args:
      shards: as the pattern names them.
      description: of the shards in their index.
      path: the pattern, for the remedy.
      options: `max_bad_fraction` and `keys_field`.
      where: the config field and its value, to begin errors with.

    Raises:
      UserError: the index is of other shards, a shard has grown or been replaced since, or too many are not whole.
    """
    remedy = f"run mmjax index {path!r} again"
    known = set(description.names)
    new = [name for name in shards.names if name not in known]
    lost = known.difference(shards.names)
    if new or (lost and not shards.listed):
        what = f"{new[0]!r} is not in it" if new else f"{min(lost)!r} is in it alone"
        raise UserError(f"{where}: its index is of other shards ({what}); {remedy}")
    sizes, replaced = current_sizes(shards, description, reader=Reader(options.retry_seconds))
    changed = np.flatnonzero((sizes > description.sizes) | replaced)
    if len(changed):
        name = description.names[changed[0]]
        raise UserError(f"{where}: {len(changed)} shards are not what their index says, such as {name!r}; {remedy}")
    faults = _faults(description, sizes)
    if not faults:
        return
    missing = int((sizes == MISSING).sum())
    total = len(description.names)
    name, problem = next(iter(faults.items()))
    kinds = {"missing": missing, "cut off or no tars": len(faults) - missing}
    listed = ", ".join(f"{kind}: {count:,} of {total:,}" for kind, count in kinds.items() if count)
    summary = f"shards {listed} (first: {name}: {problem})"
    share = len(faults) / total
    if share > options.max_bad_fraction:
        if options.keys_field == "eval":
            raise UserError(f"{where}: {summary}; evaluation is on all of a set: repair or fetch them, and {remedy}")
        allowed = math.ceil(100 * share) / 100
        raise UserError(
            f"{where}: {summary}; repair or fetch them and {remedy}, or allow as many by"
            f" data.max_bad_fraction={allowed:g}"
        )
    log.warning("%s: %s", shards.name, summary)


def _faults(description: Shards, sizes: np.ndarray) -> dict[str, str]:
    """What is wrong, by name. `sizes` are those of now."""
    faults = {}
    for name, size, before in zip(description.names, sizes.tolist(), description.sizes.tolist(), strict=True):
        problem = description.problems.get(name, _NO_FAULT)
        if size == MISSING:
            faults[name] = "missing"
        elif size < before:
            faults[name] = "shorter than when it was indexed"
        elif problem != _NO_FAULT:
            faults[name] = problem
    return faults


def stamps_of(paths: Sequence[str], reader: Reader) -> list[Stamp | None]:
    """Sizes and versions of files, None for those that are not there; of buckets that can be listed by a few requests.

    Raises:
      OSError: the storage fails.
    """
    listed = _list(paths, reader)

    def stamp(path: str) -> Stamp | None:
        folder, _, name = path.rpartition("/")
        stamps = listed.get(folder)
        if stamps is not None:
            return stamps.get(name)
        try:
            return reader.stamp(path)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return None

    with ThreadPoolExecutor(_CONCURRENT_REQUESTS) as pool:
        return list(pool.map(stamp, paths))


def current_sizes(shards: ShardList, description: Shards, *, reader: Reader) -> tuple[np.ndarray, np.ndarray]:
    """Compares shards with the description in their index.

    A local shard of the same size and another time is read at its first and its last example, so that a copy or a
    `touch` does not count as another shard. Remote shards are looked for in listings of their folders; where there are
    none, as over plain HTTP, they count as unchanged.

    Args:
      shards: where they lie.
      description: of the shards in their index.
      reader: lists folders.

    Returns:
      int64 [S], sizes in bytes, MISSING where there is no such file; bool [S], whether it is another file of that size.

    Raises:
      OSError: the storage fails.
    """
    paths = [shards.path(name) for name in description.names]
    if shards.is_local:
        with ThreadPoolExecutor(_CONCURRENT_REQUESTS) as pool:
            results = list(pool.map(lambda i: _compare_local(paths[i], description, i), range(len(paths))))
        return np.array([size for size, _ in results], np.int64), np.array([other for _, other in results], bool)
    sizes, listed = description.sizes.copy(), _list(paths, reader)
    for i, path in enumerate(paths):
        folder, _, name = path.rpartition("/")
        stamps = listed[folder]
        if stamps is not None:
            sizes[i] = stamps[name].size if name in stamps else MISSING
    return sizes, np.zeros(len(paths), bool)


def _list(paths: Sequence[str], reader: Reader) -> dict[str, dict[str, Stamp] | None]:
    folders = dict.fromkeys(path.rpartition("/")[0] for path in paths if not is_local(path))
    return {folder: reader.list_stamps(folder) for folder in folders}


def _compare_local(path: str, description: Shards, i: int) -> tuple[int, bool]:
    """A local shard's size, and whether it is another shard of the same size."""
    try:
        check_regular(local_path(path))
        with open(local_path(path), "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if status.st_size != description.sizes[i] or status.st_mtime_ns == description.modified[i]:
                return status.st_size, False
            read = lambda offset, length: os.pread(file.fileno(), length, offset)
            return status.st_size, bool(check_of(read, description.ends[i].tolist()) != description.checks[i])
    except PermissionError:  # reading it raises it again
        return os.stat(local_path(path)).st_size, False
    except OSError:
        return MISSING, False
