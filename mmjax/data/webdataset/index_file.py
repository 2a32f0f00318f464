"""The index file of shards: where each example of many tars lies.

A file of 16 bytes an example would be 1.6 GB for 100 million of them; in blocks of 512 bytes, which is what tars are
made of, an example takes 8. Nothing of the file but its description is kept in memory: rows are read one by one with
`os.pread`. (Mapped pages would count as memory of every worker, and on a network file system a mapped file that is
replaced ends the process.)

Layout, all little-endian: magic, version, number of rows, where the description starts, its length, and when it was
built in nanoseconds since 1970 (uint64); rows of two uint32, first block and number of blocks; the description as JSON.
"""

import dataclasses
import errno
import json
import os
import struct
import tempfile
import time

import numpy as np

from mmjax.data.webdataset.tar_format import BLOCK, ShardTable
from mmjax.errors import UserError
from mmjax.io import file_pool, retries

_MAGIC, _VERSION = b"mmjaxtar", 2
_HEAD = struct.Struct("<8sQQQQQ")
HEAD_BYTES = _HEAD.size
_ROW = struct.Struct("<II")
_REMEDY = "run mmjax index --force again"
MISSING = -1  # size of a shard that is not there


@dataclasses.dataclass(frozen=True)
class Shards:
    """The description of shards in an index.

    Attributes:
      names: as the index lists them.
      sizes: int64 [S], bytes; MISSING where there was no such file.
      rows: int64 [S], examples.
      modified: int64 [S], when a local one was changed, in nanoseconds since 1970; a number that differs between
        versions of a remote one, 0 where the store has none.
      ends: int64 [S, 2], first blocks of the first and the last example; 0 where there are none.
      checks: int64 [S], CRC-32 of the headers of the first and the last example; -1 for remote ones.
      key_sets: of each, how many examples have which endings (joined by ";").
      problems: what was wrong, by name.
    """

    names: list[str]
    sizes: np.ndarray
    rows: np.ndarray
    modified: np.ndarray
    ends: np.ndarray
    checks: np.ndarray
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

    Attributes:
      built: when it was, in nanoseconds since 1970.

    Raises:
      FileNotFoundError: there is none.
      UserError: it is not one, or not whole, or of another version.
    """

    def __init__(self, path: str):
        self.path = path
        self._file: file_pool.OpenFile | None = file_pool.OpenFile(path)
        self.length, self._start, self._size, self.built = _read_head(path, self._file)

    def __len__(self) -> int:
        return self.length

    def __getstate__(self) -> tuple:
        return self.path, self.length, self._start, self._size, self.built

    def __setstate__(self, state: tuple) -> None:
        self.path, self.length, self._start, self._size, self.built = state
        self._file = None

    def row(self, index: int) -> tuple[int, int]:
        """Returns where an example starts in its shard and how long it is, in bytes.

        Raises:
          OSError: the index cannot be read.
          UserError: another file has its name now.
        """
        data = self._read(_HEAD.size + index * _ROW.size, _ROW.size)
        start, count = _ROW.unpack(data)
        return start * BLOCK, count * BLOCK

    def rows(self, first: int, count: int) -> np.ndarray:
        """Returns uint32 [count, 2], rows as they are stored."""
        return np.frombuffer(self._read(_HEAD.size + first * _ROW.size, count * _ROW.size), "<u4").reshape(-1, 2)

    def shards(self) -> Shards:
        """Reads the description.

        Raises:
          UserError: it is damaged.
        """
        try:
            content = json.loads(self._read(self._start, self._size))
            sets = content["key_sets"]
            shards = Shards(
                names=content["names"],
                sizes=np.array(content["sizes"], np.int64),
                rows=np.array(content["rows"], np.int64),
                modified=np.array(content["modified"], np.int64),
                ends=np.array(content["ends"], np.int64).reshape(-1, 2),
                checks=np.array(content["checks"], np.int64),
                key_sets=[{sets[number]: count for number, count in pairs} for pairs in content["shard_key_sets"]],
                problems=content["problems"],
            )
            is_complete = shards.rows.sum() == self.length
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f"index {self.path!r} is not whole; {_REMEDY}") from error
        if not is_complete:
            raise UserError(f"index {self.path!r} is not whole; {_REMEDY}")
        return shards

    def _read(self, offset: int, length: int) -> bytes:
        try:
            data = file_pool.pread_open(self._file or self._open_again(), offset, length)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            data = file_pool.pread_open(self._open_again(), offset, length)
        if len(data) < length:
            raise retries.ReadError(f"{self.path} was cut off; {_REMEDY}")
        return data

    def _open_again(self) -> file_pool.OpenFile:
        file = file_pool.OpenFile(self.path)
        if _read_head(self.path, file) != (self.length, self._start, self._size, self.built):
            raise UserError(f"index {self.path!r} was made again while it was in use; start again")
        self._file = file
        return file


def _read_head(path: str, file: file_pool.OpenFile) -> tuple[int, int, int, int]:
    """Returns the number of rows, where the description is and how long, and when the index was built."""
    head, size = file_pool.pread_open(file, 0, _HEAD.size), os.fstat(file.fd).st_size
    if len(head) < _HEAD.size or head[: len(_MAGIC)] != _MAGIC:
        raise UserError(f"index {path!r} is not one of mmjax's; {_REMEDY}")
    _, version, rows, start, length, built = _HEAD.unpack(head)
    if version != _VERSION:
        raise UserError(f"index {path!r} has version {version}, this is for {_VERSION}; {_REMEDY}")
    if start != _HEAD.size + rows * _ROW.size or start + length != size:
        raise UserError(f"index {path!r} is not whole; {_REMEDY}")
    return rows, start, length, built


def ends_of(rows: np.ndarray) -> list[int]:
    """First blocks of the first and the last of a shard's examples; 0 where there are none."""
    return [int(rows[0, 0]), int(rows[-1, 0])] if len(rows) else [0, 0]


