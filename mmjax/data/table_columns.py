"""Columns of a table as the arrays and texts that models read.

A row is a mapping from a column's name to its value, as a CSV file, JSON Lines or Parquet gives it:

    columns = statistics.columns()                  # see `table_statistics`
    columns.array({"age": "37", "job": "nurse"})    # float32 [2]: (37 - mean) / std, the job's number
    columns.text({"notes": "walks to work"})        # "walks to work", for a tokenizer

Missing are None, NaN, what is blank and a column that a row does not have; in a column of numbers also `NA`, `nan`,
`null` and the like.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float32

from mmjax.data.bad_example import BadExample
from mmjax.errors import UserError

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_NO_NUMBER = {"na", "n/a", "nan", "null", "none", "-", "?"}
_LARGEST = 1e150  # beyond, a square has no float


@dataclasses.dataclass(frozen=True)
class NumberColumn:
    """A column of numbers.

    Attributes:
      name: of the column.
      mean, std: of the values seen; the standard deviation is that of all of them (of n, not n - 1).
      count: values seen.
      missing: rows without one.
    """

    name: str
    mean: float
    std: float
    count: int
    missing: int

    def encode(self, value: Any) -> float:
        """(value - mean) / std, NaN where it is missing; 0 in a column whose values were all equal.

        Raises:
          BadExample: `other`, where it is no number.
        """
        number = parse_number(value)
        if number is None:
            raise BadExample("other", f"column {self.name!r}: {brief(value)} is no number")
        if math.isnan(number) or not self.std:
            return math.nan if math.isnan(number) else 0.0
        return (number - self.mean) / self.std


@dataclasses.dataclass(frozen=True)
class CategoryColumn:
    """A column of categories; number 0 is for those not among them.

    Attributes:
      name: of the column.
      values: the categories, the most frequent first, which have the numbers from 1.
      count: values seen.
      missing: rows without one.
    """

    name: str
    values: tuple[str, ...]
    count: int
    missing: int

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {value: number for number, value in enumerate(self.values, 1)}

    @property
    def size(self) -> int:
        """Categories, with the one for unknown values."""
        return 1 + len(self.values)

    def encode(self, value: Any) -> float:
        """The number of a category, 0 where it is unknown, NaN where it is missing."""
        text = category_text(value)
        return float(self._numbers.get(text, 0)) if text else math.nan


@dataclasses.dataclass(frozen=True)
class TextColumn:
    """A column of texts, for a tokenizer.

    Attributes:
      name: of the column.
      count: values seen.
      missing: rows without one.
    """

    name: str
    count: int
    missing: int


Column: TypeAlias = NumberColumn | CategoryColumn | TextColumn


@dataclasses.dataclass(frozen=True)
class TableColumns:
    """The columns of a table.

    Attributes:
      numbers, categories, texts: the columns of each kind, in the order of the table.
    """

    numbers: tuple[NumberColumn, ...]
    categories: tuple[CategoryColumn, ...]
    texts: tuple[TextColumn, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the array's columns: numbers, then categories."""
        return tuple(column.name for column in (*self.numbers, *self.categories))

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many categories each column of them has, as the `categories` of a table's encoder."""
        return tuple(column.size for column in self.categories)

    def array(self, row: Mapping[str, Any]) -> Float32[np.ndarray, " columns"]:
        """A row as the `table` of a record: standardised numbers, then the numbers of categories, NaN where missing.

        Raises:
          BadExample: `other`, where a number is none.
        """
        columns = (*self.numbers, *self.categories)
        return np.array([column.encode(row.get(column.name)) for column in columns], np.float32)

    def text(self, row: Mapping[str, Any]) -> str:
        """The texts of a row as one: the only column's as it is, several as "NAME: TEXT; NAME: TEXT"; "" for none."""
        texts = {column.name: category_text(row.get(column.name)) for column in self.texts}
        if len(texts) == 1:
            return next(iter(texts.values()))
        return "; ".join(f"{name}: {text}" for name, text in texts.items() if text)

    def describe(self) -> list[str]:
        """A line for each column: kind, statistics, how many values are missing."""
        lines = [f"{c.name}: number, mean {c.mean:.6g}, std {c.std:.6g}, {_missing(c)}" for c in self.numbers]
        lines += [f"{c.name}: category, {len(c.values)} and one for others, {_missing(c)}" for c in self.categories]
        return [*lines, *(f"{c.name}: text, {_missing(c)}" for c in self.texts)]

    def to_dict(self) -> dict[str, list[dict[str, Any]]]:
        """Plain Python for JSON, from which `from_dict` makes equal columns again."""
        kinds = (("number", self.numbers), ("category", self.categories), ("text", self.texts))
        return {"columns": [{"kind": kind, **dataclasses.asdict(c)} for kind, columns in kinds for c in columns]}

    @classmethod
    def from_dict(cls, stored: Any, *, where: str) -> "TableColumns":
        """Columns as `to_dict` gave them, which may have been through JSON.

        Args:
          stored: what `to_dict` returned.
          where: the file, to begin errors with.

        Raises:
          UserError: anything else.
        """
        entries = stored.get("columns") if isinstance(stored, Mapping) else None
        if not isinstance(entries, Sequence) or isinstance(entries, str):
            raise UserError(f"{where}: 'columns' is no list of a table's columns")
        columns = [_read_column(entry, f"{where}: column {i}") for i, entry in enumerate(entries)]
        return cls.of(columns)

    @classmethod
    def of(cls, columns: Sequence[Column]) -> "TableColumns":
        """Columns of any kind in the order of the table."""
        return cls(
            tuple(column for column in columns if isinstance(column, NumberColumn)),
            tuple(column for column in columns if isinstance(column, CategoryColumn)),
            tuple(column for column in columns if isinstance(column, TextColumn)),
        )


