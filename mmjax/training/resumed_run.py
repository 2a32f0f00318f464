"""Runs that go on: whether a workdir holds this one, and what it keeps of the config that it began with.

A recipe may use a field that came to exist after the run began, and have other values of the fields around it since.
Reading that as a change would give the run another loss, other pictures or another optimizer halfway. So the run keeps
what it did, one line names what it keeps and what the recipe has, and its config.json goes on without the newer field,
so that the next start does the same. What the command line gives is no recipe's: it is done, and logged as any change.
"""

import collections
import json
from collections.abc import Collection, Mapping
from typing import Any

import jax

from mmjax import plugin_imports, registry
from mmjax.config import schema, serialize
from mmjax.config.field_origins import FieldOrigins
from mmjax.config.schema import RunConfig
from mmjax.config.typed_groups import to_dict
from mmjax.errors import GlobalUserError, UserError
from mmjax.parallel import log, process_agreement
from mmjax.training import checkpoint, stored_meta
from mmjax.training.state import TrainState

# Fields that decide what a checkpoint holds: a workdir with others belongs to another model.
_STRUCTURE = (
    "model.",
    "data.tokenizer",
    "data.mean_std",
    "ema_decay",
    "optimizer.name",
    "optimizer.freeze",
    "optimizer.lora",
    "optimizer.momentum_dtype",
    "optimizer.b1",
    "optimizer.weight_decay",
)
# Rates may change in a resumed run as long as they stay on or off.
_ON_OFF = ("ema_decay", "optimizer.b1", "optimizer.weight_decay")
# How a model began and how it is run, not what it is: parameters are stored alike.
_EXECUTION = (
    *("init", "max_logit_scale", "scan", "remat", "remat_keep", "patch_dropout", "dropout", "drop_path"),
    "modality_dropout",
)


def keep(config: RunConfig, workdir: Any, flags: Collection[str] = ()) -> tuple[RunConfig, FieldOrigins]:
    """The config that a run goes on with: what it did when it began, where its stored config is older than a field.

    Args:
      config: as the recipe and the command line have it.
      workdir: of the run; it may be new, or hold something else, of which `check_workdir` tells.
      flags: fields that the command line gives, by path: they stay as it gives them.

    Returns:
      The config, and which of its values are not the recipe's.
    """
    (stored, then), now = _read(workdir), serialize.flatten(config)
    if not stored:
        return config, FieldOrigins(tuple(flags))
    changed = {name for name in flags if name not in now or now[name] != then.get(name)}
    newer_fields = serialize.newer_fields(stored)
    before = {field: newer_fields[field] for field in serialize.done_before(stored) if field in now}
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
    fields_kept = to_dict(config)
    for path, value in kept.items():
        _set(fields_kept, path, value)
    names = ", ".join(field for field, names in fields.items() if not kept.keys().isdisjoint(names))
    used = ", ".join(f"{name}={value!r} (not {now[name]!r})" for name, value in kept.items())
    log.info(
        f"this run began before {names} came to exist, and goes on as it began: {used};"
        " --config.FIELD=VALUE changes one of them"
    )
    return schema.parse(fields_kept), origins


def _set(fields: dict[str, Any], path: str, value: Any) -> None:
    *groups, name = path.split(".")
    for group in groups:
        fields = fields[group]
    fields[name] = value


def read_config(meta: Mapping[str, Any], origin: str) -> schema.ConfigDict:
    """The config that a checkpoint was made with.

    Args:
      meta: of the checkpoint.
      origin: what messages begin with.

    Raises:
      UserError: it has an unknown field, or a value of another type; names the plugins that it needs and that are not
        imported.
    """
    plugins = plugin_imports.read_stored(meta.get("plugins", []), origin)
    try:
        return serialize.from_json(json.dumps(meta["config"]), origin)
    except UserError as error:
        hint = "" if "--plugins=" in str(error) else plugin_imports.version_hint(plugins)
        raise UserError(f"{error}{hint}") from error