class IndexWriter:
    """Writes an index, which is there when all of it is. Use it with `with`; an error leaves the old one as it was.

    Args:
      path: of the index; its folder exists.
      partial: where, after an error, an index of the shards that were added lies; "" is nowhere.

    Attributes:
      problems: what was wrong so far, by name.
    """

    def __init__(self, path: str, partial: str = ""):
        self.path, self.partial = path, partial
        self._columns: dict[str, list] = {
            name: [] for name in ("names", "sizes", "rows", "modified", "ends", "checks", "shard_key_sets")
        }
        self.problems: dict[str, str] = {}
        self._sets: dict[str, int] = {}
        self._count = 0

    def __enter__(self) -> "IndexWriter":
        folder, base = os.path.split(os.path.abspath(self.path))
        number, self._part = tempfile.mkstemp(prefix=base + ".", suffix=".part", dir=folder)
        self._file = os.fdopen(number, "wb")
        self._file.write(bytes(_HEAD.size))
        return self

    def __len__(self) -> int:
        return self._count

    def add(self, name: str, size: int, modified: int, table: ShardTable, check: int = -1) -> None:
        """Adds the next shard."""
        self._file.write(np.ascontiguousarray(table.rows, "<u4").tobytes())
        self._count += len(table.rows)
        pairs = [(self._sets.setdefault(key, len(self._sets)), count) for key, count in table.key_sets.items()]
        values = name, size, len(table.rows), modified, ends_of(table.rows), check, pairs
        for field, value in zip(self._columns, values, strict=True):
            self._columns[field].append(value)
        if table.problem:
            self.problems[name] = table.problem

    def __exit__(self, kind, *_) -> None:
        try:
            if kind is None:
                self._finish(self.path)
            elif self.partial and self._count:
                self._finish(self.partial)
        finally:
            self._file.close()
            if os.path.exists(self._part):
                os.remove(self._part)

    def _finish(self, path: str) -> None:
        content = {**self._columns, "key_sets": list(self._sets), "problems": self.problems}
        text = json.dumps(content).encode()
        self._file.write(text)
        self._file.seek(0)
        start = _HEAD.size + self._count * _ROW.size
        self._file.write(_HEAD.pack(_MAGIC, _VERSION, self._count, start, len(text), time.time_ns()))
        self._file.flush()
        os.fsync(self._file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(self._part, 0o666 & ~mask)  # temporary files are their maker's alone
        os.replace(self._part, path)
