"""Rows of named columns (`data.table.columns`) in records, and the columns of a source that they are read from."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.data.record import Record
from mmjax.data.table_columns import FIELD, row_text
from mmjax.errors import UserError, did_you_mean


def add_row(record: Record, row: Mapping[str, Any], texts: Sequence[str]) -> Record:
    """A record with a row as its `table`, and the texts of the row as its `text` and in place of its captions.

    Args:
      record: of the source.
      row: values by column.
      texts: the columns of texts; none where the captions are the record's.
    """
    record["modalities"] = {**record.get("modalities", {}), "table": dict(row)}
    if texts:
        text = row_text(row, texts)
        record["modalities"] = {**record["modalities"], "text": text or None}
        record["captions"] = [text] if text else []
        record.pop("caption_weights", None)
    return record


def check_columns(names: Sequence[str], columns: Sequence[str], where: str) -> None:
    """Checks that a source has the columns that are named.

    Raises:
      UserError: it lacks one.
    """
    for name in names:
        if name not in columns:
            listed = ", ".join(map(repr, columns[:30])) + (f" and {len(columns) - 30} more" if columns[30:] else "")
            raise UserError(f"{where}: {FIELD}: no column {name!r}{did_you_mean(name, columns)}; there are {listed}")
