"""Tables of images, videos or sounds, and captions (`pairs:`).

Paths are local, or URLs of any file system that fsspec knows (`gs://`, `s3://`, `https://`, `memory://`, ...). Image
files are read on demand; one that is missing then raises FileNotFoundError, which the pipeline counts and substitutes.
"""

import dataclasses
import hashlib
import itertools
import logging
import math
import os
import posixpath
import struct
from array import array
from collections.abc import Iterator
from typing import Any

import numpy as np

from mmjax.data.bad_example import BadExample
from mmjax.data.column_inference import choose_fields
from mmjax.data.formats.class_records import check_templates, make_class_record, read_lines, record_of_labels
from mmjax.data.formats.image_paths import IMAGE_COLUMNS, inputs_of_listed, read_listed_image, resolve_path
from mmjax.data.formats.input_files import inputs_of_file, kind_of, record_fields, suffix_of
from mmjax.data.formats.table_classes import SEPARATOR, classes_of_labels, join_labels, label_column
from mmjax.data.formats.table_file import Table
from mmjax.data.formats.table_inputs import PathPattern, parse_spans, parse_table_path, read_span, split_image_key
from mmjax.data.formats.table_rows import add_row
from mmjax.data.formats.written_list import parse_list
from mmjax.data.record import Record, check_index, stable_id, texts_of
from mmjax.data.source_protocols import DEFAULT_OPTIONS, SourceOptions
from mmjax.data.sources.karpathy import beside
from mmjax.data.table_columns import category_text
from mmjax.data.webdataset.shard_cache import user_cache
from mmjax.errors import UserError, did_you_mean
from mmjax.io.patterns import error_reason
from mmjax.io.reader import Reader, local_path
from mmjax.io.retries import ReadError
from mmjax.io.stored_arrays import store_arrays
from mmjax.utils.string_array import StringArray, StringArrayBuilder

_FIRST = 100  # images of which one must be there
_CHUNK = 8192  # rows
_KEPT_BYTES = 1 << 20  # a smaller table stays in memory
_uint64 = struct.Struct("<Q").unpack

log = logging.getLogger("mmjax.data")


