"""Rows of a text table, whose cells a comma, a tab or another character separates (CSV, RFC 4180)."""

import csv
import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Iterator

from mmjax.errors import UserError

SEPARATORS = {",": "a comma", "\t": "a tab", ";": "a semicolon", "|": "a vertical bar"}  # those that are looked for
_LONGEST_CELL = 2**31 - 1  # csv's default would refuse captions of more than 131,072 characters
_LOOKED_AT = 200  # lines, to find the separator
_RESCANS = 20  # of the lines of a table, in which quotation marks that do not close may lead astray
_FILE = re.compile(r"\S+(\.[a-z]\w{1,4})", re.IGNORECASE)


@dataclasses.dataclass
class RowProblems:
    """What was wrong with the rows that were read so far.

    Attributes:
      rows: how many there were, the header not counted.
      unusable: how many of them cannot be read, or have another number of cells than the header.
      first_unusable: which is the first, and what is wrong with it.
      literal: how many were read with quotation marks as characters, since these enclose no whole cell.
      first_literal: line of the first.
    """

    rows: int = 0
    unusable: int = 0
    first_unusable: str = ""
    literal: int = 0
    first_literal: int = 0

    def leave_out(self, wrong: str) -> None:
        """Counts a row that is left out, which `wrong` says the line and the fault of."""
        self.unusable += 1
        self.first_unusable = self.first_unusable or wrong


def read_rows(
    lines: Iterable[str],
    separator: str,
    problems: RowProblems,
    *,
    where: str = "",
    fault: Callable[[str], str] = lambda text: "",
) -> Iterator[tuple[int, list[str]]]:
    """Yields the line and the cells of rows that have as many as the header, which comes first.

    A cell in quotation marks may hold separators and line breaks. Where the marks do not enclose whole cells, reading
    goes on with the next line: one mark too many costs one row, not all rows up to the next mark.

    Args:
      lines: of the table, with their line breaks.
      separator: one character.
      problems: counts the rows that are left out.
      where: the config field and its value, to begin errors with.
      fault: of the text of a row, "" where it has none.

    Raises:
      UserError: most of the table's quotation marks do not close.
    """
    csv.field_size_limit(_LONGEST_CELL)
    source = _Lines(lines)
    reader = csv.reader(source, delimiter=separator, skipinitialspace=True, strict=True)
    width = rescanned = 0
    while True:
        source.begin_row()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:
            cells = None
        if cells is not None and not any(cells) and not "".join(source.row).strip():
            continue  # a blank line is no row
        number = source.number - len(source.row) + 1
        if width:
            problems.rows += 1
            if cells is not None and len(cells) == width:
                if len(source.row) == 1 or not _holds_rows(cells, source.row, separator):
                    if wrong := fault("".join(source.row)):
                        problems.leave_out(f"line {number} {wrong}")
                    else:
                        yield number, cells
                    continue
                cells = None
        elif cells is not None:
            width = len(cells)
            yield number, [name.strip() for name in cells]
            continue
        rescanned += len(source.row)
        if rescanned > _RESCANS * (source.number + 10_000):
            raise UserError(
                f"{where}: line {number} opens a quotation mark that does not close as it should, as others do; write"
                ' a quotation mark inside a cell as "" and quote the cell'
            )
        line = source.rewind()
        literal = line.rstrip("\r\n").split(separator)
        # Marks in pairs, or in a table with tabs, where most programs do not quote, are meant as they stand.
        are_characters = cells is None and (line.count('"') % 2 == 0 or separator == "\t") and not fault(line)
        if not width or (are_characters and len(literal) == width):
            problems.literal += 1
            problems.first_literal = problems.first_literal or number
            yield number, literal if width else [name.strip() for name in literal]
            width = len(literal)
            continue
        if wrong := fault(line):
            problems.leave_out(f"line {number} {wrong}")
        elif cells is None:
            problems.leave_out(f"line {number} opens a quotation mark that does not close as it should")
        else:
            problems.leave_out(f"line {number} has {len(cells)} cells, the header {width}")


def find_separator(lines: Callable[[], Iterable[str]], usual: str) -> str:
    """The separator of a table: of those that divide the header, the one by which most of the first rows have as many
    cells as it; the usual one where others do no better.

    Args:
      lines: gives the lines of the table.
      usual: what the table's ending stands for.
    """
    best, best_score = usual, (0.0, False, 0)
    for separator in SEPARATORS:
        problems = RowProblems()
        rows = read_rows(itertools.islice(lines(), _LOOKED_AT), separator, problems)
        cells = len(next(rows, (0, []))[1])
        agreeing = sum(1 for _ in rows)
        score = (agreeing / max(problems.rows, 1), separator == usual, cells)
        if cells > 1 and score > best_score:
            best, best_score = separator, score
    return best


class _Lines:
    """Lines that can be gone back to, for a reader of rows.

    Attributes:
      row: the lines that were taken since the row began.
      number: of the line that was taken last, from 1.
    """

    def __init__(self, lines: Iterable[str]):
        self._lines = iter(lines)
        self._again: list[str] = []  # to be taken first, the next one last
        self.row: list[str] = []
        self.number = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._again.pop() if self._again else next(self._lines)
        self.row.append(line)
        self.number += 1
        return line

    def begin_row(self) -> None:
        self.row = []

    def rewind(self) -> str:
        """Goes back behind the row's first line; returns that."""
        self._again += reversed(self.row[1:])
        self.number -= len(self.row) - 1
        return self.row[0]


def _holds_rows(cells: list[str], lines: list[str], separator: str) -> bool:
    """Whether a row of several lines has swallowed others: lines with as many cells, and files of the same endings."""
    endings = [(i, match[1]) for i, cell in enumerate(cells) if (match := _FILE.fullmatch(cell.strip()))]
    for line in lines[1:]:
        inner = line.split(separator)
        if len(inner) < len(cells):
            continue
        for i, ending in endings:
            match = _FILE.fullmatch(inner[i].strip(' "\r\n'))
            if match and match[1].lower() == ending.lower():
                return True
    return False
