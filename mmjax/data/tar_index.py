"""An index of shards: where each example of many tars lies.

A file of 16 bytes an example would be 1.6 GB for 100 million of them; in blocks of 512 bytes, which is what tars are
made of, an example takes 8. Nothing of the file but its description is kept in memory: rows are read one by one with
`os.pread`. (Mapped pages would count as memory of every worker, and on a network file system a mapped file that is
replaced ends the process.)

Layout, all little-endian: magic, version, number of rows, where the description starts and its length (uint64); rows of
two uint32, first block and number of blocks; the description as JSON.
"""

import concurrent.futures
import dataclasses
import functools
import json
import multiprocessing
import os
import struct
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mmjax.data import reading
from mmjax.data.reading import Reader, is_local, local_path
from mmjax.data.tar_members import BLOCK, ShardTable, scan
from mmjax.errors import UserError

_MAGIC, _VERSION = b"mmjaxtar", 1
_HEAD = struct.Struct("<8sQQQQ")
_ROW = struct.Struct("<II")
_LOCAL_CHUNK, _REMOTE_CHUNK = 4096, 16 << 20  # bytes
_SHARDS_FOR_PROCESSES = 32  # below as many, processes take longer to start than threads to be done
GONE = -1  # size of a shard that is not there


@dataclasses.dataclass(frozen=True)
class Shards:
    """What an index says about its shards.

    Attributes:
      names: as the index lists them.
      sizes: int64 [S], bytes; GONE where there was no such file.
      rows: int64 [S], examples.
      modified: int64 [S], nanoseconds since 1970; 0 for remote ones.
      key_sets: of each, how many examples have which endings (joined by ";").
      problems: what was wrong, by name.
    """

    names: list[str]
    sizes: np.ndarray
    rows: np.ndarray
    modified: np.ndarray
    key_sets: list[dict[str, int]]
    problems: dict[str, str]

    @property
    def all_key_sets(self) -> dict[str, int]:
        """How many examples have which endings, the most frequent first."""
        total: dict[str, int] = {}
        for key_sets in self.key_sets:
            for endings, count in key_sets.items():
                total[endings] = total.get(endings, 0) + count
        return dict(sorted(total.items(), key=lambda item: -item[1]))


class TarIndex:
    """An index file. Picklable: a worker gets the path.

    Args:
      path: local.

    Raises:
      FileNotFoundError: there is none.
      UserError: it is not one, or not whole, or of another version.
    """

    def __init__(self, path: str):
        self.path = path
        self.length, *_ = _read_head(path)

    def __len__(self) -> int:
        return self.length

    def row(self, index: int) -> tuple[int, int]:
        """Returns where an example starts in its shard and how long it is, in bytes.

        Raises:
          OSError: the index cannot be read.
        """
        data = reading.pread(self.path, _HEAD.size + index * _ROW.size, _ROW.size)
        if len(data) < _ROW.size:
            raise reading.ReadError(f"{self.path} was cut off; run mmjax index --force again")
        start, count = _ROW.unpack(data)
        return start * BLOCK, count * BLOCK

    def rows(self, first: int, count: int) -> np.ndarray:
        """Returns uint32 [count, 2], rows as they are stored."""
        data = reading.pread(self.path, _HEAD.size + first * _ROW.size, count * _ROW.size)
        return np.frombuffer(data, "<u4").reshape(-1, 2)

    def shards(self) -> Shards:
        """Reads the description."""
        _, start, length = _read_head(self.path)
        told = json.loads(reading.pread(self.path, start, length))
        sets = told["key_sets"]
        return Shards(
            names=told["names"],
            sizes=np.array(told["sizes"], np.int64),
            rows=np.array(told["rows"], np.int64),
            modified=np.array(told["modified"], np.int64),
            key_sets=[{sets[number]: count for number, count in pairs} for pairs in told["shard_key_sets"]],
            problems=told["problems"],
        )


def _read_head(path: str) -> tuple[int, int, int]:
    """Returns the number of rows, and where the description is."""
    with open(path, "rb") as file:
        head, size = file.read(_HEAD.size), os.fstat(file.fileno()).st_size
    remedy = "run mmjax index --force again"
    if len(head) < _HEAD.size or head[: len(_MAGIC)] != _MAGIC:
        raise UserError(f"index {path!r} is not one of mmjax's; {remedy}")
    _, version, rows, start, length = _HEAD.unpack(head)
    if version != _VERSION:
        raise UserError(f"index {path!r} has version {version}, this is for {_VERSION}; {remedy}")
    if start != _HEAD.size + rows * _ROW.size or start + length != size:
        raise UserError(f"index {path!r} is not whole; {remedy}")
    return rows, start, length