def compare_plugins(workdir: Any) -> list[str]:
    """Compares the plugins of a workdir's latest checkpoint to those imported, see `plugin_imports.compare_stored`.

    Returns:
      Notes on other versions, and on those that are not imported, which may be what the recipe wants.

    Raises:
      UserError: the checkpoint is damaged.
    """
    origin, plugins = _stored_plugins(workdir)
    notes = plugin_imports.compare_stored(plugins, origin)
    absent = [plugin for plugin in plugins if not plugin_imports.is_imported(plugin.module)]
    return notes + [f"note: {origin} was made with the plugin {plugin}, which is not imported" for plugin in absent]


def _stored_plugins(workdir: Any) -> tuple[str, list[plugin_imports.Plugin]]:
    """A workdir's latest checkpoint by name, and the plugins that it was made with; none without a checkpoint."""
    latest = checkpoint.Checkpoints(workdir / "checkpoints", read_only=True).latest_meta()
    if latest is None:
        return str(workdir), []
    step, meta = latest
    origin = f"checkpoint {step} of {workdir}"
    return origin, plugin_imports.read_stored(meta.get("plugins", []), origin)


def check_state(config: RunConfig, workdir: Any, state: TrainState) -> None:
    """Checks that the state of a plugin's update rule is that of a workdir's latest checkpoint, where there is one.

    Raises:
      UserError: it has other arrays; what changed of the rule's fields is listed.
    """
    name = config.optimizer.name
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints", read_only=True)
    latest = checkpoints.latest_meta() if name in registry.optimizers.added() else None
    if latest is None:
        return
    step, leaves = latest[0], jax.tree_util.tree_leaves_with_path(state.opt_state)
    here = collections.Counter(tuple(leaf.shape) for _, leaf in leaves)
    try:
        stored = collections.Counter(checkpoints.shapes(step, "opt_state").values())
    except checkpoint.DamagedCheckpoint:  # `restore_latest` says which
        return
    if stored == here:
        return
    then, now = _read(workdir)[1], serialize.flatten(config)
    fields = [path for path in now if path.startswith("optimizer.") and then.get(path) != now[path]]
    changed = "; ".join(f"{path}: {then.get(path)} -> {now[path]}" for path in fields)
    remedy = "give these values as they were" if changed else "its code has changed: install the version that it had"
    raise UserError(
        f"--workdir={workdir}: optimizer {name!r} has another state than at checkpoint {step}"
        f"{f' ({changed})' if changed else ''}; {remedy}, or give another workdir"
    )


def restore_latest(
    workdir: Any, checkpoints: checkpoint.Checkpoints, steps: int, abstract: TrainState
) -> tuple[int, Mapping[str, Any], TrainState | None]:
    """The latest whole checkpoint of a workdir: its step, its meta and its state; 0, {} and None where there is none.

    Damaged ones after it are named, and renamed to `STEP.damaged`. All processes call it alike.

    Args:
      workdir: of the run.
      checkpoints: in it.
      steps: of the run.
      abstract: shapes and shardings of the state.

    Raises:
      GlobalUserError: none is whole, or the run is past `steps`.
    """
    damaged = {}
    # The first host's look at a shared disk counts; another's may be older.
    for step in reversed(process_agreement.broadcast_from_0(checkpoints.all_steps())):
        try:
            meta = _read_meta(workdir, checkpoints, step)
            if step > steps:
                raise GlobalUserError(
                    f"steps={steps}: the workdir is already at step {step}; give more steps or another workdir"
                )
            state = checkpoints.restore(step, abstract)
        except checkpoint.DamagedCheckpoint as error:
            damaged[step] = str(error)
            continue
        for number, reason in damaged.items():
            moved = checkpoints.set_aside(number)
            log.info(f"warning: {reason.rpartition(';')[0]}; it is {moved.name} now, and checkpoint {step} is used")
        return step, meta, state
    if damaged:
        raise GlobalUserError(
            f"--workdir={workdir}: no checkpoint is whole, of {', '.join(map(str, damaged))};"
            f" the latest: {damaged[max(damaged)].rpartition(';')[0]}; restore one from a copy, or give another workdir"
        )
    return 0, {}, None


