"""Parquet files, such as img2dataset writes and the Hugging Face hub holds (`parquet:`)."""

import dataclasses
import functools
import io
import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from mmjax.data.bad_example import BadExample, one_example
from mmjax.data.column_inference import CaptionFields, ClassFields, label_text
from mmjax.data.formats.class_records import read_lines
from mmjax.data.formats.image_paths import IMAGES_OPTION, read_listed_image, resolve_path
from mmjax.data.formats.json_fields import get_nested
from mmjax.data.formats.parquet_schema import (
    caption_fields,
    check_columns,
    choose_parquet_fields,
    flat_columns,
    is_image,
    is_inside,
    null_counts,
    nulls_of,
    read_classes,
    rows_with_images,
    unnamed_label,
)
from mmjax.data.formats.table_classes import classes_of_labels
from mmjax.data.record import Record, check_index, stable_id
from mmjax.data.source_protocols import DEFAULT_OPTIONS, SourceOptions
from mmjax.errors import UserError
from mmjax.io.patterns import error_reason, list_files, pattern_name
from mmjax.io.reader import Reader, is_local, local_path
from mmjax.io.retries import ReadError
from mmjax.utils.lru_cache import LRUCache
from mmjax.utils.optional_imports import require

_DECODED_BYTES = 1 << 30  # row groups kept by a process
_BIG_GROUP = 8  # rows
_FOOTERS = 256  # kept by a process
_OPENERS = 16  # threads
_FIRST = 100  # images, named by path, of which one must be there

log = logging.getLogger("mmjax.data")


class _RowGroup(NamedTuple):
    """A row group's columns that are used, and the numbers of its rows that have an image."""

    table: Any
    rows: np.ndarray


