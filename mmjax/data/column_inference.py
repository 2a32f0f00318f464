"""The choice of the fields that are an example's image, captions and class, for sources that have columns.

A field inside another one is named by its path: `captions/text` or `captions.text`.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, overload

from mmjax.data.bad_example import BadExample
from mmjax.data.formats.class_records import make_class_record
from mmjax.data.formats.input_files import TEMPLATES, inputs_of_bytes, kind_of, record_fields
from mmjax.data.formats.table_rows import add_row, check_columns
from mmjax.data.formats.wordnet_ids import readable_names, unknown_ids
from mmjax.data.record import CaptionKeys, Record, stable_id
from mmjax.data.source_protocols import SourceOptions
from mmjax.errors import UserError, did_you_mean

IMAGE_KEYS = (
    *("image", "jpg", "jpeg", "png", "webp", "img", "image/encoded", "image_bytes", "bytes"),
    *("video", "mp4", "webm", "audio", "wav", "flac", "mp3", "ogg"),
)
CAPTION_KEYS = ("caption", "captions", "txt", "text", "title", "captions/text", "caption/text", "sentences", "TEXT")
LABEL_KEYS = ("label", "labels", "cls", "class")

log = logging.getLogger("mmjax.data")


@dataclasses.dataclass(frozen=True)
class TableFields:
    """The fields that are read as a row of named columns.

    Attributes:
      fields: by the column's name.
      texts: columns whose texts are the captions.
    """

    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    texts: tuple[str, ...] = ()

    def row(self, lookup: Callable[[str], Any]) -> dict[str, Any]:
        """The values of an example by column."""
        return {name: lookup(field) for name, field in self.fields.items()}

    def add(self, record: Record, lookup: Callable[[str], Any]) -> Record:
        """A record with its row, where there are such columns."""
        return add_row(record, self.row(lookup), self.texts) if self.fields else record


@dataclasses.dataclass(frozen=True)
class CaptionFields:
    """The fields that are used, of all that a source has: an image's and its captions'.

    Attributes:
      image: field of the encoded image, video or sound; "" for rows of columns alone.
      captions: fields of the captions.
      table: columns that are read as a row.
    """

    image: str
    captions: CaptionKeys
    table: TableFields = dataclasses.field(default_factory=TableFields)

    @property
    def names(self) -> list[str]:
        """Every field that is looked up."""
        return [*filter(None, [self.image]), *self.captions.keys, *self.table.fields.values()]

    @property
    def class_names(self) -> None:
        """There are no classes."""
        return None

    @property
    def class_codes(self) -> None:
        """There are no classes."""
        return None

    @property
    def templates(self) -> None:
        """There are no classes to fill templates with."""
        return None

    def record(self, lookup: Callable[[str], Any], *, source: str, index: int, path: str) -> Record:
        """Makes a record.

        Args:
          lookup: returns a field's value, None where the example has no such field.
          source: what the source is, to make the id from.
          index: the example's number in it.
          path: where the example lies, for errors.

        Raises:
          BadExample: `no_image`, `not_image`, or `no_caption`.
        """
        inputs = _read_inputs(lookup, self.image, path)
        try:
            texts = self.captions.gather(lookup)
        except BadExample as error:
            raise BadExample(error.reason, f"{path}: {error.detail}") from error
        record = Record(**record_fields(inputs), id=stable_id("image", source, index), path=path, **texts)
        return self.table.add(record, lookup)


@dataclasses.dataclass(frozen=True)
class ClassFields:
    """The fields that are used, of all that a source has: an image's and its class's, which captions are made from.

    Attributes:
      image: field of the encoded image, video or sound.
      label: field of the class's number.
      names_of_classes: by number.
      numbers: of the classes by label as the source writes them, where these are not the numbers.
      class_codes: WordNet ids of the classes, where the source has these for names; or None.
      table: columns that are read as a row.
    """

    image: str
    label: str
    names_of_classes: tuple[str, ...]
    numbers: Mapping[str, int] | None = None
    class_codes: tuple[str, ...] | None = None
    table: TableFields = dataclasses.field(default_factory=TableFields)

    @property
    def names(self) -> list[str]:
        """Every field that is looked up."""
        return [*filter(None, [self.image]), self.label, *self.table.fields.values()]

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, see `Source`."""
        return list(self.names_of_classes)

    @property
    def templates(self) -> list[str]:
        """Templates of the captions, see `Source`."""
        kind = "array" if not self.image else self.image if self.image in TEMPLATES else kind_of(f".{self.image}")
        return list(TEMPLATES[kind or "image"])

    def record(self, lookup: Callable[[str], Any], *, source: str, index: int, path: str) -> Record:
        """Makes a record, whose id is the class's; see `CaptionFields.record`.

        Raises:
          BadExample: `no_image`, `not_image`, or `no_caption` for a class that has no name.
        """
        del source, index
        inputs = _read_inputs(lookup, self.image, path)
        label = lookup(self.label)
        label = label[0] if isinstance(label, list) and len(label) == 1 else label
        if self.numbers is not None:
            label = self.numbers.get(label_text(label), label_text(label))
        if not isinstance(label, int) or not 0 <= label < len(self.names_of_classes):
            raise BadExample("no_caption", f"{path}: {self.label!r} is {label!r}, no number of a class")
        class_id = None if self.class_codes is None else stable_id("class", self.class_codes[label])
        record = make_class_record(inputs, self.names_of_classes, self.templates, label, path, class_id)
        return self.table.add(record, lookup)


