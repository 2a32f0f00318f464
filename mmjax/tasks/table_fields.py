"""Fields of `data.table`: the named columns that a model's table reads, and what the training data say of them."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmjax.config.schema import RunConfig
from mmjax.data.bad_example import BadExample, one_example
from mmjax.data.source_protocols import HasRows, Source, evenly_spaced
from mmjax.data.table_columns import FIELD, TableColumns, parse_columns
from mmjax.data.table_statistics import MAX_VALUES, TableStatistics
from mmjax.errors import UserError
from mmjax.models.fusion.config import FusedConfig, TableEncoderConfig
from mmjax.tasks import config_queries

_FIRST = 32  # examples without a row, after which a source is known to have none

log = logging.getLogger("mmjax")


def check_table(config: RunConfig) -> None:
    """Checks the fields against one another and the model, before any data is opened.

    Raises:
      UserError: a value makes no sense, or nothing of the model reads the columns.
    """
    table, columns = config.data.table, parse_columns(config.data.table.columns)
    if not 1 <= table.max_categories <= MAX_VALUES:
        raise UserError(f"data.table.max_categories={table.max_categories} must be from 1 to {MAX_VALUES}")
    if table.sample < 0:
        raise UserError(f"data.table.sample={table.sample}: give a number of rows, or 0 for all")
    texts = [name for name, kind in columns.items() if kind == "text"]
    reads = config_queries.encoders(config.model)
    if len(columns) > len(texts) and "table" not in reads:
        raise UserError(
            f"{FIELD}={table.columns!r} is not read, as the model has no table (it has"
            f" {', '.join(reads) or 'no modality beside images and text'}); leave it empty, or fill {_slot(config)}"
        )
    if texts and not config_queries.has_text(config) and config_queries.encoder_of_texts(config) is None:
        remedy = ", or fill model.encoders.text" if isinstance(config.model, FusedConfig) else ""
        raise UserError(
            f"{FIELD}: {texts[0]}@text, but model.kind={config.model.kind!r} reads no text; leave it out{remedy}"
        )
    if texts and len(columns) == len(texts) and "table" in reads:
        raise UserError(f"{FIELD}={table.columns!r} has nothing for {_slot(config)}; name numbers or categories, too")


def _slot(config: RunConfig) -> str:
    return "model.encoders.table" if isinstance(config.model, FusedConfig) else "model.table"


def read_table_columns(config: RunConfig, mixture: Sequence[tuple[Source, Any]]) -> TableColumns | None:
    """Statistics and categories of the columns, from one pass over the training data; None where none are named.

    Weights of the mixture do not count: every row does once. Where the data are sampled, a line of the log says so.

    Raises:
      UserError: a column is not what the config says of it, or is of texts without being asked for them.
    """
    kinds = parse_columns(config.data.table.columns)
    if not kinds:
        return None
    statistics = TableStatistics(kinds)
    statistics.add(_rows(config, mixture))
    columns = statistics.columns(config.data.table.max_categories)
    if text := next((column for column in columns.texts if kinds[column.name] != "text"), None):
        raise UserError(
            f"{FIELD}: {text.name!r} holds neither numbers nor categories that come again and again; write"
            f" {text.name}@text for a model of texts, {text.name}@category, or leave it out"
        )
    total = sum(len(source) for source, _ in mixture)
    of_all = f" of {total:,}" if statistics.rows < total else ""
    log.info(f"{FIELD}, by {statistics.rows:,}{of_all} rows: {'; '.join(columns.describe())}")
    return columns


def _rows(config: RunConfig, mixture: Sequence[tuple[Source, Any]]) -> Iterator[Mapping[str, Any]]:
    """The rows of all sources, or of a sample; without those of examples that cannot be read, which are counted later.

    Raises:
      UserError: a source gives no rows.
    """
    sample, total = config.data.table.sample, sum(len(source) for source, _ in mixture)
    for source, _ in mixture:
        share = len(source) if not sample else max(1, sample * len(source) // max(1, total))
        is_any_read, count = False, 0
        for index in evenly_spaced(len(source), share):
            try:
                with one_example():
                    row = source.row(index) if isinstance(source, HasRows) else _row_of(source[index])
            except BadExample:
                continue
            count += 1
            if row is not None:
                is_any_read = True
                yield row
            elif not is_any_read and count == _FIRST:
                break
        if count and not is_any_read:
            raise UserError(
                f"{FIELD}={config.data.table.columns!r}: {source.name!r} has no columns; give a table (pairs:,"
                " parquet:, hf:), or tars with .json members"
            )


def _row_of(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    row = (record.get("modalities") or {}).get("table")
    return row if isinstance(row, Mapping) else None


def check_columns(config: RunConfig, columns: TableColumns) -> None:
    """Checks that the model's table is made for the columns.

    Raises:
      UserError: it has other numbers of numeric columns or of categories, with those that fit; or the columns are of
        another config.
    """
    named = list(parse_columns(config.data.table.columns))
    known = [column.name for column in (*columns.numbers, *columns.categories, *columns.texts)]
    if sorted(named) != sorted(known):
        raise UserError(
            f"{FIELD}={config.data.table.columns!r}, but the checkpoint has statistics of {', '.join(known)};"
            " name these"
        )
    encoder, slot = config_queries.encoders(config.model).get("table"), _slot(config)
    if not isinstance(encoder, TableEncoderConfig):
        return
    sizes, numeric = columns.sizes, len(columns.numbers)
    if (encoder.numeric, tuple(encoder.categories)) != (numeric, sizes):
        names = [", ".join(c.name for c in group) or "none" for group in (columns.numbers, columns.categories)]
        raise UserError(
            f"{slot}.numeric={encoder.numeric} and {slot}.categories={tuple(encoder.categories)}, but {FIELD} has"
            f" numbers {names[0]}, and categories {names[1]} of {sizes}, with one each for unknown ones; set"
            f" {slot}.numeric={numeric} and {slot}.categories={sizes}"
        )
