"""Files as tables name them: by a column of paths, or by a pattern of several columns; and spans of their seconds."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmjax.data.bad_example import BadExample
from mmjax.data.formats.image_paths import IMAGES_OPTION
from mmjax.data.source_protocols import SourceOptions
from mmjax.errors import UserError, did_you_mean

SPAN_COLUMNS = ("start", "end")
_SPLIT = re.compile(r"(.+\.(?:csv|tsv|jsonl|json))/([^/,]+)")
_FIELD = re.compile(r"\{([^{}:]+)(?::0(\d+))?\}")


@dataclasses.dataclass(frozen=True)
class TablePath:
    """What stands after `pairs:`.

    Attributes:
      file: the table.
      split: of the rows that count, by their column `split`; "" for all.
      spans: columns of the seconds at which spans begin and end; () for complete files.
      are_spans_named: whether they must be there.
      images: the folder of the files, or a pattern of their paths; "" for the table's folder.
    """

    file: str
    split: str
    spans: tuple[str, ...]
    images: str
    are_spans_named: bool

    def span_columns(self, columns: Sequence[str], where: str) -> tuple[str, ...]:
        """The columns of spans that a table has; () for none.

        Raises:
          UserError: it lacks one that is named, or a column `split`.
        """
        named = (*(self.spans if self.are_spans_named else ()), *(["split"] if self.split else ()))
        for name in named:
            if name not in columns:
                what = "spans=" if name in self.spans else f"/{self.split}"
                near = did_you_mean(name, columns)
                raise UserError(f"{where}: {what}: no column {name!r}{near}; there are {', '.join(map(repr, columns))}")
        return self.spans if set(self.spans) <= set(columns) else ()


def split_image_key(options: SourceOptions, columns: Sequence[str], where: str) -> tuple[SourceOptions, list[str]]:
    """The options with the first of the columns of files that `image_key` joins by "+", and the further ones.

    Raises:
      UserError: the table lacks a further one.
    """
    first, *further = options.image_key.split("+")
    for name in further:
        if name not in columns:
            near = did_you_mean(name, columns)
            raise UserError(
                f"{where}: {options.keys_field}.image_key={options.image_key!r}: no column {name!r}{near}; there are"
                f" {', '.join(map(repr, columns))}"
            )
    return dataclasses.replace(options, image_key=first), further


@dataclasses.dataclass(frozen=True)
class PathPattern:
    """A pattern of paths such as `clips/{youtube_id}_{start:06}.mp4`, with columns in braces.

    What follows a colon is how many characters a cell has at least: zeros are put before it (Kinetics' seconds).

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
        return list(dict.fromkeys(match[1] for match in _FIELD.finditer(self.text)))

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
        return _FIELD.sub(lambda match: values[match[1]].zfill(int(match[2] or 0)), self.text)


def parse_table_path(path: str, where: str) -> TablePath:
    """The parts of "FILE/SPLIT,spans=START:END,images=FOLDER", of which the file alone must be there.

    Raises:
      UserError: a part that says nothing.
    """
    path, images, folder = path.partition(IMAGES_OPTION)
    if images and not folder:
        raise UserError(f"{where}: images= names no folder; write pairs:FILE,images=DIR")
    path, spans, names = path.partition(",spans=")
    start, colon, end = (part.strip() for part in names.partition(":"))
    if spans and names != "none" and not (start and colon and end):
        raise UserError(f"{where}: spans={names} names no two columns; write spans=START:END, or spans=none")
    match = _SPLIT.fullmatch(path)
    file, split = (match[1], match[2]) if match else (path, "")
    columns = () if names == "none" else (start, end) if spans else SPAN_COLUMNS
    return TablePath(file, split, columns, folder, bool(spans))


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