Fields = CaptionFields | ClassFields


def label_text(value: Any) -> str:
    """A label as a table writes it: a number or a name; "" for none."""
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    return "" if value is None or isinstance(value, (float, list, Mapping)) else str(value).strip()


def _read_inputs(lookup: Callable[[str], Any], field: str, path: str) -> dict[str, Any]:
    """An image, or what else an encoded file is, by modality."""
    if not field:
        return {}
    value = lookup(field)
    if isinstance(value, Mapping):  # as Hugging Face datasets keep an image: {"bytes": ..., "path": ...}
        value = value.get("bytes")
    if isinstance(value, list):
        value = value[0] if value else None
    if value is None:
        raise BadExample("no_image", f"{path}: nothing under {field!r}")
    if not isinstance(value, bytes):
        raise BadExample("not_image", f"{path}: {field!r} holds {type(value).__name__}, not an encoded image")
    try:
        return inputs_of_bytes(value)
    except BadExample as error:
        raise error.with_path(path) from error


@overload
def choose_fields(
    columns: Sequence[str],
    *,
    options: SourceOptions,
    where: str,
    images: Iterable[str] | None = None,
    classes: None = None,
    image_keys: Sequence[str] = IMAGE_KEYS,
) -> CaptionFields: ...


@overload
def choose_fields(
    columns: Sequence[str],
    *,
    options: SourceOptions,
    where: str,
    images: Iterable[str] | None = None,
    classes: Mapping[str, Sequence[str]],
    image_keys: Sequence[str] = IMAGE_KEYS,
) -> Fields: ...