class IndexWriter:
    """Writes an index, which is there when all of it is. Use it with `with`; an error leaves nothing behind.

    Args:
      path: of the index; its folder exists.
    """

    def __init__(self, path: str):
        self.path = path
        self._told: dict[str, list] = {"names": [], "sizes": [], "rows": [], "modified": [], "shard_key_sets": []}
        self._problems: dict[str, str] = {}
        self._sets: dict[str, int] = {}
        self._count = 0

    def __enter__(self) -> "IndexWriter":
        folder, base = os.path.split(os.path.abspath(self.path))
        number, self._part = tempfile.mkstemp(prefix=base + ".", suffix=".part", dir=folder)
        self._file = os.fdopen(number, "wb")
        self._file.write(bytes(_HEAD.size))
        return self

    def add(self, name: str, size: int, modified: int, table: ShardTable) -> None:
        """Adds the next shard."""
        self._file.write(np.ascontiguousarray(table.rows, "<u4").tobytes())
        self._count += len(table.rows)
        pairs = [(self._sets.setdefault(key, len(self._sets)), count) for key, count in table.key_sets.items()]
        for field, value in zip(self._told, (name, size, len(table.rows), modified, pairs), strict=True):
            self._told[field].append(value)
        if table.problem:
            self._problems[name] = table.problem

    def __exit__(self, kind, *_) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._file.close()
            if os.path.exists(self._part):
                os.remove(self._part)

    def _finish(self) -> None:
        told = {**self._told, "key_sets": list(self._sets), "problems": self._problems}
        text = json.dumps(told).encode()
        self._file.write(text)
        self._file.seek(0)
        start = _HEAD.size + self._count * _ROW.size
        self._file.write(_HEAD.pack(_MAGIC, _VERSION, self._count, start, len(text)))
        self._file.flush()
        os.fsync(self._file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(self._part, 0o666 & ~mask)  # temporary files are their maker's alone
        os.replace(self._part, self.path)


@dataclasses.dataclass(frozen=True)
class Scanned:
    """One shard, scanned: its size (GONE where it is not there), when it was changed, its examples."""

    size: int
    modified: int
    table: ShardTable


def scan_shard(path: str, reader: Reader) -> Scanned:
    """Finds a shard's examples. Of local shards only headers are read; remote ones are read once, from start to end.

    Raises:
      OSError: it cannot be read, for another reason than that it is not there.
    """
    try:
        if is_local(path):
            # Opened for the scan alone: the files that stay open are for reading examples.
            with open(local_path(path), "rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                read = lambda offset, length: os.pread(file.fileno(), length, offset)
                return Scanned(status.st_size, status.st_mtime_ns, scan(read, status.st_size, chunk=_LOCAL_CHUNK))
        size = reader.size(path)
        read = functools.partial(reader.read_range, path)
        if size:
            read(0, 1)
        if reader.has_ranges(path):
            return Scanned(size, 0, scan(read, size, chunk=_REMOTE_CHUNK))
        with tempfile.TemporaryDirectory() as folder:
            copy = os.path.join(folder, "shard.tar")
            reader.download(path, copy)
            return dataclasses.replace(scan_shard(copy, reader), modified=0)
    except FileNotFoundError:
        return Scanned(GONE, 0, ShardTable(np.zeros((0, 2), np.uint32), {}, "missing"))


def build(
    shards: Sequence[tuple[str, str]],
    target: str,
    *,
    reader: Reader,
    workers: int,
    processes: bool = False,
    previous: str | None = None,
    progress: Any = None,
) -> TarIndex:
    """Scans shards and writes their index.

    Args:
      shards: name in the index and path of each.
      target: local path of the index.
      reader: for remote shards.
      workers: shards scanned at a time.
      processes: whether the workers may be processes; the main module is imported again in each.
      previous: an older index; local shards that have not changed since are taken over from it.
      progress: wraps the iterator over shards, as tqdm does.

    Raises:
      OSError: a shard cannot be read, or the index not written.
    """
    known = _Known(previous)
    with IndexWriter(target) as writer:
        results = _scan_all([path for name, path in shards if not known.has(name, path)], reader, workers, processes)
        try:
            for name, path in progress(shards) if progress else shards:
                scanned = known.get(name) if known.has(name, path) else next(results)
                writer.add(name, scanned.size, scanned.modified, scanned.table)
        finally:
            results.close()
    reading.forget(target)
    return TarIndex(target)


class _Known:
    """Shards of an older index."""

    def __init__(self, path: str | None):
        self._places: dict[str, int] = {}
        self._fresh: dict[str, bool] = {}
        try:
            self._index = TarIndex(path) if path else None
        except (OSError, UserError):
            self._index = None
        if self._index:
            self._shards = self._index.shards()
            self._places = {name: place for place, name in enumerate(self._shards.names)}
            self._firsts = np.cumsum(self._shards.rows) - self._shards.rows

    def has(self, name: str, path: str) -> bool:
        """Whether the shard was indexed and is what it was."""
        if name not in self._places or not is_local(path):
            return False
        if name not in self._fresh:
            place = self._places[name]
            try:
                status = os.stat(local_path(path))
                now = (status.st_size, status.st_mtime_ns)
            except OSError:
                now = None
            self._fresh[name] = now == (self._shards.sizes[place], self._shards.modified[place])
        return self._fresh[name]

    def get(self, name: str) -> Scanned:
        place, shards = self._places[name], self._shards
        rows = self._index.rows(int(self._firsts[place]), int(shards.rows[place]))
        table = ShardTable(rows, shards.key_sets[place], shards.problems.get(name, ""))
        return Scanned(int(shards.sizes[place]), int(shards.modified[place]), table)


def _scan_all(paths: Sequence[str], reader: Reader, workers: int, processes: bool) -> Iterator[Scanned]:
    """Yields the shards in order, scanned a few at a time and not far ahead."""
    scan_one = functools.partial(scan_shard, reader=reader)
    workers = min(workers, len(paths))
    if workers <= 1:
        yield from map(scan_one, paths)
        return
    # Parsing holds the interpreter; waiting for a network does not.
    if processes and is_local(paths[0]) and len(paths) >= _SHARDS_FOR_PROCESSES:
        context = multiprocessing.get_context("spawn")
        pool = concurrent.futures.ProcessPoolExecutor(workers, mp_context=context)
    else:
        pool = concurrent.futures.ThreadPoolExecutor(workers)
    waiting = iter(paths)
    ahead: list[concurrent.futures.Future] = []
    try:
        for path in waiting:
            ahead.append(pool.submit(scan_one, path))
            if len(ahead) >= 4 * workers:
                yield ahead.pop(0).result()
        while ahead:
            yield ahead.pop(0).result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
