"""Statistics and vocabularies of a table's columns, from one pass over its rows or a sample of them.

    statistics = TableStatistics({"age": "auto", "job": "category", "notes": "text"})
    statistics.add(rows)
    statistics.columns()    # TableColumns

The result depends on which rows were seen, and neither on their order nor on how they were divided among passes or
processes: sums are exact, and rounded once at the end.
"""

import collections
import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Float64

from mmjax.data.table_columns import (
    FIELD,
    KINDS,
    CategoryColumn,
    Column,
    NumberColumn,
    TableColumns,
    TextColumn,
    brief,
    category_text,
    parse_number,
)
from mmjax.errors import UserError, did_you_mean, validate_choice

MAX_CATEGORIES = 256
MAX_VALUES = 100_000  # different ones that are counted in a column; with more it is none of categories

_BATCH = 4096  # rows
_SHIFT = 1200  # bits after the point of an exact sum, more than a float's smallest has


class TableStatistics:
    """What is known of a table's columns so far.

    Args:
      kinds: one of `KINDS` for each column by name, in the order of the table. `auto` takes columns for numbers whose
        values all are; for categories those that have at most `MAX_CATEGORIES` different values, each twice on average;
        others for texts.

    Raises:
      UserError: there are no columns, or a kind is unknown.
    """

    def __init__(self, kinds: Mapping[str, str]):
        if not kinds:
            raise UserError(f"{FIELD}: none is named; name those that the model is to read")
        for name, kind in kinds.items():
            validate_choice(f"{FIELD}: {name}@KIND", kind, KINDS)
        self.kinds = dict(kinds)
        self.rows = 0
        self._columns = {name: _ColumnStatistics() for name in kinds}
        self._others: set[str] = set()  # names that rows have and `kinds` has not, to guess what is misspelt

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Takes rows into account; they are read once, and none is kept."""
        batch: list[Mapping[str, Any]] = []
        for row in rows:
            batch.append(row)
            if len(batch) == _BATCH:
                self._add(batch)
                batch = []
        if batch:
            self._add(batch)

    def _add(self, rows: list[Mapping[str, Any]]) -> None:
        self.rows += len(rows)
        self._others.update(rows[0].keys() - self.kinds.keys())
        for name, column in self._columns.items():
            column.add([row.get(name) for row in rows])

    def merge(self, other: "TableStatistics") -> None:
        """Takes the rows into account that another one has seen.

        Raises:
          ValueError: it has other columns or kinds.
        """
        if list(other.kinds.items()) != list(self.kinds.items()):
            raise ValueError(f"statistics of other columns: {other.kinds}, not {self.kinds}")
        self.rows += other.rows
        self._others |= other._others
        for name, column in self._columns.items():
            column.merge(other._columns[name])

    def columns(self, max_categories: int = MAX_CATEGORIES) -> TableColumns:
        """The columns.

        Args:
          max_categories: of a column.

        Raises:
          UserError: a column without any value, one of numbers with something else, one of more categories, or
            `max_categories` below 1 or above `MAX_VALUES`.
        """
        if not 1 <= max_categories <= MAX_VALUES:
            raise UserError(f"data.table.max_categories={max_categories} must be from 1 to {MAX_VALUES}")
        return TableColumns.of([self._column(name, kind, max_categories) for name, kind in self.kinds.items()])

    def _column(self, name: str, kind: str, max_categories: int) -> Column:
        seen, is_inferred = self._columns[name], kind == "auto"
        if not seen.count:
            near = did_you_mean(name, self._others)
            raise UserError(f"{FIELD}: none of {self.rows} rows has a value of {name!r}{near}; leave it out")
        if is_inferred:
            kind = "number" if seen.is_number else "category" if seen.is_category else "text"
        missing = self.rows - seen.count
        if kind == "number":
            if not seen.numbers:
                raise UserError(
                    f"{FIELD}: {name!r} has no number in {self.rows} rows (such as {seen.no_number or 'NA'}); make it"
                    f" {name}@category, or leave it out"
                )
            if seen.no_number:
                raise UserError(
                    f"{FIELD}: {name}@number, but {seen.no_number} is none; make it {name}@category, or mend the table"
                )
            return NumberColumn(name, seen.mean, seen.std, seen.numbers, self.rows - seen.numbers)
        if kind == "text":
            return TextColumn(name, seen.count, missing)
        if len(seen.counts) > max_categories:
            number = f"{len(seen.counts):,}" if len(seen.counts) <= MAX_VALUES else f"more than {MAX_VALUES:,}"
            raise UserError(
                f"{FIELD}: {name!r} has {number} categories, more than data.table.max_categories={max_categories}; set"
                f" that higher, make it {name}@text, or leave it out"
            )
        ranked = sorted(seen.counts, key=lambda value: (-seen.counts[value], value))
        return CategoryColumn(name, tuple(ranked), seen.count, missing)


class _ColumnStatistics:
    """What is known of a column so far, whatever kind it is.

    Attributes:
      count: values that are not missing.
      numbers: values that are numbers.
      counts: of different values as texts, of at most one more than `MAX_VALUES`.
      no_number: the alphabetically first of the values that are no number, as Python writes it; "" for none.
    """

    def __init__(self):
        self.count = self.numbers = 0
        self.counts: collections.Counter[str] = collections.Counter()
        self.no_number = ""
        self._sum = self._squares = 0  # times 2 ** _SHIFT

    def add(self, values: list[Any]) -> None:
        numbers = []
        for value in values:
            text = category_text(value)
            if not text:
                continue
            self.count += 1
            if text in self.counts or len(self.counts) <= MAX_VALUES:
                self.counts[text] += 1
            number = parse_number(value)
            if number is None:
                self._note(brief(value))
            elif not math.isnan(number):
                numbers.append(number)
        self.numbers += len(numbers)
        array = np.array(numbers, np.float64)
        # Halves of 26 bits (Veltkamp), whose products are exact.
        high = (2.0**27 + 1) * array
        high = high - (high - array)
        low = array - high
        self._sum += _exact_sum(array)
        self._squares += _exact_sum(high * high) + _exact_sum(2 * high * low) + _exact_sum(low * low)

    def merge(self, other: "_ColumnStatistics") -> None:
        self.count += other.count
        self.numbers += other.numbers
        self._sum += other._sum
        self._squares += other._squares
        for text in sorted(other.counts):
            if text in self.counts or len(self.counts) <= MAX_VALUES:
                self.counts[text] += other.counts[text]
        if other.no_number:
            self._note(other.no_number)

    def _note(self, value: str) -> None:
        self.no_number = min(self.no_number, value) if self.no_number else value

    @property
    def is_number(self) -> bool:
        return self.numbers > 0 and not self.no_number

    @property
    def is_category(self) -> bool:
        return len(self.counts) <= MAX_CATEGORIES and 2 * len(self.counts) <= self.count

    @property
    def mean(self) -> float:
        return float(self._exact_mean())

    @property
    def std(self) -> float:
        return math.sqrt(Fraction(self._squares, self.numbers << _SHIFT) - self._exact_mean() ** 2)

    def _exact_mean(self) -> Fraction:
        return Fraction(self._sum, self.numbers << _SHIFT)


def _exact_sum(values: Float64[np.ndarray, " n"]) -> int:
    """The sum of floats times 2 ** _SHIFT, without any rounding."""
    fraction, exponents = np.frexp(values)
    mantissas = (fraction * 2.0**53).astype(np.int64)
    total = 0
    for exponent in np.unique(exponents).tolist():
        part = mantissas[exponents == exponent]
        # Halves, whose sums have room in 64 bits.
        high, low = int((part >> 27).sum()), int((part & (1 << 27) - 1).sum())
        total += (high << 27) + low << exponent - 53 + _SHIFT
    return total
