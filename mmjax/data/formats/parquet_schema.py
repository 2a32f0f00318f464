"""What the schema and the footers of Parquet files say of their columns."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mmjax.data.column_inference import IMAGE_KEYS, LABEL_KEYS, CaptionFields, Fields, choose_fields
from mmjax.data.formats.image_paths import IMAGE_COLUMNS
from mmjax.data.source_protocols import SourceOptions
from mmjax.errors import UserError


def is_inside(key: str, column: str) -> bool:
    """Whether a field's path begins in a column."""
    return key == column or key.startswith((f"{column}/", f"{column}."))


def flat_columns(name: str, kind: Any) -> Iterator[tuple[str, Any]]:
    """A column and the fields inside it, with their types; an element of a list counts as if it stood there alone."""
    import pyarrow.types

    yield name, kind
    while pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        kind = kind.value_type
    if pyarrow.types.is_struct(kind):
        for field in kind:
            yield from flat_columns(f"{name}/{field.name}", field.type)


def is_image(kind: Any) -> bool:
    """Whether a column can hold encoded images."""
    import pyarrow.types

    if pyarrow.types.is_struct(kind):
        return any(field.name == "bytes" and is_image(field.type) for field in kind)
    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)


def _is_text(kind: Any) -> bool:
    import pyarrow.types

    return pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)


def _may_hold_text(kind: Any) -> bool:
    import pyarrow.types as types

    while types.is_nested(kind) and hasattr(kind, "value_type"):  # a list of any kind
        kind = kind.value_type
    while types.is_dictionary(kind):
        kind = kind.value_type
    return not (types.is_null(kind) or types.is_nested(kind) or types.is_primitive(kind) or types.is_decimal(kind))


def caption_fields(fields: Fields) -> tuple[str, ...]:
    """The fields of captions; none where classes stand in their place."""
    return fields.captions.keys if isinstance(fields, CaptionFields) else ()


def check_columns(schema: Any, columns: Mapping[str, Any], fields: Fields, options: SourceOptions, where: str) -> None:
    """Checks the columns that are used.

    Args:
      schema: of the files, as pyarrow has it.
      columns: types by name, those inside others by their path.
      fields: that are used.
      options: `keys_field`.
      where: the config field and its value, to begin errors with.

    Raises:
      UserError: there are two of a name; or none of those for captions can hold texts.
    """
    for name in schema.names:
        if schema.names.count(name) > 1 and any(is_inside(key, name) for key in fields.names):
            raise UserError(f"{where}: {schema.names.count(name)} columns are named {name!r}; rename all but one")
    captions = caption_fields(fields)
    if captions and not any(_may_hold_text(columns[name]) for name in captions):
        kinds = ", ".join(f"{name!r} of {columns[name]}" for name in captions)
        raise UserError(f"{where}: no texts in column {kinds}; name another one in {options.keys_field}.caption_keys")


def read_classes(schema: Any) -> dict[str, list[str]]:
    """Names of the classes by column, from what Hugging Face datasets write beside the columns."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: list(feature["names"])
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError):
        return {}


def unnamed_label(columns: Mapping[str, Any], classes: Mapping[str, Any], options: SourceOptions) -> str:
    """The column of labels, texts or whole numbers, where it is wanted and nothing names its classes; else ""."""
    import pyarrow.types as types

    def may_be_label(kind: Any) -> bool:
        kind = kind.value_type if types.is_dictionary(kind) else kind
        return types.is_integer(kind) or _is_text(kind)

    if any(name in classes for name in ((options.label_key,) if options.label_key else LABEL_KEYS)):
        return ""
    wanted = (options.label_key,) if options.label_key else LABEL_KEYS if options.classes else ()
    return next((name for name in wanted if name in columns and may_be_label(columns[name])), "")


def null_counts(group: Any) -> dict[str, int]:
    """How many rows of a row group are null, of the columns of bytes of which its statistics say so."""
    counts = {}
    for i in range(group.num_columns):
        column = group.column(i)
        if column.physical_type != "BYTE_ARRAY" or not column.is_stats_set:
            continue
        statistics = column.statistics
        # Of a column inside lists, there are not as many values as rows.
        if statistics.has_null_count and statistics.null_count + statistics.num_values == group.num_rows:
            counts[column.path_in_schema] = statistics.null_count
    return counts


def rows_with_images(table: Any, image: str) -> np.ndarray:
    """Numbers of the rows of a table of pyarrow that have an image, under this field."""
    import pyarrow.compute
    import pyarrow.types

    top = next(name for name in table.column_names if is_inside(image, name))
    column = table.column(top)
    for name in [*image.replace("/", ".").split(".")[top.count(".") + 1 :], "bytes"]:
        if pyarrow.types.is_struct(column.type):  # an inner field is null where its struct is
            options = pyarrow.compute.StructFieldOptions([name])
            column = pyarrow.compute.call_function("struct_field", [column], options)
    return np.flatnonzero(column.is_valid().to_numpy())


def choose_parquet_fields(
    columns: Mapping[str, Any], classes: Mapping[str, Sequence[str]], options: SourceOptions, where: str
) -> Fields:
    """The fields that are used: the image's of encoded files, or else of paths.

    Raises:
      UserError: see `choose_fields`; the image's column holds neither.
    """
    images = [name for name, kind in columns.items() if is_image(kind)]
    paths = [name for name, kind in columns.items() if _is_text(kind)]
    if images and options.image_key not in paths:
        return choose_fields(list(columns), options=options, where=where, images=images, classes=classes)
    if not images and {"url", "key", "status"} <= columns.keys():
        raise UserError(
            f"{where}: img2dataset's list of downloads, without images; these are in the tars or folders beside it,"
            " which wds:DIR and files:DIR read"
        )
    keys = (*IMAGE_COLUMNS, *IMAGE_KEYS)
    fields = choose_fields(list(columns), options=options, where=where, classes=classes, image_keys=keys)
    if fields.image and fields.image not in paths:
        raise UserError(
            f"{where}: field {fields.image!r} holds no encoded images and no paths; set {options.keys_field}.image_key"
        )
    return fields


def nulls_of(counts: Mapping[str, int], image: str) -> int:
    """How many rows have no image, by `null_counts`: of a field of bytes, or of a struct with `bytes`."""
    dotted = image.replace("/", ".")
    return next((counts[name] for name in (image, dotted, f"{image}.bytes", f"{dotted}.bytes") if name in counts), 0)
