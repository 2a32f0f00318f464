"""Inputs of a loaded classifier: files, images and arrays of several modalities, of which some may be missing."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32
from PIL import Image

from mmjax.data.bad_example import BadExample
from mmjax.data.loading.inputs import InputSpecs
from mmjax.errors import UserError, validate_choice
from mmjax.inference import inputs, modality_inputs


def to_modalities(
    modalities: Any,
    present: Any,
    names: Sequence[str],
    specs: InputSpecs,
    rates: Mapping[str, float] | None = None,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Arrays of several modalities, of which some may be missing, as a batch has them.

    Args:
      modalities: lists by name, of paths, of files as bytes, of arrays or PIL images, with None where an example lacks
        it; or an array [B, ...]. Of a model of one modality the list alone.
      present: [B, M] in sorted order of all names; None: those that are not None in `modalities`.
      names: all that the model has, sorted.
      specs: how they are prepared.
      rates: of raw frames or samples a second, by name.

    Returns:
      The batch's arrays by key, and `present`.

    Raises:
      UserError: another name, shape or number, a file that cannot be read, or an example without any modality.
    """
    if not isinstance(modalities, Mapping) and len(names) == 1:
        modalities = {names[0]: modalities}
    if not isinstance(modalities, Mapping) or not modalities:
        raise UserError(f"modalities: give a dict of arrays [B, ...] by name; the model has {', '.join(names)}")
    for name in (*modalities, *(rates or {})):
        validate_choice("modalities: the name", name, names)
    entries = {name: _entries(values, name) for name, values in modalities.items()}
    count = _common_length(entries)
    present = _to_presence(present, names, entries, count)
    rows = []
    for index in range(count):
        shown = {name: values[index] for name, values in entries.items() if present[index, names.index(name)]}
        blank = specs.blank()
        if specs.image is not None and "image" in shown:
            blank["image"] = inputs.prepare(shown.pop("image"), specs.image)
        record = {name: modality_inputs.read_entry(entry, name) for name, entry in shown.items()}
        known_rates = {name: rate for name, rate in (rates or {}).items() if name in record}
        try:
            prepared = specs.evaluate({"modalities": record, "rates": known_rates, "id": index})
        except BadExample as error:
            raise UserError(f"modalities: {error.detail} (example {index})") from error
        # What turns out to hold nothing (a row of blank cells) is absent, too.
        present[index] &= [name in prepared or name not in record for name in names]
        if not present[index].any():
            raise UserError(f"modalities: example {index} has no modality at all; leave it out")
        rows.append(blank | prepared)
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]} if rows else {}, present


def _entries(values: Any, name: str) -> list[Any]:
    """What there is of each example."""
    if isinstance(values, (str, bytes, os.PathLike)):
        raise UserError(f"modalities: {name} is one file alone; give a list of them")
    if isinstance(values, Image.Image) or (name == "image" and isinstance(values, np.ndarray) and values.ndim == 3):
        return [values]
    if not isinstance(values, Iterable):
        raise UserError(f"modalities: {name} is {type(values).__name__}; give a list of files or arrays")
    return list(values)


def _common_length(entries: Mapping[str, Sequence[Any]]) -> int:
    """The number of examples, of which every modality must have as many."""
    counts = {name: len(values) for name, values in entries.items()}
    count = next(iter(counts.values()))
    if set(counts.values()) != {count}:
        raise UserError(
            f"modalities: {', '.join(f'{n} of {name}' for name, n in counts.items())}; give as many of each"
        )
    return count


def _to_presence(present: Any, names: Sequence[str], entries: Mapping[str, Sequence[Any]], count: int) -> np.ndarray:
    """Which modality each example has, bool [B, M]; checked against the modalities that there are values of."""
    columns = [[entry is not None for entry in entries[name]] if name in entries else [False] * count for name in names]
    has_values = np.array(columns, bool).reshape(len(names), count).T
    present = has_values.copy() if present is None else np.array(present)
    if present.shape != has_values.shape or present.dtype != bool:
        raise UserError(
            f"present of type {present.dtype} and shape {list(present.shape)}: give bool [{count}, {len(names)}], a"
            f" column for each of {', '.join(names)}"
        )
    is_missing = (present & ~has_values).any(axis=0)
    if is_missing.any():
        missing = ", ".join(name for name, flag in zip(names, is_missing, strict=True) if flag)
        raise UserError(f"present: {missing} is said to be there, and not among the modalities")
    if not present.any(axis=1).all():
        raise UserError(f"present: example {int(np.argmin(present.any(axis=1)))} has no modality at all; leave it out")
    return present


def likeliest(
    probabilities: Float32[np.ndarray, "B C"], names: Sequence[str], top: int
) -> list[list[tuple[str, float]]]:
    """The likeliest classes of each example, by name, with their probabilities.

    Raises:
      UserError: there are not so many classes.
    """
    if not 0 < top <= len(names):
        raise UserError(f"top={top}: the model has {len(names)} classes; give a number from 1 to that")
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top].tolist()
    return [
        [(names[int(label)], float(row[label])) for label in labels]
        for row, labels in zip(probabilities, order, strict=True)
    ]
