"""Tables of text: CSV, TSV, JSON Lines, JSON arrays, and the captions of COCO, MSR-VTT and MSVD."""

import codecs
import io
import itertools
import json
import logging
import operator
import re
from collections.abc import Iterator, Sequence
from typing import Any

from mmjax.data.formats.coco_captions import caption_rows
from mmjax.data.formats.input_files import INPUT_SUFFIXES
from mmjax.data.formats.json_fields import field_paths, get_nested, json_fault
from mmjax.data.formats.separated_rows import SEPARATORS, RowProblems, find_separator, read_rows
from mmjax.data.formats.video_captions import is_captions_by_name, rows_by_name, video_rows
from mmjax.data.source_protocols import DEFAULT_OPTIONS, SourceOptions
from mmjax.data.text.text_encoding import UTF8, encoding_of
from mmjax.errors import UserError
from mmjax.io.patterns import error_reason
from mmjax.io.reader import Reader

_FORMATS = {
    b"\x1f\x8b": "is compressed with gzip; decompress it",
    b"BZh": "is compressed with bzip2; decompress it",
    b"\xfd7zXZ\0": "is compressed with xz; decompress it",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; decompress it",
    b"PK\x03\x04": "is a ZIP archive, as Excel's .xlsx is, and no text; save the table as CSV",
    b"\xd0\xcf\x11\xe0": "is a file of Excel (.xls) and no text; save the table as CSV",
    b"PAR1": "is a Parquet file and no text; write parquet:FILE, and let its name end in .parquet",
}
_LOOKED_AT, _CONTROLS = 4096, 0.02  # first bytes, and the share of control characters in them that no text has
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json")
_FIRST = 100  # objects looked at for the fields they have
_ESCAPED = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8, as surrogateescape keeps them
_NOT_UTF8 = "is not UTF-8"
_NAMED_SEPARATORS = {"tab": "\t", "\\t": "\t"}

log = logging.getLogger("mmjax.data")