class Pairs:
    """Images with captions, listed in a table with a header.

    The rows of a CSV, TSV, JSON Lines or JSON file (UTF-8) name an image and captions: a text, or a list of texts, in
    JSON or written as text. Rows that share an image make one record with the captions of all, in order of first
    appearance. Relative image paths start at the table's folder, or that after ",images="; of COCO's captions at the
    folder beside it or one up that has the first image (`train2017` of captions_train2017.json, `images`, ...). The
    image's path is the record's `id`. A row without an image is a bad example, and so is an image without a caption
    that is not blank.

    What a file is, its ending says: an image, a video, a sound or an array. `image_key="ecg+image"` names columns of
    files, each another modality, of which all but the first may be missing. Where the table has columns `start` and
    `end`, they are the seconds of a video or a sound that count, and rows of one file and one span are one record.
    A table with a column of LABEL_KEYS has classes where it has no captions or the model learns classes, and so has one
    whose `label_key` is named: their names in alphabetical order, or those of classnames.txt beside the table, which
    numbers count from 0. A cell of `labels` has several, in a list or separated by commas or semicolons.

    Named columns (`options.columns`) are the `table` of a record; rows of one file whose columns differ are several
    records. A table of such columns without files has a record for each row, whose `id` are its values.

    After the file there may be "/SPLIT", rows of which count by their column `split`; ",spans=START:END", columns of
    spans that are called otherwise, or ",spans=none"; after ",images=" also a pattern of the files' paths, such as
    `clips/{youtube_id}.flac`.

    A table of more than a megabyte is moved into a file of the cache folder, of which workers read what they need.

    Args:
      path: the table; its ending says which kind it is. What may follow, see above.
      options: how to read it. `image_key` is the column of image paths, by default the first found of IMAGE_COLUMNS;
        `caption_keys` are the columns of captions, by default the first usual one found.
      field: config field to name in errors.

    Raises:
      UserError: on a table that is missing, empty, not UTF-8 or malformed, without the wanted columns, or none of whose
        first hundred images can be read; in evaluation, on rows that would be bad examples, too.
    """

    class_names: list[str] | None = None
    templates: list[str] | None = None

    def __init__(self, path: str, *, options: SourceOptions = DEFAULT_OPTIONS, field: str = "data.train"):
        where = f"{field}='pairs:{path}'"
        parts = parse_table_path(path, where)
        file, images_folder = parts.file, parts.images
        self.name, self._file = posixpath.splitext(posixpath.basename(file))[0], file
        self._reader, self._allowed = Reader(options.retry_seconds), options.table_paths
        pattern = PathPattern.parse(images_folder)
        images_folder = pattern.folder if pattern is not None else images_folder
        self._folder = images_folder.rstrip("/") + "/" if images_folder else file[: file.rfind("/") + 1]
        table = Table(file, reader=self._reader, where=where, options=options)
        if pattern is not None:
            pattern.check(table.columns, where)
            options = dataclasses.replace(options, image_key=pattern.columns[0])
        options, self._further = split_image_key(options, table.columns, where)
        label, classes = label_column(table.columns, options, where), options.classes
        self.is_multilabel = label == "labels" and not options.label_key
        if label:  # which stand in the place of captions
            options = dataclasses.replace(options, caption_keys=label, label_key="", classes=0)
        try:
            fields = choose_fields(table.columns, options=options, where=where, image_keys=IMAGE_COLUMNS)
            self._has_files = bool(fields.image)
        except UserError as error:
            if not (image := table.image_in_header):
                raise
            raise UserError(
                f"{where}: the header seems to be missing, as the first row has {image!r}; write one, such as"
                " image,caption, before it"
            ) from error
        self._keys = fields.captions
        images, captions = StringArrayBuilder(), [StringArrayBuilder() for _ in self._keys.keys]
        group_keys, lists = array("Q"), 0
        span_columns = parts.span_columns(table.columns, where) if self._has_files or parts.split else ()
        span_columns = span_columns if self._has_files else ()
        path_columns = [*filter(None, [fields.image])] if pattern is None else pattern.columns
        all_spans = [np.zeros((0, 2))]
        self._names, self._texts = (*options.columns, *self._further), options.text_columns
        of_rows = [StringArrayBuilder() for _ in self._names]
        read = [*path_columns, *span_columns, *fields.table.fields.values(), *self._further, *self._keys.keys]
        rows = _of_split(table.rows([*read, "split"]), parts.split, where) if parts.split else table.rows(read)
        # Column by column: a million rows are a matter of seconds.
        while chunk := list(itertools.islice(rows, _CHUNK)):
            lines, *columns = zip(*chunk, strict=True)
            cells, columns = columns[: len(path_columns)], columns[len(path_columns) :]
            if not self._has_files:
                paths = [""] * len(chunk)
            elif pattern is None:
                paths = [path.strip() if isinstance(path, str) else "" for path in cells[0]]
            else:
                paths = [pattern.fill(row) for row in zip(*cells, strict=True)]
            images.extend(paths)
            keys = [resolve_path(self._folder, path) for path in paths]
            if span_columns:
                starts, ends, *columns = columns
                all_spans.append(parse_spans(starts, ends))
                spans = all_spans[-1].tolist()
                keys = [
                    "" if math.isinf(span[0]) else key and f"{key}\0{span}"
                    for key, span in zip(keys, spans, strict=True)
                ]
            if self._names:
                texts = [list(map(category_text, values)) for values in columns[: len(self._names)]]
                columns = columns[len(self._names) :]
                for column, values in zip(of_rows, texts, strict=True):
                    column.extend(values)
                # Of one file, rows of other values are other examples.
                keys = [key and "\0".join((key, *row)) for key, *row in zip(keys, *texts, strict=True)]
            # A row that is a bad example is a record of its own: its line number stands in for the hash of a path.
            group_keys.extend(_hash(key) if key else line for key, line in zip(keys, lines, strict=True))
            for column, values in zip(captions, columns, strict=True):
                if label:
                    column.extend(map(join_labels if self.is_multilabel else category_text, values))
                    continue
                written = [parse_list(value) if isinstance(value, str) else None for value in values]
                lists += len(written) - written.count(None)
                cells = [value if texts is None else texts for value, texts in zip(values, written, strict=True)]
                column.extend(map(_join_captions, cells))
        if lists:
            log.warning("%s: %s captions are lists written as text and read as lists", where, f"{lists:,}")
        self._images, self._captions = StringArray.of(images), [StringArray.of(column) for column in captions]
        self._columns = [StringArray.of(column) for column in of_rows]
        if self._captions and not any(column.length for column in self._captions):
            columns = " or ".join(map(repr, self._keys.keys))
            raise UserError(
                f"{where}: no row has a text in column {columns}; name another one in {options.keys_field}.caption_keys"
            )
        self._rows, self._starts = _group(np.array(group_keys, np.uint64))
        self._spans: list[Any] = [*np.ascontiguousarray(np.concatenate(all_spans).T)] if span_columns else []
        if options.keys_field == "eval":
            self._check_complete(where)
        if table.is_coco and not images_folder:
            first = self._images[int(self._rows[self._starts[0]])]
            self._folder = _coco_folder(self._reader, file, first, where)
        if self._has_files:
            self._check_images(fields.image, where)
        if label:
            self._find_classes(file, classes, where)
        self._move_to_disk(options.cache)

    def _find_classes(self, file: str, classes: int, where: str) -> None:
        """Makes classes of the labels, which stand in the place of captions."""
        lines = lambda name: read_lines([posixpath.dirname(file) or "."], name, reader=self._reader, where=where)
        cells = [self._captions[0][row] for row in range(len(self._captions[0]))]
        labels = [label for cell in cells for label in _split_captions(cell)]
        self.class_names, self._labels = classes_of_labels(labels, lines("classnames.txt"), where, classes)
        kind = (kind_of(suffix_of(self._path(0))) or "image") if self._has_files else "array"
        self.templates = check_templates(lines("zeroshot_classification_templates.txt"), where, kind)

    def _move_to_disk(self, cache: str) -> None:
        """Moves a large table into a file of the cache folder; where it cannot be written, it stays in memory."""
        texts = [self._images, *self._columns, *self._captions]
        arrays = [self._rows, self._starts, *self._spans, *(array for text in texts for array in text.buffers())]
        if sum(array.nbytes for array in arrays) < _KEPT_BYTES:
            return
        try:
            stored = store_arrays(arrays, os.path.join(local_path(cache) or user_cache(), "tables"))
        except OSError as error:
            log.warning("%s: is kept in the memory of each worker (data.cache: %s)", self.name, error_reason(error))
            return
        self._rows, self._starts, *parts = stored
        self._spans, parts = parts[: len(self._spans)], parts[len(self._spans) :]
        self._images, *texts = map(StringArray.of_buffers, parts[::2], parts[1::2])
        self._columns, self._captions = texts[: len(self._columns)], texts[len(self._columns) :]

    def _check_complete(self, where: str) -> None:
        """Looks for rows without an image and images without a text, which are bad examples.

        Raises:
          UserError: there are some, and evaluation is on all of a set.
        """
        has_image, *has_text = (np.diff(text.buffers()[1], prepend=0) > 0 for text in (self._images, *self._captions))
        has_image |= not self._has_files
        is_usable = has_image & np.logical_or.reduce(has_text or [has_image])
        if self._spans and (wrong := np.isinf(self._spans[0])).any():
            raise UserError(
                f"{where}: {int(wrong.sum()):,} rows, such as row {int(wrong.argmax()) + 1:,}, have a start and an end"
                " that are no seconds, the first below the second; evaluation is on all of a set: mend or remove them"
            )
        lacking = np.flatnonzero(~np.logical_or.reduceat(is_usable[self._rows], self._starts[:-1]))
        if len(lacking):
            raise UserError(
                f"{where}: {len(lacking):,} of {len(self):,} examples lack an image or a text, such as row"
                f" {self._rows[self._starts[lacking[0]]] + 1:,}; evaluation is on all of a set: complete or remove them"
            )

    def _check_images(self, column: str, where: str) -> None:
        errors: list[BadExample | OSError] = []
        for index in range(min(_FIRST, len(self))):
            try:
                self._read(index)
                return
            except (BadExample, OSError) as error:
                errors.append(error)
                if isinstance(error, ReadError):  # the storage fails: further reads would take hours to fail, too
                    break
        first = errors[0]
        problem = first.detail if isinstance(first, BadExample) else f"{self._path(0)!r}: {error_reason(first)}"
        raise UserError(
            f"{where}: none of its first {len(errors)} images can be read (the first: {problem}); column {column!r} "
            "must hold full paths or URLs, or paths relative to the table's folder, or to DIR with ',images=DIR'"
        )

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> Record:
        index = check_index(index, len(self))
        rows = self._rows[self._starts[index] : self._starts[index + 1]]
        path, span = self.location(index)
        texts = dict(zip(self._keys.keys, self._captions, strict=True))
        try:
            captions = self._keys.gather(
                lambda key: [text for row in rows for text in _split_captions(texts[key][row])]
            )
        except BadExample as error:
            raise BadExample(error.reason, f"{path}: {error.detail}") from error
        cells = self._cells(index)
        try:
            inputs = inputs_of_file(self._read(index), suffix_of(path)) if self._has_files else {}
        except BadExample as error:
            raise error.with_path(path) from error
        further = [resolve_path(self._folder, cells[name]) for name in self._further]
        inputs = inputs_of_listed(self._reader, further, self._folder, self._allowed) | inputs
        if self.class_names is not None and self.templates is not None:
            labels = sorted(set(captions["captions"]))
            names, templates, numbers = self.class_names, self.templates, [self._labels[label] for label in labels]
            if self.is_multilabel:
                identity = stable_id("image", path, *map(str, span or ()))
                record = record_of_labels(
                    inputs, path, numbers, class_names=names, templates=templates, image_id=identity, span=span
                )
            elif len(labels) > 1:
                raise BadExample("other", f"{path}: is of several classes: {', '.join(map(repr, labels))}")
            else:
                record = make_class_record(inputs, names, templates, numbers[0], path, span=span)
        else:
            parts = ("image", path, *map(str, span or ())) if self._has_files else ("row",)
            record = Record(**record_fields(inputs, span), id=stable_id(*parts, *cells.values()), path=path, **captions)
        row = self.row(index)
        return add_row(record, row, self._texts) if row else record

    def row(self, index: int) -> dict[str, str]:
        """The named columns of an example, see `HasRows`."""
        cells = self._cells(check_index(index, len(self)))
        return {name: cell for name, cell in cells.items() if name not in self._further}

    def _cells(self, index: int) -> dict[str, str]:
        """The named columns of an example, and its further columns of files."""
        row = int(self._rows[self._starts[index]])
        return {name: column[row] for name, column in zip(self._names, self._columns, strict=True)}

    def location(self, index: int) -> tuple[str, tuple[float, float] | None]:
        """Where an example lies: its file's path, empty where its row names none, and the seconds of it that count.

        Raises:
          BadExample: `other`, where its cells are no span.
        """
        return self._path(index), self._span(int(self._rows[self._starts[index]]))

    def _span(self, row: int) -> tuple[float, float] | None:
        """The seconds that count of a row's file; None for all."""
        if not self._spans:
            return None
        start, end = (float(column[row]) for column in self._spans)
        return read_span(start, end, f"row {row + 1}")

    def _path(self, index: int) -> str:
        """An image's full path; empty where its row names none, "FILE, row N" where no row does."""
        if not self._has_files:
            return f"{self._file}, row {int(self._rows[self._starts[index]]) + 1}"
        image = self._images[int(self._rows[self._starts[index]])]
        return resolve_path(self._folder, image)

    def _read(self, index: int) -> bytes:
        path = self._path(index)
        if not path:
            raise BadExample("no_image", f"row {self._rows[self._starts[index]] + 1} names no image")
        return read_listed_image(self._reader, path, self._folder, self._allowed)


