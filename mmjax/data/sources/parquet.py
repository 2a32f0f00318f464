"""Parquet files, such as img2dataset writes and the Hugging Face hub holds (`parquet:`)."""

import io
import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from mmjax.data.bad_example import BadExample
from mmjax.data.column_inference import choose_fields, get_nested
from mmjax.data.record import Record, check_index
from mmjax.data.source_protocols import DEFAULT_OPTIONS, SourceOptions
from mmjax.errors import UserError
from mmjax.io.patterns import error_reason, list_files, pattern_name
from mmjax.io.reader import Reader
from mmjax.utils.lru_cache import LRUCache
from mmjax.utils.optional_imports import require

_DECODED_BYTES = 1 << 30  # row groups kept by a process
_BIG_GROUP = 8  # rows
_FOOTERS = 256  # kept by a process
_OPENERS = 16  # threads

log = logging.getLogger("mmjax.data")


class Parquet:
    """Examples in the rows of Parquet files; the row groups are the shards.

    The image is a column of encoded files (bytes), or of structs with them as `bytes`. Captions are texts or lists of
    texts. Files with Hugging Face's description of a ClassLabel have classes.

    Args:
      path: pattern of files, with braces and wildcards, local or an fsspec URL.
      options: how to read it; `image_key` and `caption_keys` name columns, or fields of structs as `a.b`.
      field: config field to name in errors.

    Raises:
      UserError: on files that are missing, empty or of another format, or without columns of images and captions.
    """

    def __init__(self, path: str, *, options: SourceOptions = DEFAULT_OPTIONS, field: str = "data.train"):
        where = f"{field}='parquet:{path}'"
        require("pyarrow.parquet", extra="parquet", where=where)
        self.name = pattern_name(path)
        self._identity = f"parquet:{path}"
        self._reader = Reader(options.retry_seconds)
        self._paths = list_files(path, reader=self._reader, where=where)
        self._footers = LRUCache(self._footer, _FOOTERS)
        self._groups = LRUCache(self._decode, _DECODED_BYTES, size=_nbytes)
        files, numbers, lengths, sizes = self._measure(where)
        self._files, self._numbers, self.shard_lengths = files, numbers, lengths
        if not len(self):
            raise UserError(f"{where}: no rows in there; check the pattern")
        schema = self._footers.get(self._paths[files[0]]).schema.to_arrow_schema()
        columns = {name: kind for column in schema for name, kind in _flat(column.name, column.type)}
        self._fields = choose_fields(
            list(columns),
            options=options,
            where=where,
            images=[name for name, kind in columns.items() if _is_image(kind)],
            classes=_classes(schema),
        )
        self._columns = [name for name in schema.names if any(_inside(key, name) for key in self._fields.names)]
        self.class_names, self.templates = self._fields.class_names, self._fields.templates
        self._ends = np.cumsum(self.shard_lengths)
        self._sizes, self._where, self._warned = sizes, where, False
        # Evaluation reads in order.
        is_jumping = field == "data.train" and options.order == "global"
        if is_jumping and lengths.mean() >= _BIG_GROUP and sizes.sum() > _DECODED_BYTES:
            log.warning(
                "%s: under data.order='global' each example reads a row group of %d rows (%.1f MB);"
                " set data.order='windowed'",
                where,
                lengths.mean(),
                sizes.mean() / 1e6,
            )

    def __len__(self) -> int:
        return int(self.shard_lengths.sum())

    def __getitem__(self, index: int) -> Record:
        index = check_index(index, len(self))
        shard = int(np.searchsorted(self._ends, index, side="right"))
        row = int(index - (self._ends[shard] - self.shard_lengths[shard]))
        table = self._groups.get(shard)
        path = f"{self._paths[self._files[shard]]}[{self._numbers[shard]}][{row}]"
        if row >= table.num_rows:
            raise BadExample("cut", f"{path}: the row group has {table.num_rows} rows")

        def lookup(key: str) -> Any:
            top = next((name for name in table.column_names if _inside(key, name)), None)
            return None if top is None else get_nested({top: table.column(top)[row].as_py()}, key)

        return self._fields.record(lookup, source=self._identity, index=index, path=path)

    def prefetch_shards(self, shards: Sequence[int], /) -> None:
        """Warns once if a window has more row groups than are kept in memory; they are read on demand."""
        window = self._sizes[list(shards)].sum() / 2  # with those of the next one
        if window > _DECODED_BYTES and not self._warned:
            self._warned = True
            log.warning(
                "%s: a window of row groups takes up to %.0f MB, more than the %.0f MB that are kept, so that they are"
                " read again and again; set data.window lower",
                self._where,
                window / 1e6,
                _DECODED_BYTES / 1e6,
            )

    def _footer(self, path: str) -> Any:
        import pyarrow.parquet

        return pyarrow.parquet.read_metadata(_RangeFile(self._reader, path))

    def _measure(self, where: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Returns, of each row group that is not empty: its file, its number there, its rows, its bytes."""
        import pyarrow

        def measure(path: str) -> list[tuple[int, int]]:
            try:
                footer = self._footers.get(path)
            except (OSError, ImportError, ValueError, pyarrow.ArrowException) as error:
                broken = isinstance(error, pyarrow.ArrowException) or _is_arrows(error)
                remedy = "write it again or leave it out" if broken else "check the path"
                raise UserError(f"{where}: {path!r} cannot be read ({error_reason(error)}); {remedy}") from error
            groups = map(footer.row_group, range(footer.num_row_groups))
            return [(group.num_rows, group.total_byte_size) for group in groups]

        with ThreadPoolExecutor(_OPENERS) as pool:
            groups_of_files = list(pool.map(measure, self._paths))
        rows = [
            (file, number, *group) for file, groups in enumerate(groups_of_files) for number, group in enumerate(groups)
        ]
        table = np.array([row for row in rows if row[2]], np.int64).reshape(-1, 4)
        files, numbers, lengths, sizes = table.T.copy()
        return files, numbers, lengths, sizes

    def _decode(self, shard: int) -> Any:
        """Reads a row group's columns that are used, those that this file has."""
        import pyarrow
        import pyarrow.parquet

        path, number = self._paths[self._files[shard]], int(self._numbers[shard])
        try:
            # The caller's threads decode, each its own row group.
            file = pyarrow.parquet.ParquetFile(
                _RangeFile(self._reader, path),
                metadata=self._footers.get(path),
                pre_buffer=True,
                page_checksum_verification=True,
            )
            return file.read_row_group(number, columns=self._columns, use_threads=False)
        except (OSError, pyarrow.ArrowException) as error:
            if isinstance(error, pyarrow.ArrowException) or _is_arrows(error):
                raise BadExample("corrupt", f"{path}: row group {number}: {error_reason(error)}") from error
            raise


class _RangeFile(io.RawIOBase):
    """A file, local or remote, for pyarrow to read parts of, with the reader's patience."""

    def __init__(self, reader: Reader, path: str):
        super().__init__()
        self._ranges, self._path, self._offset, self._size = reader, path, 0, reader.size(path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._offset

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._offset = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._offset, io.SEEK_END: self._size}[whence]
        return self._offset

    def read(self, size: int = -1) -> bytes:
        size = max(0, self._size - self._offset if size is None or size < 0 else min(size, self._size - self._offset))
        data = self._ranges.read_range(self._path, self._offset, size) if size else b""
        self._offset += len(data)
        return data


def _nbytes(table: Any) -> int:
    return table.nbytes


def _is_arrows(error: Exception) -> bool:
    """Whether pyarrow raised it about a file's contents: it does that with a bare OSError, too."""
    return type(error) is OSError and error.errno is None


def _inside(key: str, column: str) -> bool:
    """Whether a field's path begins in a column."""
    return key == column or key.startswith((f"{column}/", f"{column}."))


def _flat(name: str, kind: Any) -> Iterator[tuple[str, Any]]:
    """A column and the fields inside it, with their types; an element of a list counts as if it stood there alone."""
    import pyarrow.types

    yield name, kind
    while pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        kind = kind.value_type
    if pyarrow.types.is_struct(kind):
        for field in kind:
            yield from _flat(f"{name}/{field.name}", field.type)


def _is_image(kind: Any) -> bool:
    """Whether a column can hold encoded images."""
    import pyarrow.types

    if pyarrow.types.is_struct(kind):
        return any(field.name == "bytes" and _is_image(field.type) for field in kind)
    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)


def _classes(schema: Any) -> dict[str, list[str]]:
    """Names of the classes by column, from what Hugging Face datasets write beside the columns."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: list(feature["names"])
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError):
        return {}
