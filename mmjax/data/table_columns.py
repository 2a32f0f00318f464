"""Columns of a table as the arrays and texts that models read.

A row is a mapping from a column's name to its value, as a CSV file, JSON Lines or Parquet gives it:

    columns = statistics.columns()                  # see `table_statistics`
    columns.array({"age": "37", "job": "nurse"})    # float32 [2]: (37 - mean) / std, the job's number
    columns.text({"notes": "walks to work"})        # "walks to work", for a tokenizer

They are named by `data.table.columns`, see `parse_columns`; sources give rows of them as the `table` of their records.

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
from mmjax.errors import UserError, did_you_mean

FIELD = "data.table.columns"
KINDS = ("auto", "number", "category", "text")
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


def parse_columns(text: str) -> dict[str, str]:
    """The columns that `data.table.columns` names, each with one of KINDS.

    Args:
      text: such as "age,job@category,notes@text"; "json:" before names, as tars may have it, is left out.

    Raises:
      UserError: an empty name, one that is named twice, or an unknown kind.
    """
    columns: dict[str, str] = {}
    for part in text.split(",") if text.strip() else []:
        name, sign, kind = part.strip().removeprefix("json:").rpartition("@")
        name, kind = (name.strip(), kind.strip()) if sign else (kind.strip(), "auto")
        if not name:
            raise UserError(f"{FIELD}={text!r}: {part!r} names no column; write NAME or NAME@KIND")
        if kind not in KINDS:
            raise UserError(
                f"{FIELD}={text!r}: {part.strip()!r} is of no known kind{did_you_mean(kind, KINDS)}; write"
                f" {name}@number, {name}@category or {name}@text"
            )
        if name in columns:
            raise UserError(f"{FIELD}={text!r} names {name!r} twice; name it once")
        columns[name] = kind
    return columns


def row_text(row: Mapping[str, Any], names: Sequence[str]) -> str:
    """The texts of a row as one: the only column's as it is, several as "NAME: TEXT; NAME: TEXT"; "" for none."""
    texts = {name: category_text(row.get(name)) for name in names}
    if len(texts) == 1:
        return next(iter(texts.values()))
    return "; ".join(f"{name}: {text}" for name, text in texts.items() if text)


@dataclasses.dataclass(frozen=True)
class TableColumns:
    """The columns of a table, which make arrays of its rows (a `Decoder` of `mmjax.data.loading.inputs`).

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
        """The texts of a row as one, see `row_text`."""
        return row_text(row, [column.name for column in self.texts])

    @property
    def shape(self) -> tuple[int]:
        """Of what `prepare` gives."""
        return (len(self.names),)

    @property
    def dtype(self) -> str:
        """Of what `prepare` gives."""
        return "float32"

    def prepare(
        self,
        entry: Any,
        rng: np.random.Generator | None,
        *,
        rate: float | None = None,
        span: tuple[float, float] | None = None,
    ) -> Float32[np.ndarray, " columns"]:
        """A row as `array` has it.

        Args:
          entry: a mapping by the columns' names, or a sequence of values in the order of `names`.
          rng, rate, span: of other modalities, see `Decoder`; nothing is drawn.

        Raises:
          BadExample: `other` for anything else and for a name or value that cannot be, `no_input` where no cell has a
            value.
        """
        del rng, rate, span
        if not isinstance(entry, Mapping):
            values = entry.tolist() if isinstance(entry, np.ndarray) else entry
            if not isinstance(values, Sequence) or isinstance(values, str | bytes) or len(values) != len(self.names):
                raise BadExample(
                    "other", f"{brief(entry)} is no row: give values of {', '.join(self.names)}, by name or in order"
                )
            entry = dict(zip(self.names, values, strict=True))
        known = {*self.names, *(column.name for column in self.texts)}
        if unknown := [name for name in entry if name not in known]:
            near = did_you_mean(str(unknown[0]), known)
            raise BadExample("other", f"a row has no column {unknown[0]!r}{near}; it has {', '.join(self.names)}")
        array = self.array(entry)
        if np.isnan(array).all():
            raise BadExample("no_input", f"a row without a value of {', '.join(self.names)}")
        return array

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
