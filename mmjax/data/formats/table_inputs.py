"""Files as tables name them: by a column of paths, or by a pattern of several columns; and spans of their seconds."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmjax.data.bad_example import BadExample
from mmjax.errors import UserError, did_you_mean

SPAN_COLUMNS = ("start", "end")
_FIELD = re.compile(r"\{([^{}]+)\}")


@dataclasses.dataclass(frozen=True)
class PathPattern:
    """A pattern of paths such as `clips/{youtube_id}_{start}.flac`, with columns in braces.

    Attributes:
      text: the pattern, below its folder.
      folder: what stands before the first folder or name with a brace, with a slash at the end or empty.
    """

    text: str
    folder: str

    @classmethod
    def parse(cls, text: str) -> "PathPattern | None":
        """The pattern of a text; None where it has no column in braces, and is a folder."""
        match = _FIELD.search(text)
        if match is None:
            return None
        start = text[: match.start()].rfind("/") + 1
        return cls(text[start:], text[:start])

    @property
    def columns(self) -> list[str]:
        """The columns that it names, each once."""
        return list(dict.fromkeys(_FIELD.findall(self.text)))

    def check(self, columns: Sequence[str], where: str) -> None:
        """Checks that a table has its columns.

        Raises:
          UserError: it lacks one.
        """
        for name in self.columns:
            if name not in columns:
                raise UserError(
                    f"{where}: the pattern of its files names {{{name}}}, and the table has"
                    f" {', '.join(map(repr, columns))}{did_you_mean(name, columns)}"
                )

    def fill(self, cells: Sequence[Any]) -> str:
        """The path of a row, below the folder; empty where a cell is.

        Args:
          cells: of `columns`.
        """
        texts = ["" if cell is None else str(cell).strip() for cell in cells]
        if not all(texts):
            return ""
        values = dict(zip(self.columns, texts, strict=True))
        return _FIELD.sub(lambda match: values[match[1]], self.text)


def parse_spans(starts: Sequence[Any], ends: Sequence[Any]) -> np.ndarray:
    """Spans of seconds, float64 [N, 2]: NaN where both cells are blank, infinity where they are no span."""
    return np.array([_parse_span(start, end) for start, end in zip(starts, ends, strict=True)], np.float64).reshape(
        -1, 2
    )


def _parse_span(start: Any, end: Any) -> tuple[float, float]:
    cells = ["" if cell is None else str(cell).strip() for cell in (start, end)]
    if not any(cells):
        return math.nan, math.nan
    try:
        first, last = map(float, cells)
    except ValueError:
        return math.inf, math.inf
    return (first, last) if 0 <= first < last < math.inf else (math.inf, math.inf)


def read_span(start: float, end: float, where: str) -> tuple[float, float] | None:
    """A span as `parse_spans` has it; None for the complete file.

    Raises:
      BadExample: `other`, where its cells are no span.
    """
    if math.isinf(start):
        raise BadExample("other", f"{where}: its start and end are no seconds, the first below the second")
    return None if math.isnan(start) else (start, end)
