"""Checks of a run's config and workdir, before anything is opened, made or changed."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from mmjax import tasks
from mmjax.config import serialize
from mmjax.config.field_origins import FROM_RECIPE, FieldOrigins
from mmjax.errors import GlobalUserError, UserError
from mmjax.parallel import log, process_agreement
from mmjax.tasks import validate_model
from mmjax.training import checkpoint, metrics_log, param_roles, unread_fields

# Fields that decide what a checkpoint holds: a workdir with others belongs to another model.
_STRUCTURE = (
    "model.",
    "data.tokenizer",
    "data.mean_std",
    "ema_decay",
    "optimizer.name",
    "optimizer.freeze",
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
_SIZES = (
    *("width", "depth", "heads", "mlp_dim", "image_size", "patch_size", "vocab_size", "context_length", "embed_dim"),
    *("queries", "pool_heads", "classes", "frames", "steps", "mel_bins", "patch_length", "tubelet_frames"),
    *("bottlenecks", "embed_width", "layers"),
)
# What float32 does to the logarithm of a scale at its limit.
_ROUNDING = 1e-6
_COUNTS = ("answers", "hidden", "numeric", "token_types")


def _of_model(field: str, names: Sequence[str]) -> bool:
    """Whether a field, by its path, is one of these somewhere in the model."""
    return field.startswith("model.") and field.rpartition(".")[2] in names


def check_config(config: ml_collections.ConfigDict, origins: FieldOrigins = FROM_RECIPE) -> None:
    """Checks plain numbers before anything is opened.

    Args:
      config: the run's config.
      origins: which of its values are not the recipe's.

    Raises:
      UserError: naming the field.
    """
    flat = serialize.flatten(config)
    integers = [field for field, value in flat.items() if type(value) is int]
    may_be_zero = {
        *validate_model.may_be_zero(config.model),
        *(field for field in integers if _of_model(field, _COUNTS)),
    }
    sizes = [field for field in integers if _of_model(field, _SIZES) and field not in may_be_zero]
    for field in (
        "steps",
        "batch_size",
        "microbatch",
        "loss.block_size",
        "data.window",
        "checkpoint.every",
        "eval.batch_size",
        "log.every",
        *sizes,
    ):
        if flat[field] < 1:
            raise UserError(f"{field}={flat[field]} must be at least 1")
    not_negative = (
        "eval.every",
        "schedule.warmup",
        "schedule.cooldown",
        "data.workers",
        "data.packed_rows",
        "data.prefetch",
        "data.retry_seconds",
        "seed",
        "optimizer.grad_clip",
        "optimizer.weight_decay",
        "optimizer.update_clip",
    )
    for field in (*not_negative, *sorted(may_be_zero & set(integers))):
        if flat[field] < 0:
            raise UserError(f"{field}={flat[field]} must not be negative")
    positive = ("optimizer.learning_rate", "model.logit_scale_init", "schedule.timescale", "optimizer.eps")
    for field in positive:
        if flat.get(field, 1) <= 0:
            raise UserError(f"{field}={flat[field]} must be positive")
    for field in ("optimizer.b1", "optimizer.b2"):
        if not 0.0 <= flat[field] < 1.0:
            raise UserError(f"{field}={flat[field]} is not in [0, 1)")
    for field in ("schedule.final", "optimizer.b2_cap", "optimizer.layer_decay.image", "optimizer.layer_decay.text"):
        if not 0.0 <= flat[field] <= 1.0:
            raise UserError(f"{field}={flat[field]} is not in [0, 1]")
    largest = config.model.get("max_logit_scale")
    if largest is not None and largest < 1:
        raise UserError(f"model.max_logit_scale={largest} must be at least 1, or none for no limit")
    if config.mesh.tensor < 1:
        raise UserError(f"mesh.tensor={config.mesh.tensor} must be at least 1; mesh.data or mesh.fsdp may be -1")
    for field in ("optimizer.freeze", "optimizer.decay", "init_paths"):
        if not all(isinstance(pattern, str) for pattern in flat[field]):
            raise UserError(f"{field}={flat[field]} wants path regexes, such as ('image/.*',)")
        for pattern in flat[field]:
            _check_pattern(field, flat[field], pattern)
    _check_initial_scale(config, origins.stored)
    if config.seed >= 2**32:
        raise UserError(f"seed={config.seed} must be below 2**32")
    if not 0.0 <= config.ema_decay < 1.0:
        raise UserError(f"ema_decay={config.ema_decay} is not in [0, 1)")
    if not config.data.train:
        raise UserError("data.train is empty; name the training data, e.g. --config.data.train=pairs:captions.tsv")
    profile = config.log.profile
    if profile and not (
        len(profile) == 2 and all(isinstance(step, int) for step in profile) and 1 <= profile[0] <= profile[1]
    ):
        raise UserError(f"log.profile={profile} wants (first step, last step)")
    for field, example in (
        ("mesh.rules", "((r'.*mlp.*', ('fsdp', None)),)"),
        ("optimizer.multipliers", "(('x', 0.1),)"),
    ):
        value_type = tuple if field == "mesh.rules" else (int, float)
        if not all(
            isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], value_type)
            for pair in flat[field]
        ):
            raise UserError(f"{field}={flat[field]} wants pairs in a tuple, such as {example}")
    checkpoint.check_settings(config.checkpoint.keep, config.checkpoint.keep_best, config.checkpoint.best_metric)
    metrics_log.check_settings(config)
    tasks.check_images(config, origins)
    unread_fields.check(config, origins)
    tasks.check_model(config)


def _check_pattern(field: str, patterns: tuple[str, ...], pattern: str) -> None:
    """Checks that a pattern of a field is one.

    Raises:
      UserError: it is empty, or no regular expression.
    """
    if not pattern:
        raise UserError(
            f"{field}={patterns}: an empty pattern names nothing; leave it out, or write {field}=() for none"
        )
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(f"{field}={pattern!r} is not a regular expression: {error}") from error


def _check_initial_scale(config: ml_collections.ConfigDict, stored: Mapping[str, Any]) -> None:
    """Checks that the first update would not cut the scale of the logits that a new run starts with.

    Raises:
      UserError: it would, see `check_scale`; not for a run that began so, and goes on with what it has learned.
    """
    value = config.model.get("logit_scale_init")
    is_taken = config.init_from and param_roles.matches(
        config.init_paths, "logit_scale"
    )  # then it is checked where it is read
    if value is not None and value != stored.get("model.logit_scale_init") and not is_taken:
        remedy = ", or a model.logit_scale_init within [1, the limit]"
        check_scale(config, math.log(value), f"model.logit_scale_init={value}", remedy)


def check_best_metric(config: ml_collections.ConfigDict, datasets: Sequence[str]) -> None:
    """Checks that some checkpoints are both saved and evaluated, on the data set of `checkpoint.best_metric`.

    Raises:
      UserError: naming the field of `checkpoint`.
    """
    if not config.checkpoint.keep_best:
        return
    name, known = config.checkpoint.best_metric, ", ".join(datasets) or "none, as data.eval is empty"
    if name.rpartition("/")[0] not in datasets:
        raise UserError(f"checkpoint.best_metric={name!r} wants DATASET/METRIC, with one of the data sets: {known}")
    metric = name.rpartition("/")[2]
    if metric in ("perplexity", "loss") or metric.endswith("_loss") or "rank" in metric:
        raise UserError(
            f"checkpoint.best_metric={name!r} is better when smaller; choose a rate such as acc1 or a recall"
        )
    saved, evaluated = config.checkpoint.every, config.eval.every
    if not evaluated:
        raise UserError(
            f"checkpoint.keep_best={config.checkpoint.keep_best} needs evaluations, but eval.every=0 is none before the"
            f" end; set it to {saved}, as checkpoint.every"
        )
    if saved % evaluated and evaluated % saved:
        raise UserError(
            f"checkpoint.keep_best={config.checkpoint.keep_best}: only a checkpoint that is evaluated can be the best;"
            f" make checkpoint.every={saved} a multiple of eval.every={evaluated}"
        )


def check_workdir(config: ml_collections.ConfigDict, workdir: Any) -> None:
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
        stored = serialize.from_json(path.read_text())
    except (OSError, ValueError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--workdir={workdir}: config.json is not a config ({reason}); give another workdir") from error
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
        and not _of_model(line.partition(":")[0], _EXECUTION)
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


def check_scale(config: ml_collections.ConfigDict, log_scale: Any, origin: str, remedy: str = "") -> None:
    """Checks that the first update would not cut the scale of the logits that a run goes on with.

    Args:
      config: the run's config.
      log_scale: the logarithm of the scale; None where there is none.
      origin: where it comes from, as messages say it.
      remedy: another one than lifting the limit.

    Raises:
      UserError: it lies outside [1, model.max_logit_scale], and is trained.
    """
    limit = config.model.get("max_logit_scale")
    if log_scale is None or limit is None or param_roles.matches(config.optimizer.freeze, "logit_scale"):
        return
    value = float(np.asarray(log_scale))
    if not -_ROUNDING <= value <= math.log(limit) + _ROUNDING:
        raise UserError(
            f"model.max_logit_scale={limit}: the scale of {origin} is {math.exp(value):.6g}, which the first update"
            f" would move to {1.0 if value < 0 else limit}; set --config.model.max_logit_scale=none{remedy}"
        )


def check_same_data(examples: list[dict[str, Any]], text: str) -> None:
    """Checks that all processes see the same training data; each calls it at the same point.

    Args:
      examples: what this one's follow from, see `TrainExamples.describe`.
      text: `data.train`.

    Raises:
      GlobalUserError: they do not.
    """
    everyone = process_agreement.all_gather_objects(examples)
    for number, others in enumerate(everyone):
        if others != everyone[0]:
            one, other = next((a, b) for a, b in zip(everyone[0], others, strict=True) if a != b)
            raise GlobalUserError(
                f"data.train={text!r}: process 0 sees {one['examples']} examples of {one['source']!r} and process"
                f" {number} {other['examples']}, or in other shards; give all hosts the same files and index"
            )


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
