"""Inputs of loaded models beside images and texts: files, arrays, or arrays with their rates, as a model takes them."""

import dataclasses
import math
import numbers
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mmjax.data.bad_example import BadExample
from mmjax.data.formats.input_files import inputs_of_bytes, inputs_of_file, kind_of, suffix_of
from mmjax.data.formats.media_bytes import media_format
from mmjax.data.loading.inputs import InputSpecs, ModalitySpec
from mmjax.data.record import Record
from mmjax.errors import UserError
from mmjax.evaluation import task_choice
from mmjax.evaluation.views import view_specs
from mmjax.io.reader import Reader

_WORDS = {"image": "an image", "video": "a video", "audio": "a sound"}
_MANY = {"image": "images", "video": "videos", "audio": "sounds"}


def specs_in_views(task: Any, name: str = "", views: Mapping[str, int | None] | None = None) -> InputSpecs:
    """How all that a model sees is prepared: in the clips and crops of its run's `eval`, or in those that a call names.

    Args:
      task: the model's.
      name: of the modality that `views` are of.
      views: by field of `eval.NAME`; None for the run's.

    Raises:
      UserError: as `view_specs`.
    """
    settings = task.config.eval
    if changed := {field: count for field, count in (views or {}).items() if count is not None}:
        group = dataclasses.replace(getattr(settings, name), **changed)
        settings = dataclasses.replace(settings, **{name: group})
    task_choice.check_numbers(settings)
    return view_specs(task, settings) or task.input_specs


def to_arrays(values: Any, spec: ModalitySpec, rate: float | None = None) -> np.ndarray:
    """Examples of a modality as a batch has them.

    Args:
      values: a list, or one array [B, ...]: paths of files, their bytes, raw arrays, or arrays as the encoder has them;
        of a table with named columns rows, by the columns' names or in their order.
      spec: how they are prepared.
      rate: of raw arrays: samples or frames a second.

    Raises:
      UserError: one cannot be prepared, by its number.
    """
    entries = to_entries(values, spec.name)
    check_rate(rate)
    arrays = []
    for index, entry in enumerate(entries):
        record = Record(id=index, modalities={spec.name: read_entry(entry, spec.name)})
        if rate is not None:
            record["rates"] = {spec.name: float(rate)}
        try:
            array = spec.array(record, None)
        except (BadExample, UserError) as error:
            raise UserError(f"{spec.name} {index}: {error}") from error
        if array is None:
            raise UserError(f"{spec.name} {index} is None; leave it out")
        arrays.append(array)
    return np.stack(arrays) if arrays else np.zeros((0, *spec.shape), spec.dtype)


def to_entries(values: Any, name: str) -> list[Any]:
    """The examples of a modality, one by one.

    Raises:
      UserError: no list, or one file alone.
    """
    if isinstance(values, Mapping) and name != "table":
        raise UserError(f"{name}: a dictionary; give a list of paths, files as bytes, or arrays")
    if isinstance(values, Mapping):
        raise UserError(f"{name}: one row alone; give a list of rows, such as [{{{next(iter(values), '')!r}: ...}}]")
    if isinstance(values, (str, bytes, os.PathLike)):
        raise UserError(f"{name}: one file alone; give a list of them, such as [{_shown(values)}]")
    if not isinstance(values, Iterable):
        raise UserError(f"{name}: {type(values).__name__} is no list; give a list of paths, files as bytes, or arrays")
    return list(values)


def check_rate(rate: Any, where: str = "rate") -> None:
    """Checks frames or samples a second.

    Raises:
      UserError: it is neither None nor a finite number above 0.
    """
    if rate is None:
        return
    if isinstance(rate, bool) or not isinstance(rate, numbers.Real) or not 0 < float(rate) < math.inf:
        raise UserError(f"{where}={rate!r}: give frames or samples a second, one number above 0")


def check_rates(rates: Any, names: Iterable[str]) -> dict[str, float]:
    """Checks rates by modality; gives them as a dictionary.

    Args:
      rates: of raw frames or samples a second; None for none.
      names: of the modalities that may have one.

    Raises:
      UserError: they are no dictionary, one is of another modality, or is no rate.
    """
    if rates is None:
        return {}
    names = list(names)
    if not isinstance(rates, Mapping):
        raise UserError(f"rates={rates!r}: give a dictionary by modality, such as {{{names[0]!r}: {rates!r}}}")
    for name, rate in rates.items():
        if name not in names:
            raise UserError(f"rates has {name!r}; the model takes {', '.join(map(repr, names))}")
        check_rate(rate, f"rates[{name!r}]")
    return dict(rates)


def check_kinds(values: Any, seen: str) -> None:
    """Checks that no example is evidently of another modality than what a model sees.

    Args:
      values: a list of examples; anything else is not looked at.
      seen: what the model sees; of others than `image`, `video` and `audio` nothing is checked.

    Raises:
      UserError: one is, by the ending of its path, the first bytes of a file, or the shape of an array.
    """
    if not isinstance(values, list | tuple) or seen not in _WORDS:
        return
    for index, entry in enumerate(values):
        kinds = _kinds_of(entry)
        if kinds and seen not in kinds:
            kind = _WORDS[kinds[0]]
            which = f" ({_shown(entry)})" if isinstance(entry, str | os.PathLike) else ""
            raise UserError(f"number {index}{which} is {kind}, and this model sees {_MANY[seen]}; give those")


def _kinds_of(entry: Any) -> tuple[str, ...]:
    """The modalities that an example may be of; () where that cannot be known."""
    if isinstance(entry, str | os.PathLike):
        suffix = suffix_of(os.fspath(entry))
        return tuple(inputs_of_file(b"", suffix)) if kind_of(suffix) in _WORDS else ()
    if isinstance(entry, bytes):
        return tuple(inputs_of_bytes(entry)) if media_format(entry) else ()
    if isinstance(entry, np.ndarray) and entry.dtype == np.uint8 and entry.ndim in (3, 4):
        return ("image" if entry.ndim == 3 else "video",)
    return ("audio",) if isinstance(entry, np.ndarray) and entry.dtype.kind == "f" and entry.ndim == 1 else ()


def read_entry(entry: Any, name: str) -> Any:
    """A file's bytes where a path is given; anything else as an array.

    Raises:
      UserError: the file cannot be read.
    """
    is_raw = isinstance(entry, {"table": (str, list, tuple, Mapping), "text": str}.get(name, bytes))
    if is_raw or isinstance(entry, bytes):
        return entry
    if isinstance(entry, Mapping):
        raise UserError(f"{name}: a dictionary; give a path, a file as bytes, or an array")
    if isinstance(entry, (str, os.PathLike)):
        try:
            return Reader().read(os.fspath(entry))
        except OSError as error:
            raise UserError(f"{name}: {_shown(entry)} cannot be read: {error}") from error
    return np.asarray(entry)


def _shown(value: Any) -> str:
    return "bytes" if isinstance(value, bytes) else repr(os.fspath(value))[:200]
