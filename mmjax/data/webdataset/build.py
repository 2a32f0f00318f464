"""Building the index of shards: those that no older index describes are scanned."""

import contextlib
import glob
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from mmjax.data.source_protocols import SourceOptions
from mmjax.data.webdataset.find import copy_index
from mmjax.data.webdataset.index_file import IndexWriter, Shards, TarIndex
from mmjax.data.webdataset.scan import Scanned, scan_all
from mmjax.data.webdataset.shard_list import ShardList
from mmjax.data.webdataset.tar_format import ShardTable
from mmjax.data.webdataset.validate import stamps_of
from mmjax.errors import UserError
from mmjax.io import file_pool
from mmjax.io.file_locks import exclusive_build
from mmjax.io.patterns import error_reason
from mmjax.io.reader import Reader

_PARTIAL = ".partial"  # ending of the index of a build that was stopped
_SCANNED_AT_ONCE = 64


def build(
    shards: Sequence[tuple[str, str]],
    target: str,
    *,
    reader: Reader,
    workers: int,
    where: str = "",
    previous: Sequence[str] = (),
    progress: Any = None,
) -> TarIndex:
    """Scans shards and writes their index. After an error or Ctrl-C the next build takes over what was scanned.

    Args:
      shards: name in the index and path of each.
      target: local path of the index.
      reader: for remote shards.
      workers: shards scanned at a time.
      where: to begin errors with.
      previous: older indexes, from which unchanged shards are taken over.
      progress: wraps the iterator over shards, as tqdm does.

    Raises:
      OSError: a shard cannot be read, or the index not written.
      UserError: no shard has any example.
    """
    known = _KnownShards(previous, shards, reader)
    partial = target + _PARTIAL
    with IndexWriter(target, partial) as writer:
        results = scan_all([path for name, path in shards if not known.has(name)], reader, workers)
        try:
            for name, _ in progress(shards) if progress else shards:
                scanned = known.get(name) if known.has(name) else next(results)
                writer.add(name, scanned.size, scanned.modified, scanned.table, scanned.check)
        finally:
            results.close()
        if not len(writer):
            raise no_examples(len(shards), writer.problems, where)
    file_pool.evict(target)
    with contextlib.suppress(FileNotFoundError):
        os.remove(partial)
    return TarIndex(target)


def no_examples(shards: int, problems: Mapping[str, str], where: str) -> UserError:
    """The error of so many shards of which none has an example, with what is wrong with the first ones."""
    listed = [f"{name}: {problem}" for name, problem in itertools.islice(problems.items(), 3)]
    what = f" ({'; '.join(listed)})" if listed else ""
    which = "the one shard" if shards == 1 else f"any of {shards:,} shards"
    return UserError(
        f"{where}: no examples in {which}{what}; check the pattern, and that the files are tars of images and captions"
    )


class _IndexedShard(NamedTuple):
    """A shard in an older index: its number there, and the number of its first example."""

    index: TarIndex
    description: Shards
    number: int
    first_row: int

    @property
    def stamp(self) -> tuple[int, int]:
        return int(self.description.sizes[self.number]), int(self.description.modified[self.number])


class _KnownShards:
    """Shards of older indexes that have not changed since."""

    def __init__(self, paths: Sequence[str], shards: Sequence[tuple[str, str]], reader: Reader):
        path_by_name = dict(shards)
        candidates: dict[str, list[_IndexedShard]] = {}
        for path in paths:
            try:
                index = TarIndex(path)
                description = index.shards()
            except (OSError, UserError):
                continue
            firsts = np.cumsum(description.rows) - description.rows
            for number, name in enumerate(description.names):
                if name in path_by_name:
                    shard = _IndexedShard(index, description, number, int(firsts[number]))
                    candidates.setdefault(name, []).append(shard)
        stamps = stamps_of([path_by_name[name] for name in candidates], reader)
        self._unchanged = {}
        for (name, candidates_of_name), stamp in zip(candidates.items(), stamps, strict=True):
            for shard in candidates_of_name:
                if stamp and stamp.version and stamp == shard.stamp:
                    self._unchanged[name] = shard

    def has(self, name: str) -> bool:
        return name in self._unchanged

    def get(self, name: str) -> Scanned:
        index, description, number, first_row = self._unchanged[name]
        rows = index.rows(first_row, int(description.rows[number]))
        table = ShardTable(rows, description.key_sets[number], description.problems.get(name, ""))
        check = int(description.checks[number])
        return Scanned(int(description.sizes[number]), int(description.modified[number]), table, check)


def build_index(
    shards: ShardList,
    *,
    options: SourceOptions,
    where: str,
    output: str = "",
    workers: int = 0,
    force: bool = False,
) -> str:
    """Builds the index of shards; returns its local path.

    It lies beside local shards where that folder can be written to, else in the cache folder. One process builds it
    while the others that see the folder wait, on whichever host they are.

    Args:
      shards: to index.
      options: `cache` and `retry_seconds`.
      where: the config field and its value, to begin errors with.
      output: local path to write to instead.
      workers: shards scanned at a time; 0 is one per core, or more where they are remote.
      force: scans all shards, whatever older indexes describe.

    Raises:
      OSError: a shard cannot be read, or the index not written.
      UserError: no examples, or nowhere to write.
    """
    reader = Reader(options.retry_seconds)
    cached, beside = shards.index_in(options.cache), shards.index_beside()
    writable = shards.is_local and beside and os.access(shards.folder, os.W_OK)
    target = output or (beside if writable else cached)
    with contextlib.ExitStack() as stack:
        try:
            if target == cached:
                os.makedirs(os.path.dirname(cached), exist_ok=True)
            waited = stack.enter_context(exclusive_build(target))
        except OSError as error:
            raise UserError(f"{where}: " + _unwritable(shards, target, cached, error)) from error
        if waited and not force and os.path.isfile(target):
            return target
        workers = workers or max(os.cpu_count() or 1, 1 if shards.is_local else 8)
        build(
            [(name, shards.path(name)) for name in shards.names],
            target,
            reader=reader,
            workers=min(workers, _SCANNED_AT_ONCE),
            where=where,
            previous=() if force else _previous_indexes(shards, target, options.cache, reader),
            progress=lambda shards: tqdm(shards, desc="indexing shards", unit="shard"),
        )
    return target


def _previous_indexes(shards: ShardList, target: str, cache: str, reader: Reader) -> list[str]:
    """Indexes that may describe some of these shards, whatever pattern they were made for."""
    cached, beside = shards.index_in(cache), shards.index_beside()
    paths = [target, cached, *(path + _PARTIAL for path in (target, cached, beside))]
    if shards.is_local:
        paths += sorted(glob.glob(f"{glob.escape(shards.folder)}/mmjax-*.index")) if shards.folder else []
    else:
        paths.append(copy_index(shards, cache=cache, reader=reader) or "")
    return [path for path in dict.fromkeys(paths) if path and os.path.isfile(path)]


def _unwritable(shards: ShardList, target: str, cached: str, error: OSError) -> str:
    if target != cached:
        return f"{target} cannot be written ({error_reason(error)}); write to another folder"
    neither = f", and neither can {shards.folder}" if shards.is_local and shards.folder else ""
    return (
        f"the index cannot be written to {os.path.dirname(cached)} ({error_reason(error)}){neither};"
        " set data.cache (mmjax index --cache) to a folder that can be written"
    )