class Parquet:
    """Examples in the rows of Parquet files; the row groups are the shards.

    The image is a column of encoded files (bytes), or of structs with them as `bytes`; where there is none, or
    `image_key` names such a column, one of paths, from the files' folder or that after ",images=". By its first bytes a
    file may be a video, a sound or an array instead. Captions are texts or lists of texts. Files with Hugging Face's
    description of a ClassLabel have classes; a column of labels without it, texts or numbers, has some where
    `label_key` names it or the model learns classes, as in `pairs:`.

    Rows whose encoded image is null, which img2dataset writes for failed downloads, are no examples: the footers say
    how many each row group has, and a line of the log how many there are. (Where a writer has left that out of its
    footers, they are bad examples.)

    Args:
      path: pattern of files, with braces and wildcards, local or an fsspec URL; or a local folder of them.
        ",images=DIR" may follow.
      options: how to read it; `image_key` and `caption_keys` name columns, or fields of structs as `a.b`.
      field: config field to name in errors.

    Raises:
      UserError: on files that are missing, empty or of another format, or without columns of images and captions, each
        named once.
    """

    def __init__(self, path: str, *, options: SourceOptions = DEFAULT_OPTIONS, field: str = "data.train"):
        where = f"{field}='parquet:{path}'"
        require("pyarrow.parquet", extra="parquet", where=where)
        self._identity = f"parquet:{path}"
        path, comma, images_folder = path.partition(IMAGES_OPTION)
        if comma and not images_folder:
            raise UserError(f"{where}: images= names no folder; write parquet:PATTERN,images=DIR")
        if is_local(path) and os.path.isdir(local_path(path)):
            path = f"{path.rstrip('/')}/*.parquet"
        self.name = pattern_name(path)
        self._reader, self._allowed = Reader(options.retry_seconds), options.table_paths
        self._paths = list_files(path, reader=self._reader, where=where)
        self._footers = LRUCache(self._footer, _FOOTERS)
        self._groups = LRUCache(self._decode, _DECODED_BYTES, size=_nbytes)
        groups = self._measure(where)
        if not groups:
            raise UserError(f"{where}: no rows in there; check the pattern")
        schema = self._footers.get(self._paths[groups[0].file]).schema.to_arrow_schema()
        columns = {name: kind for column in schema for name, kind in flat_columns(column.name, column.type)}
        classes = read_classes(schema)
        label = unnamed_label(columns, classes, options)
        names, numbers = self._read_labels(label, groups, options, where) if label else ([], {})
        classes |= {label: names} if label else {}
        self._fields = choose_parquet_fields(columns, classes, options, where)
        if label and isinstance(self._fields, ClassFields) and self._fields.label == label:
            self._fields = dataclasses.replace(self._fields, numbers=numbers)
        self._is_of_paths = bool(self._fields.image) and not is_image(columns[self._fields.image])
        self._images_folder = images_folder.rstrip("/") + "/" if images_folder else ""
        check_columns(schema, columns, self._fields, options, where)
        self._check_captions(groups, options, where)
        self._keep_rows_with_images(groups, where)
        self._columns = self._top_columns(schema.names, self._fields.names)
        self.class_names, self.templates = self._fields.class_names, self._fields.templates
        self.class_codes = self._fields.class_codes
        self._ends = np.cumsum(self.shard_lengths)
        self._where, self._warned = where, False
        if options.keys_field == "eval":
            self._check_every_caption(schema.names)
        if self._is_of_paths:
            self._check_images()
        # Evaluation reads in order.
        is_jumping = field == "data.train" and options.order == "global"
        if is_jumping and self.shard_lengths.mean() >= _BIG_GROUP and self._sizes.sum() > _DECODED_BYTES:
            log.warning(
                "%s: under data.order='global' each example reads a row group of %d rows (%.1f MB);"
                " set data.order='windowed'",
                where,
                self.shard_lengths.mean(),
                self._sizes.mean() / 1e6,
            )

    def _read_labels(
        self, column: str, groups: Sequence["_Measured"], options: SourceOptions, where: str
    ) -> tuple[list[str], Mapping[str, int]]:
        """Names the classes by a column of all rows, see `classes_of_labels`; a `UserError` where it cannot be read."""
        labels: set[str] = set()
        for group in groups:
            try:
                table = self._read_columns(group.file, group.number, [column])
            except (OSError, BadExample) as error:
                raise UserError(f"{where}: the labels in {column!r} cannot be read ({error_reason(error)})") from error
            labels.update(map(label_text, table.column(column).unique().to_pylist()))
        folders = list(dict.fromkeys(path[: path.rfind("/") + 1] or "." for path in self._paths))
        listed = read_lines(folders, "classnames.txt", reader=self._reader, where=where)
        return classes_of_labels(labels, listed, where, options.classes)

    def _keep_rows_with_images(self, groups: Sequence["_Measured"], where: str) -> None:
        """Sets what is known of each row group, but for rows without an image.

        Raises:
          UserError: no row has one.
        """
        has_bytes = self._fields.image and not self._is_of_paths
        nulls = [0 if not has_bytes else nulls_of(group.nulls, self._fields.image) for group in groups]
        total, missing = sum(group.rows for group in groups), sum(nulls)
        if missing:
            what = f"{missing:,} of {total:,} rows have no image under {self._fields.image!r}"
            if missing == total:
                raise UserError(f"{where}: {what}; give files with downloaded images, or name another column")
            log.warning("%s: %s, as where a download failed, and are left out", where, what)
        kept = [(group, count) for group, count in zip(groups, nulls, strict=True) if group.rows > count]
        self._files = np.array([group.file for group, _ in kept], np.int64)
        self._numbers = np.array([group.number for group, _ in kept], np.int64)
        self._sizes = np.array([group.size for group, _ in kept], np.int64)
        self._nulls = np.array([count for _, count in kept], np.int64)
        self.shard_lengths = np.array([group.rows for group, _ in kept], np.int64) - self._nulls

    def _check_captions(self, groups: Sequence["_Measured"], options: SourceOptions, where: str) -> None:
        """Looks into the footers for a row with a caption.

        Raises:
          UserError: all columns of captions are null in every row.
        """
        if (
            self._fields.class_names is None
            and (captions := caption_fields(self._fields))
            and all(group.nulls.get(key.replace("/", ".")) == group.rows for group in groups for key in captions)
        ):
            columns = " or ".join(map(repr, captions))
            raise UserError(
                f"{where}: no row has a text in column {columns}; name another one in {options.keys_field}.caption_keys"
            )

    def _check_every_caption(self, columns: Sequence[str]) -> None:
        """Reads the captions of all rows that are examples.

        Args:
          columns: of the files.

        Raises:
          UserError: one has no text: evaluation is on all of a set.
        """
        if not isinstance(self._fields, CaptionFields):
            return
        of_captions = self._top_columns(columns, self._fields.captions.keys)
        missing, first = 0, ""
        for shard in range(len(self.shard_lengths)):
            try:
                table, rows = self._read(shard, self._columns if self._nulls[shard] else of_captions)
            except BadExample as error:
                raise UserError(f"{self._where}: {error.detail}; evaluation is on all of a set") from error
            for row in rows.tolist():
                try:
                    self._fields.captions.gather(functools.partial(_look_up, table, row))
                except BadExample as error:
                    path = f"{self._paths[self._files[shard]]}[{self._numbers[shard]}][{row}]"
                    missing, first = missing + 1, first or f"{path}: {error.detail}"
        if missing:
            raise UserError(
                f"{self._where}: {missing:,} of {len(self):,} examples have no usable text (the first: {first});"
                " evaluation is on all of a set: remove these rows, or name another column in eval.caption_keys"
            )

    @staticmethod
    def _top_columns(columns: Sequence[str], keys: Sequence[str]) -> list[str]:
        """The columns that fields are, or are inside of."""
        return [name for name in columns if any(is_inside(key, name) for key in keys)]

    def _check_images(self) -> None:
        """Reads images, by their paths, until one is there.

        Raises:
          UserError: none of the first ones is.
        """
        first = ""
        for index in range(min(_FIRST, len(self))):
            try:
                with one_example():
                    self[index]
                return
            except BadExample as error:
                first = first or error.detail
                if isinstance(error.__cause__, ReadError):  # the storage fails: further reads would take hours to fail
                    break
        raise UserError(
            f"{self._where}: none of its first images can be read (the first: {first}); column {self._fields.image!r}"
            " must hold full paths or URLs, or paths relative to the files' folder, or to DIR with ',images=DIR'"
        )

    def __len__(self) -> int:
        return int(self.shard_lengths.sum())

    def _row(self, index: int) -> tuple[Any, int, str]:
        """The table of an example's row group, the row in it, and their name."""
        shard = int(np.searchsorted(self._ends, index, side="right"))
        row = int(index - (self._ends[shard] - self.shard_lengths[shard]))
        file = self._paths[self._files[shard]]
        table, rows = self._groups.get(shard)
        row_group = f"{file}[{self._numbers[shard]}]"
        if row >= len(rows):
            raise BadExample("cut", f"{row_group}[{row}]: the row group has {len(rows)} rows")
        row = int(rows[row])
        return table, row, f"{row_group}[{row}]"

    def __getitem__(self, index: int) -> Record:
        index = check_index(index, len(self))
        table, row, where = self._row(index)
        lookup = functools.partial(_look_up, table, row)
        if not self._is_of_paths:
            return self._fields.record(lookup, source=self._identity, index=index, path=where)
        name = lookup(self._fields.image)
        if not isinstance(name, str) or not name.strip():
            raise BadExample("no_image", f"{where} names no image")
        file = where.rsplit("[", 2)[0]
        folder = self._images_folder or file[: file.rfind("/") + 1]
        path = resolve_path(folder, name.strip())
        image = read_listed_image(self._reader, path, folder, self._allowed)
        with_image = lambda key: image if key == self._fields.image else lookup(key)
        record = self._fields.record(with_image, source=self._identity, index=index, path=path)
        return record if "label" in record else {**record, "id": stable_id("image", path)}

    def row(self, index: int) -> dict[str, Any]:
        """The named columns of an example, see `HasRows`."""
        table, row, _ = self._row(index)
        return self._fields.table.row(functools.partial(_look_up, table, row))

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

    def _measure(self, where: str) -> list["_Measured"]:
        """What the footers say of each row group that is not empty."""
        import pyarrow

        def measure(number: int) -> list[_Measured]:
            path = self._paths[number]
            try:
                footer = self._footers.get(path)
                groups = map(footer.row_group, range(footer.num_row_groups))
                return [
                    _Measured(number, i, group.num_rows, group.total_byte_size, null_counts(group))
                    for i, group in enumerate(groups)
                    if group.num_rows
                ]
            except (OSError, ImportError, ValueError, pyarrow.ArrowException) as error:
                broken = isinstance(error, pyarrow.ArrowException) or _is_arrows(error)
                remedy = "write it again or leave it out" if broken else "check the path"
                raise UserError(f"{where}: {path!r} cannot be read ({error_reason(error)}); {remedy}") from error

        with ThreadPoolExecutor(_OPENERS) as pool:
            return list(itertools.chain.from_iterable(pool.map(measure, range(len(self._paths)))))

    def _decode(self, shard: int) -> _RowGroup:
        return self._read(shard, self._columns)

    def _read(self, shard: int, columns: Sequence[str]) -> _RowGroup:
        """Reads columns of a row group, those that this file has; the image's is among them where some are null."""
        table = self._read_columns(int(self._files[shard]), int(self._numbers[shard]), columns)
        return _RowGroup(
            table, rows_with_images(table, self._fields.image) if self._nulls[shard] else np.arange(table.num_rows)
        )

    def _read_columns(self, file_number: int, number: int, columns: Sequence[str]) -> Any:
        """Columns of a row group of a file, as a table of pyarrow."""
        import pyarrow
        import pyarrow.parquet

        path = self._paths[file_number]
        try:
            # The caller's threads decode, each its own row group.
            file = pyarrow.parquet.ParquetFile(
                _RangeFile(self._reader, path),
                metadata=self._footers.get(path),
                pre_buffer=True,
                page_checksum_verification=True,
            )
            return file.read_row_group(number, columns=list(columns), use_threads=False)
        except (OSError, pyarrow.ArrowException) as error:
            if isinstance(error, pyarrow.ArrowException) or _is_arrows(error):
                raise BadExample("corrupt", f"{path}: row group {number}: {error_reason(error)}") from error
            raise


class _Measured(NamedTuple):
    """What a footer says of a row group: its file, its number there, rows, bytes, and nulls by column of bytes."""

    file: int
    number: int
    rows: int
    size: int
    nulls: dict[str, int]


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


def _look_up(table: Any, row: int, key: str) -> Any:
    """A field of a row, None where there is none."""
    top = next((name for name in table.column_names if is_inside(key, name)), None)
    return None if top is None else get_nested({top: table.column(top)[row].as_py()}, key)


def _is_arrows(error: Exception) -> bool:
    """Whether pyarrow raised it about a file's contents: it does that with a bare OSError, too."""
    return type(error) is OSError and error.errno is None


def _nbytes(group: _RowGroup) -> int:
    return group.table.nbytes