class Table:
    """A table with a header, one JSON object a line, or a JSON array of objects, in UTF-8.

    Rows that cannot be read (another number of cells than the header, no JSON, not UTF-8) are left out, counted and
    logged in one line when all rows have been read; as are quotation marks that enclose no whole cell.

    Args:
      path: local or an fsspec URL; its ending says which kind it is.
      reader: reads it.
      where: the config field and its value, to begin errors with.
      options: `separator`, and `max_bad_fraction` of rows that may be left out.

    Attributes:
      columns: the fields; those inside others by their path.
      is_coco: whether it is COCO's own file of captions, whose images lie in a folder elsewhere.

    Raises:
      UserError: on a table that cannot be read, has another ending, or has no rows.
    """

    def __init__(self, path: str, *, reader: Reader, where: str, options: SourceOptions = DEFAULT_OPTIONS):
        self._where, self._options = where, options
        self.is_coco = False
        if not path.endswith(TABLE_SUFFIXES):
            if path.endswith((".gz", ".zip", ".bz2", ".xz", ".zst")):
                raise UserError(f"{where}: is compressed; decompress it")
            endings = f"{', '.join(TABLE_SUFFIXES[:-1])} or {TABLE_SUFFIXES[-1]}"
            raise UserError(f"{where}: cannot tell what kind of table this is; its name must end in {endings}")
        try:
            self._data = reader.read(path)
        except (OSError, ValueError, ImportError) as error:
            raise UserError(
                f"{where}: cannot be read ({error_reason(error)}); give the path of a table that exists"
            ) from error
        self._encoding = encoding_of(self._data, options.encoding)
        if wrong := _no_text(self._data, self._encoding):
            raise UserError(f"{where}: {wrong}")
        self._array = self._parse_array() if path.endswith(".json") else None
        self._is_json = path.endswith((".jsonl", ".json"))
        self._first_bad_byte = self._find_bad_byte()
        problems = RowProblems()
        # Every object names its fields; a header names them once.
        if self._is_json:
            objects = [row for _, row in itertools.islice(self._objects(problems), _FIRST)]
            has_rows, self._header = bool(objects), []
            self.columns = list(dict.fromkeys(itertools.chain.from_iterable(map(field_paths, objects))))
        else:
            self._separator = self._find_separator("\t" if path.endswith(".tsv") else ",")
            rows = list(itertools.islice(self._cells(problems), 2))
            has_rows, self._header = len(rows) == 2 or problems.rows > 0, rows[0][1] if rows else []
            self.columns = list(dict.fromkeys(self._header))
        if not has_rows:
            self._report(problems)
            raise UserError(
                f"{where}: the table has no rows; give one with a header and at least one image and caption"
            )

    @property
    def image_in_header(self) -> str:
        """A cell of the header that is a path of a file, as where the header is missing; "" where none is."""
        return next((name for name in self._header if name.lower().endswith(INPUT_SUFFIXES) or "://" in name), "")

    def rows(self, columns: Sequence[str]) -> Iterator[tuple]:
        """Yields (line number, value of each of `columns`), with None where a row has no such value.

        Of a JSON array, the number of the object counts from 1.

        Raises:
          UserError: the header names a column twice; or more rows than `max_bad_fraction` allows cannot be read.
        """
        problems = RowProblems()
        if self._is_json:
            for line, row in self._objects(problems):
                yield line, *[row[column] if column in row else get_nested(row, column) for column in columns]
            self._report(problems)
            return
        for column in columns:
            if self._header.count(column) > 1:
                raise UserError(f"{self._where}: the header names {column!r} twice; rename one of the columns")
        select = operator.itemgetter(*[self._header.index(column) for column in columns])
        for line, cells in itertools.islice(self._cells(problems), 1, None):
            # Of one column, itemgetter gives the value, of several a tuple.
            yield (line, *select(cells)) if len(columns) > 1 else (line, select(cells))
        self._report(problems)

    def _report(self, problems: RowProblems) -> None:
        """Logs what was wrong with rows.

        Raises:
          UserError: it is wrong with too many of them.
        """
        where = self._where
        if problems.unusable:
            what = (
                f"{problems.unusable:,} of {problems.rows:,} rows cannot be read (the first: {problems.first_unusable})"
            )
            if problems.unusable > self._options.max_bad_fraction * problems.rows:
                raise UserError(f"{where}: {what}; {self._remedy(problems.first_unusable)}")
            log.warning("%s: %s; they are left out", where, what)
        if problems.literal:
            log.warning(
                "%s: the quotation marks of %s rows enclose no whole cell and are read as characters (the first: line"
                " %d)",
                where,
                f"{problems.literal:,}",
                problems.first_literal,
            )

    def _remedy(self, wrong: str) -> str:
        if _NOT_UTF8 in wrong:
            return "save the table as UTF-8, or set data.encoding"
        if self._is_json:
            return "write one JSON object per line"
        name = SEPARATORS.get(self._separator, repr(self._separator))
        return (
            f"quote cells that hold {name} or line breaks, and write a quotation mark inside as"
            ' "", or give another separator by data.separator'
        )

    def _find_separator(self, usual: str) -> str:
        name = self._options.separator
        if name:
            separator = _NAMED_SEPARATORS.get(name, name)
            if len(separator) != 1 or separator in '"\r\n ':
                raise UserError(
                    f"data.separator={name!r} is no separator of cells; give one character, such as ';', or tab"
                )
            return separator
        separator = find_separator(self._text, usual)
        if separator != usual:
            log.warning(
                "%s: its header is separated by %s, and so are its cells; set data.separator if that is wrong",
                self._where,
                SEPARATORS[separator],
            )
        return separator

    def _find_bad_byte(self) -> int | None:
        """The first byte that is not in the table's encoding.

        Raises:
          UserError: there is one, in an encoding of which lines cannot be read by themselves.
        """
        try:
            self._data.decode(self._encoding)
        except UnicodeError as error:
            if self._array is None and self._encoding.startswith(UTF8):
                return getattr(error, "start", 0)
            raise self._not_encoded(error) from error
        return None

    def _text(self) -> io.TextIOWrapper:
        errors = "strict" if self._first_bad_byte is None else "surrogateescape"
        newline = "" if not self._is_json else "\n"
        return io.TextIOWrapper(io.BytesIO(self._data), self._encoding, errors, newline)

    def _fault(self, text: str) -> str:
        """What is wrong with the text of a row: a byte that is not in the encoding, which `_text` keeps as it is."""
        if self._first_bad_byte is None or text.isascii() or not _ESCAPED.search(text):
            return ""
        return f"{_NOT_UTF8} at byte {self._first_bad_byte} of the file"

    def _cells(self, problems: RowProblems) -> Iterator[tuple[int, list[str]]]:
        """Yields (line number, cells), the header first."""
        return read_rows(self._text(), self._separator, problems, where=self._where, fault=self._fault)

    def _parse_array(self) -> list[dict[str, Any]] | None:
        """The objects of a JSON array, or of COCO's captions; None where the file has one object a line.

        Raises:
          UserError: it is neither.
        """
        where = self._where
        try:
            content = json.loads(self._data.decode(self._encoding))
        except UnicodeError as error:
            raise self._not_encoded(error) from error
        except (ValueError, RecursionError) as error:
            if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":  # after a first line
                return None
            raise UserError(
                f"{where}: is not JSON ({json_fault(error)}); give an array of objects, or one a line"
            ) from error
        if isinstance(content, dict) and isinstance(content.get("images"), list):
            self.is_coco = True
            return caption_rows(content, where)
        if isinstance(content, dict) and all(isinstance(content.get(name), list) for name in ("videos", "sentences")):
            return video_rows(content, where)
        if isinstance(content, dict) and is_captions_by_name(content):
            return rows_by_name(content)
        if isinstance(content, dict):
            if not any(isinstance(value, dict | list) for value in content.values()):
                return [content]  # one object a line, and one line
            fields = ", ".join(map(repr, itertools.islice(content, 5)))
            raise UserError(f"{where}: is one object with {fields}; give an array of objects: [{{...}}, ...]")
        for number, row in enumerate(content if isinstance(content, list) else [content], start=1):
            if not isinstance(row, dict):
                raise UserError(f"{where}: element {number} is no JSON object; give an array of objects")
        return content

    def _objects(self, problems: RowProblems) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields (line number, object)."""
        if self._array is not None:
            yield from enumerate(self._array, start=1)
            return
        for line, content in enumerate(self._text(), start=1):
            if not content.strip():
                continue
            problems.rows += 1
            wrong, row = self._fault(content), None
            try:
                row = None if wrong else json.loads(content)
            except (ValueError, RecursionError) as error:
                wrong = f"is not JSON ({getattr(error, 'msg', None) or json_fault(error)})"
            if isinstance(row, dict):
                yield line, row
            else:
                problems.leave_out(f"line {line} {wrong or 'is not a JSON object'}")

    def _not_encoded(self, error: UnicodeError) -> UserError:
        name, byte = self._encoding.removesuffix("-sig").upper(), getattr(error, "start", 0)
        return UserError(f"{self._where}: not {name} at byte {byte}; save the table as UTF-8, or set data.encoding")


def _no_text(data: bytes, encoding: str) -> str:
    """What a file is that is no text, and what to do; "" where it may be one."""
    if known := next((text for beginning, text in _FORMATS.items() if data.startswith(beginning)), ""):
        return known
    beginning = data[:_LOOKED_AT]
    controls = sum(byte < 32 and byte not in b"\t\n\r\f\v" for byte in beginning)
    if encoding.startswith(("utf-16", "utf-32")) or controls <= _CONTROLS * len(beginning):
        return ""
    try:
        codecs.getincrementaldecoder(UTF8)().decode(beginning)
    except UnicodeError:
        return f"is no text: its first {len(beginning):,} bytes are not UTF-8 and hold control characters; give a table"
    return ""
