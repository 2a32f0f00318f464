"""Checks of a run's config before anything is opened, made or changed: numbers, patterns, fields that nothing reads."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mmjax import registry, tasks
from mmjax.config import schema, serialize
from mmjax.config.field_origins import FROM_RECIPE, FieldOrigins
from mmjax.config.schema import RunConfig
from mmjax.errors import GlobalUserError, UserError
from mmjax.evaluation import evaluation_task, task_choice
from mmjax.models.config import ContrastConfig
from mmjax.models.fusion.config import FusedConfig
from mmjax.models.image_config import ResnetEncoderConfig
from mmjax.parallel import process_agreement
from mmjax.training import kept_checkpoints, metrics_log, param_roles, update_rules
from mmjax.training.optimizer import load_rule

# Which schedules read a field that not all of them read; of optimizers their rules say it.
_SCHEDULES = {
    "schedule.timescale": ("rsqrt",),
    "schedule.final_of": ("rsqrt",),
    "schedule.decay_rate": ("step",),
    "schedule.decay_every": ("step",),
}
# What float32 does to the logarithm of a scale at its limit.
_ROUNDING = 1e-6


def check_config(config: RunConfig, origins: FieldOrigins = FROM_RECIPE) -> None:
    """Checks plain numbers before anything is opened.

    Args:
      config: the run's config.
      origins: which of its values are not the recipe's.

    Raises:
      UserError: naming the field.
    """
    flat = serialize.flatten(config)
    for field in (
        "steps",
        "batch_size",
        "microbatch",
        "loss.block_size",
        "data.window",
        "checkpoint.every",
        "eval.batch_size",
        "log.every",
    ):
        if flat[field] < 1:
            raise UserError(f"{field}={flat[field]} must be at least 1")
    tasks.check_sizes(config)
    not_negative = (
        "eval.every",
        "schedule.warmup",
        "schedule.cooldown",
        "data.workers",
        "data.packed_rows",
        "data.prefetch",
        "data.retry_seconds",
        "data.max_bad_fraction",
        "seed",
        "optimizer.grad_clip",
        "optimizer.weight_decay",
        "optimizer.update_clip",
        "optimizer.lora.rank",
    )
    for field in not_negative:
        if flat[field] < 0:
            raise UserError(f"{field}={flat[field]} must not be negative")
    positive = ("optimizer.learning_rate", "schedule.timescale", "optimizer.eps", "optimizer.lora.alpha")
    for field in positive:
        if not 0 < flat.get(field, 1) < math.inf:
            raise UserError(f"{field}={flat[field]} must be positive and finite")
    for field in ("optimizer.b1", "optimizer.b2"):
        if not 0.0 <= flat[field] < 1.0:
            raise UserError(f"{field}={flat[field]} is not in [0, 1)")
    for field in ("schedule.final", "optimizer.b2_cap", "optimizer.layer_decay.image", "optimizer.layer_decay.text"):
        if not 0.0 <= flat[field] <= 1.0:
            raise UserError(f"{field}={flat[field]} is not in [0, 1]")
    if config.mesh.tensor < 1:
        raise UserError(f"mesh.tensor={config.mesh.tensor} must be at least 1; mesh.data or mesh.fsdp may be -1")
    for field in ("optimizer.freeze", "optimizer.decay", "init_paths", "optimizer.lora.which", "optimizer.lora.full"):
        for pattern in flat[field]:
            _check_pattern(field, flat[field], pattern)
    for pattern, _ in config.init_map:
        _check_pattern("init_map", tuple(pattern for pattern, _ in config.init_map), pattern)
    _check_initial_scale(config, origins.stored)
    if config.seed >= 2**32:
        raise UserError(f"seed={config.seed} must be below 2**32")
    if not 0.0 <= config.ema_decay < 1.0:
        raise UserError(f"ema_decay={config.ema_decay} is not in [0, 1)")
    if not config.data.train:
        raise UserError("data.train is empty; name the training data, e.g. --config.data.train=pairs:captions.tsv")
    profile = config.log.profile
    if profile and not 1 <= profile[0] <= profile[1]:
        raise UserError(f"log.profile={profile} wants (first step, last step)")
    load_rule(config.optimizer)
    for name in config.eval.tasks:
        evaluation_task.load(name)
    task_choice.check_numbers(config.eval)
    kept_checkpoints.check_settings(config.checkpoint)
    metrics_log.check_settings(config.log)
    tasks.check_images(config, origins)
    tasks.check_table(config)
    check_unread(config, origins)
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


def check_statistics(config: RunConfig) -> None:
    """Checks that a tower has a head to learn, and with batch norm, whose statistics nothing here makes, weights.

    Raises:
      UserError: it has not.
    """
    image = getattr(config.model, "image", None)
    if isinstance(config.model, FusedConfig) and not config.model.classes:
        raise UserError("model.classes=0: a tower without a head has nothing to learn; set how many classes there are")
    if isinstance(image, ResnetEncoderConfig) and not config.init_from:
        raise UserError(
            "model.image.kind='resnet' without init_from: the statistics of its batch norm are fixed, so that nothing"
            " would be normalised; set init_from, or take model.image.kind='convnext', which is trained from scratch"
        )


def _check_initial_scale(config: RunConfig, stored: Mapping[str, Any]) -> None:
    """Checks that the first update would not cut the scale of the logits that a new run starts with.

    Raises:
      UserError: it would, see `check_scale`; not for a run that began so, and goes on with what it has learned.
    """
    value = config.model.logit_scale_init if isinstance(config.model, ContrastConfig) else None
    is_taken = config.init_from and param_roles.matches(
        config.init_paths, "logit_scale"
    )  # then it is checked where it is read
    if value is not None and value != stored.get("model.logit_scale_init") and not is_taken:
        remedy = ", or a model.logit_scale_init within [1, the limit]"
        check_scale(config, math.log(value), f"model.logit_scale_init={value}", remedy)


@dataclasses.dataclass(frozen=True)
class _Unread:
    """A field that would change nothing.

    Attributes:
      field: by path.
      message: what is wrong with it, and the remedy.
      choices: the fields whose values leave it unread; none where it should be set otherwise whatever they are.
    """

    field: str
    message: str
    choices: tuple[str, ...]


def check_unread(config: RunConfig, origins: FieldOrigins = FROM_RECIPE) -> None:
    """Checks that no field has been set that would change nothing, by who also chose what leaves it unread.

    Args:
      config: the run's config.
      origins: which of its values are not the recipe's. What a run began with is let be, and what a recipe sets beside
        another choice of the command line.

    Raises:
      UserError: some have, naming what reads them.
    """
    mistakes = [unread.message for unread in _find_unread(config, origins) if not _is_overruled(unread, origins)]
    if mistakes:
        raise UserError("; ".join(mistakes))


def note_unread(config: RunConfig, origins: FieldOrigins = FROM_RECIPE) -> str | None:
    """A line on a recipe's fields that are not read since the command line chose otherwise; see `check_unread`."""
    overruled = [unread for unread in _find_unread(config, origins) if _is_overruled(unread, origins)]
    if not overruled:
        return None
    flat = serialize.flatten(config)
    fields = ", ".join(f"{unread.field}={flat[unread.field]!r}" for unread in overruled)
    choices = dict.fromkeys(name for unread in overruled for name in unread.choices if name in origins.flags)
    chosen = ", ".join(f"{name}={flat[name]!r}" for name in choices)
    return f"note: what the recipe sets and {chosen} does not read: {fields}"


