"""Fields of optimizer, schedule and training images that have no effect beside what else is chosen."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from mmjax.config import schema, serialize
from mmjax.config.field_origins import FROM_RECIPE, FieldOrigins
from mmjax.errors import UserError
from mmjax.training.optimizer import OPTIMIZERS
from mmjax.training.schedules import SCHEDULES

# Which choices read a field that not all of them read.
_READERS = {
    "optimizer.b2": ("adamw", "lion", "muon"),
    "optimizer.eps": ("adamw", "muon"),
    "optimizer.b2_cap": ("adafactor",),
    "optimizer.update_clip": ("adafactor",),
    "schedule.timescale": ("rsqrt",),
    "schedule.final_of": ("rsqrt",),
    "schedule.decay_rate": ("step",),
    "schedule.decay_every": ("step",),
}


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


def check(config: ml_collections.ConfigDict, origins: FieldOrigins = FROM_RECIPE) -> None:
    """Checks that no field has been set that would change nothing, by who also chose what leaves it unread.

    Args:
      config: the run's config.
      origins: which of its values are not the recipe's. What a run began with is let be, and what a recipe sets beside
        another choice of the command line.

    Raises:
      UserError: some have, naming what reads them.
    """
    mistakes = [unread.message for unread in _find(config, origins) if not _is_overruled(unread, origins)]
    if mistakes:
        raise UserError("; ".join(mistakes))


def note(config: ml_collections.ConfigDict, origins: FieldOrigins = FROM_RECIPE) -> str | None:
    """A line on a recipe's fields that are not read since the command line chose otherwise; arguments as in `check`."""
    overruled = [unread for unread in _find(config, origins) if _is_overruled(unread, origins)]
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


def _find(config: ml_collections.ConfigDict, origins: FieldOrigins) -> list[_Unread]:
    """The fields that have been set and are not read, each once."""
    flat, default = serialize.flatten(config), serialize.flatten(schema.base_config())
    first: dict[str, _Unread] = {}
    for unread in _unread(flat, default):
        value = flat[unread.field]
        if value != default[unread.field] and not origins.is_as_begun(unread.field, value):
            first.setdefault(unread.field, unread)
    return list(first.values())


def _unread(flat: Mapping[str, Any], default: Mapping[str, Any]) -> Iterator[_Unread]:
    """The fields that are not read, whether they have been set or not."""

    def unread(field, reason, remedy, *choices):
        return _Unread(field, f"{field}={flat[field]!r} is not read{reason}; {remedy}", choices)

    def leave(field):
        return f"leave it at {default[field]!r}"

    optimizer, schedule = flat["optimizer.name"], flat["schedule.name"]
    for field, readers in _READERS.items():
        choice = f"{field.partition('.')[0]}.name"
        known = OPTIMIZERS if choice == "optimizer.name" else SCHEDULES
        if flat[choice] in known and flat[choice] not in readers:
            remedy = f"{leave(field)}, or choose one that reads it: {', '.join(readers)}"
            yield unread(field, f" with {choice}={flat[choice]!r}", remedy, choice)
    if not flat["optimizer.b1"]:
        field = "optimizer.momentum_dtype"
        reason = f", as {optimizer} has no momentum with optimizer.b1=0"
        yield unread(field, reason, f"set that, or {leave(field)}", "optimizer.name", "optimizer.b1")
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
    if "model.image.image_size" not in flat:  # no images are prepared, see `tasks.check_images`
        return
    if flat["data.train_resize"] != "crop":
        for field in ("data.crop_scale", "data.crop_ratio"):
            reason = f" with data.train_resize={flat['data.train_resize']!r}"
            yield unread(field, reason, f"{leave(field)}, or set data.train_resize='crop'", "data.train_resize")
    if not any(flat["data.color_jitter"]):
        field, reason = "data.color_jitter_prob", f" with data.color_jitter={flat['data.color_jitter']}, which is off"
        yield unread(field, reason, f"give that strengths, or {leave(field)}", "data.color_jitter")