def _of_split(rows: Iterator[tuple], split: str, where: str) -> Iterator[tuple]:
    """The rows whose last value is a split's name, without it.

    Raises:
      UserError: there are none.
    """
    others: set[str] = set()
    is_any = False
    for *row, name in rows:
        if str(name).strip() == split:
            is_any = True
            yield tuple(row)
        else:
            others.add(str(name).strip())
    if not is_any:
        near = did_you_mean(split, others)
        raise UserError(f"{where}: no row of split {split!r}{near}; there are {', '.join(sorted(others)[:20])}")


def _coco_folder(reader: Reader, file: str, image: str, where: str) -> str:
    """The folder of COCO's images, with a slash: named after the split, `images` or neither, beside the file or one up.

    Raises:
      UserError: none of them has that image.
    """
    split = posixpath.basename(file).removesuffix(".json").rpartition("_")[2]
    names = ["", "images", split, f"images/{split}", "..", "../images", f"../{split}", f"../images/{split}"]
    for folder in (beside(file, name) for name in names):
        path = posixpath.join(folder, image)
        try:
            reader.read(path)
        except (OSError, ValueError, ImportError):
            continue
        return path.removesuffix(image)
    raise UserError(f"{where}: its first image, {image!r}, is in none of {', '.join(names[1:])}; add ,images=DIR")


def _hash(text: str) -> int:
    return _uint64(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())[0]


def _group(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Groups rows with equal keys.

    Returns:
      Row numbers int64 [R], group by group in order of first appearance, and where each group starts, int64 [G + 1].
    """
    _, first, group, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    appearance = np.argsort(first, kind="stable")
    rank = np.empty_like(appearance)
    rank[appearance] = np.arange(len(appearance))
    rows = np.argsort(rank[group], kind="stable")
    return rows, np.concatenate([[0], np.cumsum(counts[appearance])])


def _join_captions(cell: object) -> str:
    """A cell's captions as one text."""
    if isinstance(cell, str):
        return cell.strip().replace(SEPARATOR, " ")
    return SEPARATOR.join(text.replace(SEPARATOR, " ") for text in texts_of(cell))


def _split_captions(cell: str) -> list[str]:
    return cell.split(SEPARATOR) if cell else []
