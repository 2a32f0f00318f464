"""Configs that older code stored: what was done before a field came to exist."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

Fields = Mapping[str, Any]  # by dotted path


@dataclasses.dataclass(frozen=True)
class Before:
    """What was done before a field came to exist.

    Attributes:
      value: of the field, that does the same.
      along: fields that mean something with that value only, or that recipes change together with the field: where a
        run keeps the field, it keeps theirs as stored.
      moved: fields whose values changed in sizes and recipes at the same time: a run without the field keeps its own.
      applies: whether a run of these stored fields did so; where not, the field has its default.
      checkpoint_knows: the checkpoint says what was done, so a run does not keep the field.
    """

    value: Any
    along: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    applies: Callable[[Fields], bool] = lambda stored: True
    checkpoint_knows: bool = False


def _is_adafactor(stored: Fields) -> bool:
    return stored.get("optimizer.name") == "adafactor"


def _cools_rsqrt(stored: Fields) -> bool:
    return stored.get("schedule.name") == "rsqrt" and bool(stored.get("schedule.cooldown"))


# What a picture is made of. Recipes change these together, and a run has all of its own or all of the recipe's.
_PICTURES = tuple(
    f"data.{name}"
    for name in (
        *("train_resize", "crop_scale", "crop_ratio", "resize", "interpolation", "antialias", "image_rule", "draft"),
        *("flip", "color_jitter", "color_jitter_prob", "grayscale", "randaugment", "randaugment_policy"),
    )
)

# Fields whose default, or whose value in a recipe, is not what was done before they existed.
FIELDS: Mapping[str, Before] = {
    "data.resize_on": Before("host", checkpoint_knows=True),  # see `tasks.choose_frame`
    "data.train_resize": Before("crop", along=_PICTURES),
    "data.randaugment_policy": Before("torchvision", along=_PICTURES),
    "data.antialias": Before(True, along=_PICTURES),
    "data.image_rule": Before("mmjax", along=_PICTURES),
    "model.init": Before("openai"),
    "optimizer.decay": Before(("matrices",), moved=("model.max_logit_scale",)),
    "optimizer.decay_scaled_by_lr": Before(True),
    "optimizer.b2_cap": Before(1.0, applies=_is_adafactor),
    "optimizer.update_clip": Before(1.0, applies=_is_adafactor),
    "schedule.from_zero": Before(False),
    "schedule.final_of": Before("rate", applies=_cools_rsqrt),
}


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """The fields of a config, or of one as JSON has it, by dotted path."""
    flat = {}
    for key, value in config.items():
        if hasattr(value, "items"):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = as_tuple(value)
    return flat


def as_tuple(value: Any) -> Any:
    """A value of JSON as a config has it: lists are tuples."""
    return tuple(as_tuple(item) for item in value) if isinstance(value, list) else value


def done_before(stored: Fields) -> dict[str, Any]:
    """What was done, as values of the fields that a stored config lacks."""
    return {field: each.value for field, each in FIELDS.items() if field not in stored and each.applies(stored)}
