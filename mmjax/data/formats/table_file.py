"""Tables of text: CSV, TSV and JSON Lines."""

import csv
import io
import itertools
import json
import operator
from collections.abc import Iterator, Sequence
from typing import Any

from mmjax.data.column_inference import field_paths, get_nested
from mmjax.errors import UserError
from mmjax.io.patterns import error_reason
from mmjax.io.reader import Reader

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")
_FIRST = 100  # objects looked at for the fields they have


class Table:
    """A table with a header, or one JSON object a line, in UTF-8.

    Args:
      path: local or an fsspec URL; its ending says which kind it is.
      reader: reads it.
      where: the config field and its value, to begin errors with.

    Raises:
      UserError: on a table that cannot be read, has another ending, or has no rows.
    """

    def __init__(self, path: str, *, reader: Reader, where: str):
        self._where = where
        if not path.endswith(TABLE_SUFFIXES):
            endings = f"{', '.join(TABLE_SUFFIXES[:-1])} or {TABLE_SUFFIXES[-1]}"
            raise UserError(f"{where}: cannot tell what kind of table this is; its name must end in {endings}")
        try:
            self._data = reader.read(path)
        except (OSError, ValueError, ImportError) as error:
            raise UserError(
                f"{where}: cannot be read ({error_reason(error)}); give the path of a table that exists"
            ) from error
        self._is_json = path.endswith(".jsonl")
        self._delimiter = "\t" if path.endswith(".tsv") else ","
        # Every object names its fields; a header names them once.
        if self._is_json:
            objects = [row for _, row in itertools.islice(self._objects(), _FIRST)]
            has_rows, self._header = bool(objects), []
            self.columns = list(dict.fromkeys(itertools.chain.from_iterable(map(field_paths, objects))))
        else:
            lines = [cells for _, cells in itertools.islice(self._cells(), _FIRST)]
            has_rows, self._header = len(lines) >= 2, lines[0] if lines else []
            self.columns = list(dict.fromkeys(self._header))
        if not has_rows:
            raise UserError(
                f"{where}: the table has no rows; give one with a header and at least one image and caption"
            )

    def rows(self, columns: Sequence[str]) -> Iterator[tuple]:
        """Yields (line number, value of each of `columns`), with None where a row has no such value.

        Raises:
          UserError: naming the line that cannot be parsed, or the byte that is not UTF-8.
        """
        if self._is_json:
            for line, row in self._objects():
                yield line, *[row[column] if column in row else get_nested(row, column) for column in columns]
            return
        positions = [self._header.index(column) for column in columns]
        select, last = operator.itemgetter(*positions), max(positions)
        for line, cells in itertools.islice(self._cells(), 1, None):
            if last < len(cells):
                yield line, *select(cells)
            else:
                yield line, *[cells[position] if position < len(cells) else None for position in positions]

    def _text(self) -> io.TextIOWrapper:
        return io.TextIOWrapper(io.BytesIO(self._data), encoding="utf-8-sig", newline="" if not self._is_json else "\n")

    def _cells(self) -> Iterator[tuple[int, list[str]]]:
        """Yields (line number, cells), the header first."""
        reader = csv.reader(self._text(), delimiter=self._delimiter)
        last = 0
        try:
            for cells in reader:
                line = reader.line_num
                # One quotation mark too many makes a cell of everything up to the next one.
                if line > last + 1 and any("\n" in cell and self._delimiter in cell for cell in cells):
                    raise UserError(
                        f"{self._where}: a quoted cell that ends at line {line} swallows other rows;"
                        ' write a quotation mark inside a cell as "" and quote the cell'
                    )
                if last == 0:
                    cells = [name.strip() for name in cells]
                last = line
                if cells:  # a blank line is no row
                    yield line, cells
        except csv.Error as error:
            raise UserError(
                f"{self._where}: line {reader.line_num} cannot be parsed ({error}); check its quotes"
            ) from error
        except UnicodeDecodeError as error:
            raise self._not_utf8() from error

    def _objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields (line number, object)."""
        where = self._where
        try:
            for line, content in enumerate(self._text(), start=1):
                if not content.strip():
                    continue
                try:
                    row = json.loads(content)
                except json.JSONDecodeError as error:
                    raise UserError(
                        f"{where}: line {line} is not JSON ({error.msg}); write one object per line"
                    ) from error
                if not isinstance(row, dict):
                    raise UserError(f"{where}: line {line} is not a JSON object; write one object per line")
                yield line, row
        except UnicodeDecodeError as error:
            raise self._not_utf8() from error

    def _not_utf8(self) -> UserError:
        try:
            self._data.decode()
            byte = len(self._data)
        except UnicodeDecodeError as error:
            byte = error.start
        return UserError(f"{self._where}: not UTF-8 at byte {byte}; save the table as UTF-8")
