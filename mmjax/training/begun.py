"""Runs that began with older code: what their stored config does not say yet is done as it was done then.

A recipe may use a field that came to exist after the run began. Reading it as a change would give the run other
pictures or another optimizer halfway. So the run keeps what it did, it is told, and its config.json goes on without
the field, so that the next start does the same.
"""

import dataclasses
import json
from collections.abc import Collection, Mapping
from typing import Any

import ml_collections

from mmjax import config as config_lib
from mmjax.training import logs


@dataclasses.dataclass(frozen=True)
class Before:
    """What was done before a field came to exist.

    Attributes:
      value: of the field, that does the same.
      along: fields that mean something with that value only, and are kept as they are stored.
    """

    value: Any
    along: tuple[str, ...] = ()


# Of `data.resize_on` the checkpoint itself says what was done, see `tasks.choose_frame`.
FIELDS: Mapping[str, Before] = {
    "data.train_resize": Before("crop", along=("data.crop_scale", "data.crop_ratio")),
    "data.randaugment_policy": Before("torchvision", along=("data.randaugment",)),
}


def keep(config: ml_collections.ConfigDict, workdir: Any) -> tuple[ml_collections.ConfigDict, tuple[str, ...]]:
    """Gives a run what it did when it began, where its stored config is older than a field.

    Args:
      config: as the recipe and the command line have it.
      workdir: of the run; it may be new, or hold something else, of which `checks.check_workdir` tells.

    Returns:
      The config to go on with, and the fields that the stored one lacks.
    """
    path = workdir / "config.json"
    try:
        text = path.read_text() if path.exists() else ""
        stored = config_lib.from_json(text) if text else None
        names = _names(json.loads(text)) if text else set()
    except (OSError, ValueError, AttributeError):
        return config, ()
    if stored is None:
        return config, ()
    now, then = config_lib.flatten(config), config_lib.flatten(stored)
    lacking = tuple(field for field in FIELDS if field in now and field not in names)
    if all(now[field] == FIELDS[field].value for field in lacking):
        return config, lacking
    result = config.copy_and_resolve_references()
    with result.unlocked(), result.ignore_type():
        config_lib.accept_auto_or_bool(result)
        for field in lacking:
            before = FIELDS[field]
            if now[field] == before.value:
                continue
            kept = {field: before.value} | {name: then[name] for name in before.along if name in then}
            result.update_from_flattened_dict(kept)
            told = ", ".join(f"{name}={value!r}" for name, value in kept.items())
            logs.say(f"{field}={now[field]!r} came to exist after this run began, which goes on as it began: {told}")
    return result.lock(), lacking


def to_json(config: ml_collections.ConfigDict, lacking: Collection[str]) -> str:
    """The config as a workdir stores it: without the fields that it began without."""
    fields = json.loads(config_lib.to_json(config))
    for path in lacking:
        *groups, name = path.split(".")
        group = fields
        for each in groups:
            group = group[each]
        del group[name]
    return json.dumps(fields, indent=2)


def _names(fields: Mapping[str, Any], prefix: str = "") -> set[str]:
    """Dotted paths of all fields of a stored config."""
    found = set()
    for key, value in fields.items():
        found |= _names(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}"}
    return found
