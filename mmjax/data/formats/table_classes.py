"""Classes of a table's rows: which column has them, and their names, from that and from classnames.txt beside it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmjax.data.column_inference import CAPTION_KEYS, LABEL_KEYS
from mmjax.data.formats.class_records import log_equal_names
from mmjax.data.formats.wordnet_ids import log_numbers
from mmjax.data.formats.written_list import parse_list
from mmjax.data.source_protocols import SourceOptions
from mmjax.errors import UserError, did_you_mean

SEPARATOR = "\0"  # of several labels, or captions, of one cell


def join_labels(cell: Any) -> str:
    """The labels of a cell that may have several, each once: of a list, or of a text with commas or semicolons."""
    parts = (parse_list(cell) or re.split("[,;]", cell)) if isinstance(cell, str) else cell
    parts = parts if isinstance(parts, Sequence) else [] if parts is None else [parts]
    labels = [str(part).strip() for part in parts]
    return SEPARATOR.join(dict.fromkeys(filter(None, labels)))


def label_column(columns: Sequence[str], options: SourceOptions, where: str) -> str:
    """The column of classes: the one that is named, or a usual one of a table without captions; else "".

    Where the model learns classes, captions beside them do not matter.

    Raises:
      UserError: there is no column of the name.
    """
    if key := options.label_key:
        if key not in columns:
            raise UserError(
                f"{where}: {options.keys_field}.label_key={key!r}: the table has {', '.join(map(repr, columns))}"
                f"{did_you_mean(key, columns)}; name what is there"
            )
        return key
    has_captions = options.caption_keys or any(name in columns and name not in options.columns for name in CAPTION_KEYS)
    if has_captions and not options.classes:
        return ""
    return next((name for name in LABEL_KEYS if name in columns), "")


def classes_of_labels(
    labels: Iterable[str], listed: Sequence[str], where: str, classes: int = 0
) -> tuple[list[str], Mapping[str, int]]:
    """The names of the classes in their order, and the number of the class that a label stands for.

    Args:
      labels: of the rows, as they are written: names or numbers; those that are empty stand for none.
      listed: names in classnames.txt, which numbers count from 0; none where there is no such file.
      where: the config field and its value, to begin errors with.
      classes: of the model, where it learns them: numbers below it are its classes, also those that no row has.

    Raises:
      UserError: a label is not in classnames.txt.
    """
    distinct = sorted(set(labels) - {""})
    if not listed:
        if all(label.isdecimal() for label in distinct):
            distinct.sort(key=int)
            if classes and distinct and int(distinct[-1]) < classes:
                names = [str(number) for number in range(classes)]
                return names, {label: int(label) for label in distinct}
        if not classes:
            log_numbers(
                distinct, where, "write their names to classnames.txt beside the table, one a line, from number 0 on"
            )
        return distinct, {label: number for number, label in enumerate(distinct)}
    names = list(listed)
    numbers = {str(number): number for number in range(len(names))} | {name: i for i, name in enumerate(names)}
    if unknown := [label for label in distinct if label not in numbers]:
        raise UserError(
            f"{where}: label {unknown[0]!r} is none of the {len(names)} names in classnames.txt, nor a number of one;"
            " add what is missing there"
        )
    log_equal_names(names, where)
    return names, numbers
