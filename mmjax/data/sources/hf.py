"""Data sets that Hugging Face `datasets` has saved in a folder (`hf:`)."""

import dataclasses
import os
import posixpath
from collections.abc import Iterator
from typing import Any

from mmjax.data.column_inference import LABEL_KEYS, ClassFields, choose_fields, label_text
from mmjax.data.formats.json_fields import get_nested
from mmjax.data.formats.table_classes import classes_of_labels
from mmjax.data.record import Record, check_index
from mmjax.data.source_protocols import DEFAULT_OPTIONS, SourceOptions
from mmjax.errors import UserError, did_you_mean
from mmjax.io.patterns import error_reason
from mmjax.io.reader import is_local, local_path
from mmjax.utils.optional_imports import require


class HuggingFace:
    """Examples of a data set saved by `save_to_disk`, memory-mapped.

    Images are given as they were encoded. The first ClassLabel (one called `label` before others) gives classes, and
    so does a column of labels as in `parquet:`; sets without one must have captions: texts or lists of texts.

    Args:
      path: `DIR` of a Dataset, or `DIR/SPLIT` of a DatasetDict.
      options: how to read it; `image_key` and `caption_keys` name columns, or fields inside them as `a.b`.
      field: config field to name in errors.

    Raises:
      UserError: on a folder that is no saved data set, several splits, or columns without image or captions.
    """

    def __init__(self, path: str, *, options: SourceOptions = DEFAULT_OPTIONS, field: str = "data.train"):
        path = path.rstrip("/")
        where = f"{field}='hf:{path}'"
        self._path = local_path(path) if is_local(path) else path
        self._dataset = _load(self._path, where)
        datasets = require("datasets", extra="hf", where=where)
        features = {
            key: feature for name, feature in self._dataset.features.items() for key, feature in _flat(name, feature)
        }
        classes = {key: feature.names for key, feature in features.items() if isinstance(feature, datasets.ClassLabel)}
        label, numbers = _unnamed_label(features, classes, options), {}
        if label:
            labels = map(label_text, self._dataset.unique(label))
            classes[label], numbers = classes_of_labels(labels, (), where, options.classes)
        self._fields = choose_fields(
            list(features),
            options=options,
            where=where,
            images=[key for key, feature in features.items() if _is_image(datasets, feature)],
            classes=classes,
        )
        if label and isinstance(self._fields, ClassFields) and self._fields.label == label:
            self._fields = dataclasses.replace(self._fields, numbers=numbers)
        if not len(self._dataset):
            raise UserError(f"{where}: has no rows; choose another one")
        self._columns = [
            name
            for name in self._dataset.column_names
            if any(f"{key}/".startswith(f"{name}/") for key in (key.replace(".", "/") for key in self._fields.names))
        ]
        self._dataset = _encoded(self._dataset, self._columns, where)
        self.name = posixpath.basename(path)
        self._identity = f"hf:{path}"
        self.class_names, self.templates = self._fields.class_names, self._fields.templates
        self.class_codes = self._fields.class_codes

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Record:
        index = check_index(index, len(self))
        row = self._dataset[index]
        path = f"{self._path}[{index}]"
        return self._fields.record(lambda key: get_nested(row, key), source=self._identity, index=index, path=path)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_dataset"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        where = f"'hf:{self._path}'"
        self._dataset = _encoded(_load(self._path, where), self._columns, where)


def _load(path: str, where: str) -> Any:
    """Opens a saved Dataset."""
    datasets = require("datasets", extra="hf", where=where)
    try:
        dataset = datasets.load_from_disk(path)
    except FileNotFoundError as error:
        folder, _, split = path.rpartition("/")
        splits = _folders(folder) if os.path.exists(os.path.join(folder, "dataset_dict.json")) else []
        if splits:
            raise UserError(
                f"{where}: no split {split!r} in there{did_you_mean(split, splits)}; choose one of: {', '.join(splits)}"
            ) from error
        raise UserError(
            f"{where}: no data set in there; give a folder that was written by datasets' save_to_disk"
        ) from error
    except Exception as error:  # of pyarrow, fsspec and datasets, about files that are damaged or out of reach
        raise UserError(f"{where}: cannot be opened ({error_reason(error)}); save the data set again") from error
    if isinstance(dataset, datasets.DatasetDict):
        raise UserError(f"{where}: has splits; choose one of: {', '.join(f'hf:{path}/{name}' for name in dataset)}")
    return dataset


def _unnamed_label(features: dict[str, Any], classes: dict[str, list[str]], options: SourceOptions) -> str:
    """The column of labels, texts or whole numbers, where it is wanted and nothing names its classes; else ""."""
    wanted = (options.label_key,) if options.label_key else LABEL_KEYS if options.classes else ()
    if any(name in classes for name in wanted):
        return ""
    kinds = ("string", "large_string", "int", "uint")
    is_label = lambda feature: str(getattr(feature, "dtype", "")).startswith(kinds)
    return next((name for name in wanted if name in features and is_label(features[name])), "")


def _folders(path: str) -> list[str]:
    return sorted(entry.name for entry in os.scandir(path) if entry.is_dir())


def _encoded(dataset: Any, columns: list[str], where: str) -> Any:
    """The columns that are used, with images, videos and sounds left as they are."""
    datasets = require("datasets", extra="hf", where=where)
    dataset = dataset.with_format(None).select_columns(columns)
    for name in columns:
        if isinstance(dataset.features[name], _encoded_features(datasets)):
            dataset = dataset.cast_column(name, type(dataset.features[name])(decode=False))
    return dataset


def _encoded_features(datasets: Any) -> tuple[type, ...]:
    """The features that are encoded files: those of this version."""
    return tuple(getattr(datasets, name) for name in ("Image", "Audio", "Video") if hasattr(datasets, name))


def _flat(name: str, feature: Any) -> Iterator[tuple[str, Any]]:
    """A column and the fields inside it; an element of a list counts as if it stood there alone."""
    yield name, feature
    while isinstance(feature, list) or hasattr(feature, "feature"):
        feature = feature[0] if isinstance(feature, list) else feature.feature
    if isinstance(feature, dict):
        for key, inner in feature.items():
            yield from _flat(f"{name}/{key}", inner)


def _is_image(datasets: Any, feature: Any) -> bool:
    """Whether a column can hold encoded images, videos or sounds."""
    if isinstance(feature, dict):
        return "bytes" in feature and _is_image(datasets, feature["bytes"])
    return isinstance(feature, _encoded_features(datasets)) or getattr(feature, "dtype", None) in (
        "binary",
        "large_binary",
    )