def parse_number(value: Any) -> float | None:
    """A value as a number; NaN where it is missing, None where it is something else: a text, infinite, True."""
    if isinstance(value, (bool, np.bool_)):
        return None
    if isinstance(value, (int, np.integer)):
        return float(value) if abs(value) < _LARGEST else None
    if isinstance(value, (float, np.floating)):
        number = float(value)
        return number if abs(number) < _LARGEST or math.isnan(number) else None
    text = category_text(value)
    if not text or text.lower() in _NO_NUMBER:
        return math.nan
    if not _NUMBER.fullmatch(text):
        return None
    number = float(text)
    return number if abs(number) < _LARGEST else None


def category_text(value: Any) -> str:
    """A value as a text without blanks around it, "" where it is missing; 3 and 3.0 are "3"."""
    if value is None or (isinstance(value, (float, np.floating)) and math.isnan(value)):
        return ""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, (float, np.floating)) and abs(value) < 2**53 and value == int(value):
        value = int(value)
    return str(value).strip()


def brief(value: Any) -> str:
    """The beginning of a value as Python writes it, in one line."""
    return " ".join(repr(value).split())[:80]


def _missing(column: Column) -> str:
    return f"{column.missing} of {column.count + column.missing} missing"


_FIELDS: dict[str, dict[str, Any]] = {
    "number": {"name": str, "mean": float, "std": float, "count": int, "missing": int},
    "category": {"name": str, "values": tuple, "count": int, "missing": int},
    "text": {"name": str, "count": int, "missing": int},
}
_CLASSES = {"number": NumberColumn, "category": CategoryColumn, "text": TextColumn}


def _read_column(entry: Any, where: str) -> Column:
    """A column of `to_dict`.

    Raises:
      UserError: it is none.
    """
    kind = entry.get("kind") if isinstance(entry, Mapping) else None
    if kind not in _CLASSES:
        raise UserError(f"{where} has kind={kind!r}; it must be one of: {', '.join(_CLASSES)}")
    types = _FIELDS[kind]
    if wrong := entry.keys() ^ {"kind", *types}:
        raise UserError(f"{where}: {sorted(wrong)[0]!r} is missing, or no field of a {kind} column")
    fields = {}
    for field, kind_of_value in types.items():
        value = entry[field]
        if kind_of_value is tuple and isinstance(value, (list, tuple)):
            is_right, value = (
                all(isinstance(text, str) for text in value) and len(set(value)) == len(value),
                tuple(value),
            )
        elif kind_of_value is float:
            is_right = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        else:
            is_right = isinstance(value, kind_of_value) and not isinstance(value, bool)
        if not is_right:
            raise UserError(f"{where}: {field}={brief(value)} is not what a {kind} column has there")
        fields[field] = value
    return _CLASSES[kind](**fields)