def choose_fields(
    columns: Sequence[str],
    *,
    options: SourceOptions,
    where: str,
    images: Iterable[str] | None = None,
    classes: Mapping[str, Sequence[str]] | None = None,
    image_keys: Sequence[str] = IMAGE_KEYS,
) -> Fields:
    """Chooses an image, and captions or a class, from the fields that a source has.

    A class that the config asks for comes first, or that a model learns; then captions that the config asks for, of
    which all must be there; then classes with names, then captions under the first of the usual names that is there.

    Args:
      columns: all fields, those inside others by their path.
      options: `image_key`, `caption_keys`, `label_key`, `classes` and `keys_field`.
      where: the config field and its value, to begin errors with.
      images: the fields that can hold an encoded image, where the source knows.
      classes: names of the classes by field, where the source knows.
      image_keys: usual names of the image's field.

    Raises:
      UserError: when it has none of the usual fields, or lacks one that the config names, with those that it has; or
        its image field holds no images.
    """
    wanted = options.image_key.split(";") if options.image_key else list(image_keys)
    image = next((field for name in wanted if (field := _find(name, columns))), None)
    possible = None if images is None else list(images)
    if not options.image_key and possible is not None and image not in possible:
        usual = [field for name in wanted if (field := _find(name, possible))]
        image = usual[0] if usual else possible[0] if len(possible) == 1 else image
    listed = {name: field for name in options.columns if (field := _find(name, columns))}
    check_columns(options.columns, list(dict.fromkeys([*columns, *listed])), where)
    table = TableFields(listed, options.text_columns)
    if not options.image_key and listed and (image is None or (possible is not None and image not in possible)):
        image = ""  # rows alone are examples, too
    if image is None:
        raise UserError(
            f"{where}: no field of images: looked for {_some(wanted)}, found {_listed(columns)}"
            f"{_near(wanted, columns)}; name one in {options.keys_field}.image_key"
        )
    if image and possible is not None and image not in possible:
        holds = f", but {_listed(possible)} could" if possible else ""
        raise UserError(f"{where}: field {image!r} holds no encoded images{holds}; set {options.keys_field}.image_key")
    field = f"{options.keys_field}.caption_keys"
    keys = CaptionKeys.parse(options.caption_keys, default=CAPTION_KEYS, field=field, encoding=options.encoding)
    matches = {key: name for key in keys.keys if (name := _find(key, columns)) is not None}
    if options.label_key and options.label_key not in (classes or {}):
        raise UserError(
            f"{where}: {options.keys_field}.label_key={options.label_key!r} is no column of classes, found"
            f" {_listed(columns)}{did_you_mean(options.label_key, columns)}; name one of texts or whole numbers"
        )
    if options.caption_keys and not (options.label_key or (options.classes and classes)):
        absent = [key for key in keys.keys if key not in matches]
        if absent:
            raise UserError(
                f"{where}: {field}={options.caption_keys!r}: no field {absent[0]!r}, found {_listed(columns)}"
                f"{_near(absent, columns)}; name what is there"
            )
        return CaptionFields(image, dataclasses.replace(keys, keys=tuple(matches.values())), table)
    if classes:
        label = options.label_key or next((name for name in LABEL_KEYS if name in classes), next(iter(classes)))
        names, readable = tuple(classes[label]), readable_names(classes[label])
        if unknown := unknown_ids(names):
            log.warning("%s: class %r and %d others are none of ImageNet-1k's ids", where, unknown[0], len(unknown) - 1)
        return ClassFields(image, label, tuple(readable or names), class_codes=names if readable else None, table=table)
    if not matches and options.columns:
        return CaptionFields(image, dataclasses.replace(keys, keys=()), table)
    if not matches:
        raise UserError(
            f"{where}: no field of captions: looked for {_some(keys.keys)}, found {_listed(columns)}"
            f"{_near(keys.keys[:1], columns)}; name one in {field}"
        )
    return CaptionFields(image, dataclasses.replace(keys, keys=(next(iter(matches.values())),)), table)


def _find(name: str, columns: Iterable[str]) -> str | None:
    """The field that a name stands for: `a.b` and `a/b` are the same."""
    plain = name.replace(".", "/")
    return next((field for field in columns if field == name or field.replace(".", "/") == plain), None)


def _near(wanted: Sequence[str], columns: Sequence[str]) -> str:
    return next((near for name in wanted if (near := did_you_mean(name, columns))), "")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:30])) or "no fields"
    return f"{shown} and {len(names) - 30} more" if len(names) > 30 else shown
