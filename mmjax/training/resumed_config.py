"""Configs of runs that began with older code, and go on as they began.

A recipe may use a field that came to exist after the run began, and have other values of the fields around it since.
Reading that as a change would give the run another loss, other pictures or another optimizer halfway. So the run keeps
what it did, one line names what it keeps and what the recipe has, and its config.json goes on without the newer field,
so that the next start does the same. What the command line gives is no recipe's: it is done, and logged as any change.
"""

import json
from collections.abc import Collection
from typing import Any

import ml_collections

from mmjax.config import schema, serialize
from mmjax.config.field_origins import FieldOrigins
from mmjax.parallel import log


def keep(
    config: ml_collections.ConfigDict, workdir: Any, flags: Collection[str] = ()
) -> tuple[ml_collections.ConfigDict, FieldOrigins]:
    """The config that a run goes on with: what it did when it began, where its stored config is older than a field.

    Args:
      config: as the recipe and the command line have it.
      workdir: of the run; it may be new, or hold something else, of which `validate_run.check_workdir` tells.
      flags: fields that the command line gives, by path: they stay as it gives them.

    Returns:
      The config, and which of its values are not the recipe's.
    """
    (stored, then), now = _read(workdir), serialize.flatten(config)
    if not stored:
        return config, FieldOrigins(tuple(flags))
    changed = {name for name in flags if name not in now or now[name] != then.get(name)}
    before = {field: serialize.NEWER_FIELDS[field] for field in serialize.done_before(stored) if field in now}
    newer = tuple(name for name, past in before.items() if name not in changed and not past.checkpoint_knows)
    origins = FieldOrigins(tuple(flags), stored, newer)
    fields = {field: (field, *before[field].moved) for field in newer}
    kept = {
        name: then[name]
        for name in dict.fromkeys(name for names in fields.values() for name in names)
        if name not in changed and name in then and name in now and now[name] != then[name]
    }
    if not kept:
        return config, origins
    result = config.copy_and_resolve_references()
    with result.unlocked(), result.ignore_type():
        schema.accept_auto_or_bool(result)
        result.update_from_flattened_dict(kept)
    names = ", ".join(field for field, names in fields.items() if not kept.keys().isdisjoint(names))
    used = ", ".join(f"{name}={value!r} (not {now[name]!r})" for name, value in kept.items())
    log.info(
        f"this run began before {names} came to exist, and goes on as it began: {used};"
        " --config.FIELD=VALUE changes one of them"
    )
    return result.lock(), origins


def _read(workdir: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields in a workdir's config.json by path, and all that a run of them has; none where it cannot be read."""
    path = workdir / "config.json"
    try:
        text = path.read_text() if path.exists() else "{}"
        return serialize.flatten(json.loads(text)), serialize.flatten(serialize.from_json(text))
    except (OSError, ValueError, AttributeError):
        return {}, {}


def to_json(config: ml_collections.ConfigDict, origins: FieldOrigins) -> str:
    """The config as a workdir stores it: without the fields that it began without."""
    fields = json.loads(serialize.to_json(config))
    for path in origins.kept:
        *groups, name = path.split(".")
        group = fields
        for parent in groups:
            group = group[parent]
        del group[name]
    return json.dumps(fields, indent=2)
