"""Runs that began with older code: what their stored config does not say yet is done as it was done then.

A recipe may use a field that came to exist after the run began. Reading it as a change would give the run other
pictures or another optimizer halfway. So the run keeps what it did, with the fields that belong to it, one line names
what it keeps and what recipe or command line asked for, and its config.json goes on without the field, so that the next
start does the same.
"""

import json
from collections.abc import Collection
from typing import Any

import ml_collections

from mmjax import config as config_lib
from mmjax import older
from mmjax.training import logs


def stored_fields(workdir: Any) -> dict[str, Any]:
    """The fields in a workdir's config.json, by path; none without a run that can be read."""
    path = workdir / "config.json"
    try:
        return older.flatten(json.loads(path.read_text())) if path.exists() else {}
    except (OSError, ValueError, AttributeError):
        return {}


def keep(config: ml_collections.ConfigDict, workdir: Any) -> tuple[ml_collections.ConfigDict, tuple[str, ...]]:
    """Gives a run what it did when it began, where its stored config is older than a field.

    Args:
      config: as the recipe and the command line have it.
      workdir: of the run; it may be new, or hold something else, of which `checks.check_workdir` tells.

    Returns:
      The config to go on with, and the fields that the stored one lacks.
    """
    stored, now = stored_fields(workdir), config_lib.flatten(config)
    if not stored:
        return config, ()
    before = {field: value for field, value in older.done_before(stored).items() if field in now}
    before = {field: value for field, value in before.items() if not older.FIELDS[field].checkpoint_knows}
    kept = {field: value for field, value in before.items() if now[field] != value}
    kept |= {name: stored[name] for field in before for name in older.FIELDS[field].moved if name in stored}
    changed = [field for field, value in kept.items() if field in now and now[field] != value]
    if not changed:
        return config, tuple(before)
    along = [name for field in before if field in changed for name in older.FIELDS[field].along if name in stored]
    kept = {field: kept[field] for field in changed} | {name: stored[name] for name in along}
    result = config.copy_and_resolve_references()
    with result.unlocked(), result.ignore_type():
        config_lib.accept_auto_or_bool(result)
        result.update_from_flattened_dict(kept)
    newer = ", ".join(field for field in before if not {field, *older.FIELDS[field].moved}.isdisjoint(changed))
    used = ", ".join(f"{name}={value!r} (not {now[name]!r})" for name, value in kept.items() if now[name] != value)
    logs.say(f"this run began before {newer} came to exist, and goes on as it began: {used}")
    return result.lock(), tuple(before)


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
