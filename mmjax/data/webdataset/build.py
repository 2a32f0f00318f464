"""Makes the index of shards, of which it scans those that no older index knows."""

import contextlib
import glob
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from mmjax.data.record import SourceOptions
from mmjax.data.webdataset.find import copy_index
from mmjax.data.webdataset.index_file import IndexWriter, Shards, TarIndex
from mmjax.data.webdataset.scan import Scanned, scan_all
from mmjax.data.webdataset.shard_list import ShardList
from mmjax.data.webdataset.tar_format import ShardTable
from mmjax.data.webdataset.versions import stamps_of
from mmjax.errors import UserError
from mmjax.io import file_pool
from mmjax.io.file_locks import building
from mmjax.io.patterns import reason
from mmjax.io.reader import Reader

_PARTIAL = ".partial"  # what is left of a build that was stopped
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
    """Scans shards and writes their index. What was scanned when an error or Ctrl-C ends it is left for the next time.

    Args:
      shards: name in the index and path of each.
      target: local path of the index.
      reader: for remote shards.
      workers: shards scanned at a time.
      where: to begin errors with.
      previous: older indexes; shards that have not changed since are taken over from them.
      progress: wraps the iterator over shards, as tqdm does.

    Raises:
      OSError: a shard cannot be read, or the index not written.
      UserError: no shard has any example.
    """
    known = _Known(previous, shards, reader) if previous else None
    has = lambda name: known is not None and known.has(name)
    partial = target + _PARTIAL
    with IndexWriter(target, partial) as writer:
        results = scan_all([path for name, path in shards if not has(name)], reader, workers)
        try:
            for name, _ in progress(shards) if progress else shards:
                scanned = known.get(name) if has(name) else next(results)
                writer.add(name, scanned.size, scanned.modified, scanned.table, scanned.check)
        finally:
            results.close()
        if not len(writer):
            what = "; ".join(f"{name} is {problem}" for name, problem in list(writer.problems.items())[:3])
            raise UserError(
                f"{where}: no examples in {len(shards)} shards ({what}); check the pattern, and that the files are tars"
                " of images and captions"
            )
    file_pool.evict(target)
    with contextlib.suppress(FileNotFoundError):
        os.remove(partial)
    return TarIndex(target)


class _Known:
    """Shards of older indexes that are what they were."""

    def __init__(self, paths: Sequence[str], shards: Sequence[tuple[str, str]], reader: Reader):
        wanted = dict(shards)
        found: dict[str, list[tuple[TarIndex, Shards, int, int]]] = {}
        for path in paths:
            try:
                index = TarIndex(path)
                told = index.shards()
            except (OSError, UserError):
                continue
            firsts = np.cumsum(told.rows) - told.rows
            for place, name in enumerate(told.names):
                if name in wanted:
                    found.setdefault(name, []).append((index, told, place, int(firsts[place])))
        stamps = stamps_of([wanted[name] for name in found], reader)
        self._places = {}
        for (name, places), now in zip(found.items(), stamps, strict=True):
            for place in places:
                _, told, number, _ = place
                if now and now.version and now == (told.sizes[number], told.modified[number]):
                    self._places[name] = place

    def has(self, name: str) -> bool:
        return name in self._places

    def get(self, name: str) -> Scanned:
        index, told, place, first = self._places[name]
        rows = index.rows(first, int(told.rows[place]))
        table = ShardTable(rows, told.key_sets[place], told.problems.get(name, ""))
        return Scanned(int(told.sizes[place]), int(told.modified[place]), table, int(told.checks[place]))


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
      force: scans all shards, whatever an older index knows.

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
            waited = stack.enter_context(building(target))
        except OSError as error:
            raise UserError(f"{where}: " + _nowhere(shards, target, cached, error)) from error
        if waited and not force and os.path.isfile(target):
            return target
        workers = workers or max(os.cpu_count() or 1, 1 if shards.is_local else 8)
        build(
            [(name, shards.path(name)) for name in shards.names],
            target,
            reader=reader,
            workers=min(workers, _SCANNED_AT_ONCE),
            where=where,
            previous=() if force else _previous(shards, target, options.cache, reader),
            progress=lambda shards: tqdm(shards, desc="indexing shards", unit="shard"),
        )
    return target


def _previous(shards: ShardList, target: str, cache: str, reader: Reader) -> list[str]:
    """Indexes that may know shards of ours, whatever pattern they were made for."""
    cached, beside = shards.index_in(cache), shards.index_beside()
    paths = [target, cached, *(path + _PARTIAL for path in (target, cached, beside))]
    if shards.is_local:
        paths += sorted(glob.glob(f"{glob.escape(shards.folder)}/mmjax-*.index")) if shards.folder else []
    else:
        paths.append(copy_index(shards, cache=cache, reader=reader) or "")
    return [path for path in dict.fromkeys(paths) if path and os.path.isfile(path)]


def _nowhere(shards: ShardList, target: str, cached: str, error: OSError) -> str:
    if target != cached:
        return f"{target} cannot be written ({reason(error)}); write to another folder"
    neither = f", and neither can {shards.folder}" if shards.is_local and shards.folder else ""
    return (
        f"the index cannot be written to {os.path.dirname(cached)} ({reason(error)}){neither};"
        " set data.cache (mmjax index --cache) to a folder that can be written"
    )