def _is_overruled(unread: _Unread, origins: FieldOrigins) -> bool:
    """Whether a recipe's field is unread by the choice of the command line."""
    return unread.field not in origins.flags and any(choice in origins.flags for choice in unread.choices)


def _find_unread(config: RunConfig, origins: FieldOrigins) -> list[_Unread]:
    """The fields that have been set and are not read, each once."""
    flat, default = serialize.flatten(config), serialize.flatten(schema.base_config())
    first: dict[str, _Unread] = {}
    for unread in _list_unread(flat, default):
        value = flat[unread.field]
        if value != default[unread.field] and not origins.is_as_begun(unread.field, value):
            first.setdefault(unread.field, unread)
    return list(first.values())


def _list_unread(flat: Mapping[str, Any], default: Mapping[str, Any]) -> Iterator[_Unread]:
    """The fields that are not read, whether they have been set or not."""

    def unread(field, reason, remedy, *choices):
        return _Unread(field, f"{field}={flat[field]!r} is not read{reason}; {remedy}", choices)

    def leave(field):
        return f"leave it at {default[field]!r}"

    optimizer, schedule = flat["optimizer.name"], flat["schedule.name"]
    for name in registry.objectives.added():
        for field in (path for path in flat if path.startswith(f"loss.{name}.") and not flat[f"objectives.{name}"]):
            yield unread(
                field, f" with objectives.{name}=0", f"give that a weight, or {leave(field)}", f"objectives.{name}"
            )
    for field, readers in {**_optimizer_fields(flat), **_SCHEDULES}.items():
        choice = f"{field.partition('.')[0]}.name"
        if field in flat and flat[choice] not in readers:
            remedy = f"{leave(field)}, or choose one that reads it: {', '.join(readers)}"
            yield unread(field, f" with {choice}={flat[choice]!r}", remedy, choice)
    if not flat["optimizer.b1"]:
        field = "optimizer.momentum_dtype"
        reason = f", as {optimizer} has no momentum with optimizer.b1=0"
        yield unread(field, reason, f"set that, or {leave(field)}", "optimizer.name", "optimizer.b1")
    if not flat["optimizer.lora.rank"]:
        for field in ("optimizer.lora.alpha", "optimizer.lora.which", "optimizer.lora.full"):
            yield unread(field, " with optimizer.lora.rank=0", f"set that, or {leave(field)}", "optimizer.lora.rank")
    if not flat["init_from"]:  # recipes have `init_paths` for those who set it
        yield unread("init_map", " without init_from", f"set that, or {leave('init_map')}", "init_from")
    weight_decay = flat["optimizer.weight_decay"]
    if not weight_decay:
        for field in ("optimizer.decay", "optimizer.decay_scaled_by_lr"):
            if flat[field] != ():  # which says the same
                reason = " with optimizer.weight_decay=0"
                yield unread(field, reason, f"set that, or {leave(field)}", "optimizer.weight_decay")
    elif flat["optimizer.decay"] == ():
        yield _Unread(
            "optimizer.decay",
            f"optimizer.decay=() leaves optimizer.weight_decay={weight_decay} nothing to decay; set"
            " optimizer.weight_decay=0, or name what decays",
            (),
        )
    if schedule not in ("cosine", "step") and not flat["schedule.cooldown"]:
        for field in ("schedule.final", "schedule.final_of"):
            remedy = f"set schedule.cooldown, the steps in which the rate falls to it, or {leave(field)}"
            reason = f" with schedule.name={schedule!r} without a cool-down"
            yield unread(field, reason, remedy, "schedule.name", "schedule.cooldown")
    if not flat["schedule.warmup"]:
        field = "schedule.from_zero"
        yield unread(field, " with schedule.warmup=0", f"set that, or {leave(field)}", "schedule.warmup")
    settings = {name.removeprefix("eval."): value for name, value in flat.items() if name.startswith("eval.")}
    for name, readers in task_choice.unread_fields(flat["eval.tasks"], settings).items():
        field = f"eval.{name}"
        remedy = f"{leave(field)}, or name one that reads it: {', '.join(readers)}"
        yield unread(field, f" with eval.tasks={flat['eval.tasks']!r}", remedy, "eval.tasks")
    if "model.image.image_size" not in flat:  # no images are prepared, see `tasks.check_images`
        return
    if flat["data.train_resize"] != "crop":
        for field in ("data.crop_scale", "data.crop_ratio"):
            reason = f" with data.train_resize={flat['data.train_resize']!r}"
            yield unread(field, reason, f"{leave(field)}, or set data.train_resize='crop'", "data.train_resize")
    if not any(flat["data.color_jitter"]):
        field, reason = "data.color_jitter_prob", f" with data.color_jitter={flat['data.color_jitter']}, which is off"
        yield unread(field, reason, f"give that strengths, or {leave(field)}", "data.color_jitter")


