"""Configs as JSON text and as flat fields; differences between configs."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.config import older_runs
from mmjax.config.schema import ConfigDict, base_config


def to_json(config: ConfigDict) -> str:
    """The config as JSON text; `from_json` reads it back."""
    return json.dumps(config.to_dict(), indent=2)


def from_json(text: str) -> ConfigDict:
    """Reads a stored config. Fields that came to exist since get their defaults, or what was done before they did."""
    stored = json.loads(text)
    config = base_config()
    with config.unlocked(), config.ignore_type():
        if stored.get("model", {}).get("kind", "two_tower") != "two_tower":
            config.model = ConfigDict(dict(init="openai"))  # another kind of model has other fields
        _update(config, stored)
        config.update_from_flattened_dict(older_runs.done_before(older_runs.flatten(stored)))
    return config.lock()


def _update(config: ConfigDict, stored: Mapping[str, Any]) -> None:
    for key, value in stored.items():
        if isinstance(value, Mapping):
            if not isinstance(config.get(key), ConfigDict):
                config[key] = ConfigDict()
            _update(config[key], value)
        else:
            config[key] = older_runs.as_tuple(value)


def flatten(config: ConfigDict) -> dict[str, Any]:
    """All fields by dotted path."""
    return older_runs.flatten(config)


def differences(old: ConfigDict, new: ConfigDict, fields: Sequence[str] = ("",)) -> list[str]:
    """Lists, as 'path: old -> new', the fields under any of the dotted prefixes `fields` that differ."""
    a, b = flatten(old), flatten(new)
    missing = "(absent)"
    return [
        f"{path}: {a.get(path, missing)} -> {b.get(path, missing)}"
        for path in sorted(set(a) | set(b))
        if path.startswith(tuple(fields)) and a.get(path, missing) != b.get(path, missing)
    ]
