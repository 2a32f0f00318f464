"""Data sets that TensorFlow Datasets has prepared, in ArrayRecord format; TensorFlow is not needed to read them."""

import os
from typing import Any

from mmjax.data.column_inference import choose_fields
from mmjax.data.source_protocols import DEFAULT_OPTIONS, SourceOptions
from mmjax.data.sources.arrayrecord import ExampleProtos, RecordFiles, check_readable
from mmjax.errors import UserError, did_you_mean, validate_choice
from mmjax.io.patterns import error_reason
from mmjax.io.reader import local_path
from mmjax.utils.optional_imports import require


class Tfds(ExampleProtos):
    """A split of a prepared data set.

    Image features are given as they were encoded. The first ClassLabel (one called `label` before others) gives
    classes; sets without one must have captions. Fields inside others are named by their path: `captions/text`.

    Args:
      path: `NAME[:VERSION]/SPLIT` or `NAME/CONFIG[:VERSION]/SPLIT`, looked for in the folder that TFDS_DATA_DIR names
        (by default ~/tensorflow_datasets), or `DIR/SPLIT` where DIR holds `dataset_info.json`. SPLIT may be a slice,
        such as `train[:10%]`.
      options: how to read it; `image_key` and `caption_keys` name features.
      field: config field to name in errors.

    Raises:
      UserError: on a set that is not there or has another format, an unknown split, or features without image or
        captions.
    """

    def __init__(self, path: str, *, options: SourceOptions = DEFAULT_OPTIONS, field: str = "data.train"):
        where = f"{field}='tfds:{path}'"
        tfds = require("tensorflow_datasets", extra="tfds", where=where)
        name, _, split = path.rpartition("/")
        if not name or not split:
            raise UserError(f"{where}: no split; write tfds:NAME/SPLIT, such as tfds:coco_captions/train")
        builder = _builder(tfds, name, where)
        info = builder.info
        _set_array_record(tfds, info, str(builder.data_path), where)
        splits = sorted(info.splits)
        if split.partition("[")[0].strip() not in splits and "+" not in split:
            validate_choice(f"{where}: split", split.partition("[")[0].strip(), splits)
        try:
            parts = info.splits[split].file_instructions
        except ValueError as error:
            raise UserError(
                f"{where}: split {split!r} cannot be read ({error_reason(error)}); write train[:10%]"
            ) from error
        parts = [part for part in parts if part.take > 0]
        if not parts:
            raise UserError(f"{where}: split {split!r} has no examples; choose another one")
        paths = [os.fspath(part.filename) for part in parts]
        check_readable(paths[0], where)
        if not any(map(os.path.exists, paths)):
            raise UserError(f"{where}: {paths[0]!r} is not there, nor any other file of it; prepare the set again")
        features = _flat(tfds.features, info.features)
        fields = choose_fields(
            list(features),
            options=options,
            where=where,
            images=[key for key, feature in features.items() if _is_image(tfds.features, feature)],
            classes={
                key: feature.names
                for key, feature in features.items()
                if isinstance(feature, tfds.features.ClassLabel) and feature.names
            },
        )
        files = RecordFiles(paths, [part.skip for part in parts], [part.take for part in parts])
        super().__init__(f"{info.name}/{split}", f"tfds:{info.full_name}", files, fields)


def _builder(tfds: Any, name: str, where: str) -> Any:
    """Opens a prepared set from its files alone."""
    folder = local_path(name)
    if os.path.exists(os.path.join(folder, "dataset_info.json")):
        name = folder
    elif name.startswith(("/", ".", "~")) or "://" in name:
        raise UserError(f"{where}: no dataset_info.json in {name!r}; give a version's folder, such as DIR/my_set/1.0.0")
    try:
        if name == folder and os.path.isdir(folder):
            return tfds.builder_from_directory(folder)
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=_data_dir())
    except tfds.core.registered.DatasetNotFoundError as error:
        data_dir = _data_dir() or "~/tensorflow_datasets"
        prepared = _folders(data_dir)
        near = did_you_mean(name.partition(":")[0].partition("/")[0], prepared)
        contents = f"it has {', '.join(prepared[:20])}" if prepared else "it is empty or missing"
        raise UserError(
            f"{where}: {name!r} is not prepared in {data_dir!r}: {contents}{near}; "
            "check version and config, or set TFDS_DATA_DIR"
        ) from error
    except Exception as error:  # TFDS has many errors for files that are not as it wrote them
        raise UserError(f"{where}: cannot be opened ({error_reason(error)}); prepare the set again") from error


def _data_dir() -> str | None:
    return os.environ.get("TFDS_DATA_DIR") or None


def _folders(path: str) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(os.path.expanduser(path)) if entry.is_dir())
    except OSError:
        return []


def _set_array_record(tfds: Any, info: Any, path: str, where: str) -> None:
    """Makes `info` speak of the ArrayRecord files, which may be one of several formats a set is in."""
    wanted = tfds.core.FileFormat.ARRAY_RECORD
    if info.file_format == wanted:
        return
    if wanted not in info.available_file_formats():
        has = info.file_format.value if info.file_format else "an unknown"
        raise UserError(
            f"{where}: is in {has} format; prepare it with file_format='array_record', or run python -m "
            f"tensorflow_datasets.scripts.convert_format --dataset_version_dir={path} --out_file_format=array_record"
        )
    info.set_file_format(wanted, override=True, override_if_initialized=True)


def _flat(kinds: Any, feature: Any, path: str = "") -> dict[str, Any]:
    """Features by their path; one in a sequence counts as if it stood there alone."""
    if isinstance(feature, kinds.FeaturesDict):
        inner = {}
        for key, inner_feature in feature.items():
            inner |= _flat(kinds, inner_feature, f"{path}/{key}" if path else key)
        return inner
    if isinstance(feature, kinds.Sequence) and isinstance(feature.feature, kinds.FeaturesDict):
        return _flat(kinds, feature.feature, path)
    return {path: feature}


def _is_image(kinds: Any, feature: Any) -> bool:
    """An encoded image: an Image, or bytes that somebody encoded."""
    return isinstance(feature, kinds.Image) or (
        type(feature) is kinds.Tensor
        and feature.shape == ()
        and str(feature.dtype) in ("object", "bytes", "<class 'bytes'>")
    )