def _read_meta(workdir: Any, checkpoints: checkpoint.Checkpoints, step: int) -> dict[str, Any]:
    """A checkpoint's meta; where one process finds it damaged, it is in all of them."""
    damage, meta = None, {}
    with process_agreement.raise_on_all():
        process_agreement.wait_for(lambda: step in checkpoints.all_steps(), f"--workdir={workdir}: checkpoint {step}")
        try:
            meta = checkpoints.read_meta(step)
            stored_meta.check(meta, str(checkpoints.folder / str(step)))
        except checkpoint.DamagedCheckpoint as error:
            damage = str(error)
    if damage := next(filter(None, process_agreement.all_gather_objects(damage)), None):
        raise checkpoint.DamagedCheckpoint(damage)
    return meta


def _read(workdir: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields in a workdir's config.json by path, and all that a run of them has; none where it cannot be read."""
    path = workdir / "config.json"
    try:
        text = path.read_text() if path.exists() else "{}"
        return serialize.flatten(serialize.read_fields(text)), serialize.flatten(
            schema.parse(serialize.from_json(text))
        )
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}, {}


def to_json(config: RunConfig, origins: FieldOrigins) -> str:
    """The config as a workdir stores it: without the fields that it began without."""
    fields = json.loads(serialize.to_json(config))
    for path in origins.kept:
        *groups, name = path.split(".")
        group = fields
        for parent in groups:
            group = group[parent]
        del group[name]
    return json.dumps(fields, indent=2)


def check_workdir(config: RunConfig, workdir: Any) -> None:
    """Checks that a workdir with a run in it has this one; logs what else changed.

    Raises:
      UserError: the run in it has another model or optimizer; the differing fields are listed.
    """
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file; give a folder")
    checkpoint.check_folder(workdir / "checkpoints")
    path = workdir / "config.json"
    if not path.exists():
        return
    try:
        stored = schema.parse(serialize.from_json(path.read_text()))
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        hint = plugin_imports.version_hint(_stored_plugins(workdir)[1]) if isinstance(error, UserError) else ""
        remedy = hint or "; remove it to go on by the recipe alone, or give another workdir"
        raise UserError(f"--workdir={workdir}: config.json is not a config ({reason}){remedy}") from error
    changed = serialize.differences(stored, config)
    old, new = serialize.flatten(stored), serialize.flatten(config)
    if not old["data.train"]:
        raise UserError(
            f"--workdir={workdir} holds a model of `mmjax convert`, not a run; give another workdir and"
            f" --config.init_from={workdir}"
        )
    other = [
        line
        for line in changed
        if line.startswith(_STRUCTURE)
        and not _is_execution(line.partition(":")[0])
        and not any(line.startswith(field) and old[field] and new[field] for field in _ON_OFF)
    ]
    if other:
        raise UserError(
            f"--workdir={workdir} holds another model ({'; '.join(other)}); give another workdir or these values"
        )
    if old["batch_size"] != new["batch_size"]:
        raise UserError(
            f"batch_size={new['batch_size']}: the run in --workdir={workdir} has {old['batch_size']}, and its position"
            " in the data counts in such batches; give another workdir or that value"
        )
    for line in changed:
        log.info(f"changed since the run in this workdir began: {line}")


def _is_execution(field: str) -> bool:
    """Whether a field, by its path, is one of the model's that do not change what is stored."""
    return field.startswith("model.") and field.rpartition(".")[2] in _EXECUTION


def changed_data(examples: list[dict[str, Any]], meta: Mapping[str, Any], text: str) -> str | None:
    """A line on how the training data differs from a checkpoint's although the config names the same; None if not.

    None where they are the same, and where `data.train` names other data.
    """
    before = meta.get("data")
    if before is None or meta["config"]["data"]["train"] != text or before == examples:
        return None
    now = ", ".join(f"{part['examples']} of {part['source']!r}" for part in examples)
    was = ", ".join(f"{part['examples']} of {part['source']!r}" for part in before)
    return (
        f"warning: the examples of data.train={text!r}, or their order, are not what they were at the checkpoint"
        f" ({now} now, {was} at the time): within this epoch some may come twice and others not at all"
    )