def _optimizer_fields(flat: Mapping[str, Any]) -> dict[str, list[str]]:
    """The rules that read a field of `optimizer` that not all of them read, and those of plugins theirs."""
    readers: dict[str, list[str]] = {}
    for name in registry.optimizers:
        fields = [f"optimizer.{field}" for field in update_rules.load(name).reads]
        fields += [path for path in flat if path.startswith(f"optimizer.{name}.")]
        for field in fields:
            readers.setdefault(field, []).append(name)
    return readers


def check_best_metric(config: RunConfig, datasets: Sequence[str]) -> None:
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


def check_scale(config: RunConfig, log_scale: Any, origin: str, remedy: str = "") -> None:
    """Checks that the first update would not cut the scale of the logits that a run goes on with.

    Args:
      config: the run's config.
      log_scale: the logarithm of the scale; None where there is none.
      origin: where it comes from, as messages say it.
      remedy: another one than lifting the limit.

    Raises:
      UserError: it lies outside [1, model.max_logit_scale], and is trained.
    """
    limit = config.model.max_logit_scale
    lora, is_frozen = config.optimizer.lora, param_roles.matches(config.optimizer.freeze, "logit_scale")
    is_frozen |= lora.rank > 0 and not param_roles.matches(lora.full, "logit_scale")
    if log_scale is None or limit is None or is_frozen:
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
