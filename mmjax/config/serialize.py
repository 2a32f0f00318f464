"""Configs as JSON text and as flat fields: stored, read again though fields are newer, and compared."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mmjax import plugin_imports
from mmjax.config import kinds
from mmjax.config.schema import ConfigDict, RunConfig, base_config, parse
from mmjax.config.typed_groups import to_dict

Fields = Mapping[str, Any]  # by dotted path
Config = RunConfig | ConfigDict | Mapping[str, Any]  # of a run


@dataclasses.dataclass(frozen=True)
class Before:
    """What was done before a field came to exist.

    Attributes:
      value: of the field, that does the same.
      moved: fields whose values changed in sizes and recipes at the same time, or mean something with that value only:
        a run without the field keeps its own values of them, see `training.resumed_run`.
      applies: whether a run of these stored fields did so; where not, the field has its default.
      checkpoint_knows: the checkpoint says what was done, so a run does not keep the field.
    """

    value: Any
    moved: tuple[str, ...] = ()
    applies: Callable[[Fields], bool] = lambda stored: True
    checkpoint_knows: bool = False


def _is_adafactor(stored: Fields) -> bool:
    return stored.get("optimizer.name") == "adafactor"


def _cools_rsqrt(stored: Fields) -> bool:
    return stored.get("schedule.name") == "rsqrt" and bool(stored.get("schedule.cooldown"))


def _prepares_images(stored: Fields) -> bool:
    return any(name.startswith("model.image.") for name in stored)


# What a picture is made of.
_PICTURES = tuple(
    f"data.{name}"
    for name in (
        *("train_resize", "crop_scale", "crop_ratio", "resize", "interpolation", "antialias", "image_rule", "draft"),
        *("flip", "color_jitter", "color_jitter_prob", "grayscale", "randaugment", "randaugment_policy", "mean_std"),
    )
)
# What an update is made of, but for the rate and what recipes take from `steps`, which are changed to go on for longer.
_UPDATES = (
    *("batch_size", "data.context_length", "model.text.dropout"),
    *(f"model.{name}" for name in ("max_logit_scale", "logit_scale_init", "logit_bias_init")),
    *(
        f"objectives.{name}"
        for name in ("itc", "sigmoid", "triplet", "itm", "mlm", "mim", "caption", "vqa", "classify")
    ),
    *(f"optimizer.{name}" for name in ("decay", "decay_scaled_by_lr", "weight_decay", "b2", "eps", "grad_clip")),
    *(f"optimizer.{name}" for name in ("b2_cap", "update_clip")),
    *(f"schedule.{name}" for name in ("name", "warmup", "from_zero", "final", "final_of", "decay_rate", "decay_every")),
)

# Fields whose default, or whose value in a recipe, is not what was done before they existed.
NEWER_FIELDS: Mapping[str, Before] = {
    "data.resize_on": Before("host", applies=_prepares_images, checkpoint_knows=True),  # see `tasks.choose_frame`
    "data.train_resize": Before("crop", moved=_PICTURES),
    "data.randaugment_policy": Before("torchvision", moved=_PICTURES),
    "data.antialias": Before(True, moved=_PICTURES),
    "data.image_rule": Before("mmjax", moved=_PICTURES),
    "model.init": Before("openai"),
    "optimizer.decay": Before(("matrices",), moved=_UPDATES),
    "optimizer.decay_scaled_by_lr": Before(True, moved=_UPDATES),
    "optimizer.b2_cap": Before(1.0, applies=_is_adafactor),
    "optimizer.update_clip": Before(1.0, applies=_is_adafactor),
    "schedule.from_zero": Before(False, moved=_UPDATES),
    "schedule.final_of": Before("rate", applies=_cools_rsqrt),
}


def newer_fields(stored: Fields) -> dict[str, Before]:
    """`NEWER_FIELDS`, and those that plugins declare: `before` of a group's dataclass has values by field.

    Args:
      stored: of the run.
    """
    newer = dict(NEWER_FIELDS)
    for path, name, cls in kinds.plugin_groups(_nested(stored)):
        is_used = name in (stored.get("optimizer.name"), stored.get("model.kind")) or stored.get(f"objectives.{name}")
        if is_used or any(field.startswith(f"{path}.") for field in stored):
            newer |= {f"{path}.{field}": Before(value) for field, value in getattr(cls, "before", {}).items()}
    return newer


def _nested(flat: Fields) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *groups, name = path.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[name] = value
    return tree


def read_fields(text: str) -> Any:
    """A stored config as JSON has it, with the names that plugins' fields have now.

    A plugin's dataclass says by `renamed` what a field of an older version is called: "" for one that is gone.
    """
    stored = json.loads(text)
    if not isinstance(stored, dict):
        return stored
    for path, _, cls in kinds.plugin_groups(stored):
        *_, group = _along(stored, path)
        for old, new in getattr(cls, "renamed", {}).items() if isinstance(group, dict) else ():
            if old in group and old not in cls.__dataclass_fields__:
                value = group.pop(old)
                group |= {new: value} if new and new not in group else {}
    return stored


def _along(node: Any, path: str) -> Iterator[Any]:
    for name in path.split("."):
        node = node.get(name) if isinstance(node, dict) else None
        yield node


def to_json(config: ConfigDict | RunConfig) -> str:
    """The config as JSON text; `from_json` reads it back."""
    return json.dumps(to_dict(config, unused=False) if isinstance(config, RunConfig) else config.to_dict(), indent=2)


def from_json(text: str, origin: str = "") -> ConfigDict:
    """Reads a stored config. Fields that came to exist since get their defaults, or what was done before they did.

    Its `plugins` are data: none is imported, and those that are not yet are left out.

    Args:
      text: as `to_json` writes it.
      origin: where it is stored; messages begin with it.

    Raises:
      UserError: it has an unknown field, or a value of another type.
    """
    config = base_config()  # which imports installed plugins
    stored = read_fields(text)
    model = stored.get("model", {}) if isinstance(stored, dict) else {}
    model = model if isinstance(model, dict) else {}
    kind = model.get("kind", "two_tower")
    with config.unlocked(), config.ignore_type():
        if kind != "two_tower":
            config.model = ConfigDict(dict(init="openai"))  # another kind of model has other fields
        elif isinstance(image := model.get("image"), dict) and "kind" in image:  # so has another kind of image tower
            fields: Any = config.model
            fields.image = ConfigDict()
        run = parse(_merged(config.to_dict(), stored) if isinstance(stored, dict) else stored, origin)
        _update(config, stored)
        config.update_from_flattened_dict(done_before(flatten(stored)))
        config.plugins = tuple(module for module in run.plugins if plugin_imports.is_imported(module))
    return config.lock()


def _merged(config: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a config with those of a stored one in their place, whatever their values are."""

    def value_of(key: str, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return as_tuple(value)
        group = config.get(key)
        return _merged(group if isinstance(group, Mapping) else {}, value)

    return {**config, **{key: value_of(key, value) for key, value in stored.items()}}


def _update(fields: Any, stored: Mapping[str, Any]) -> None:
    for key, value in stored.items():
        if isinstance(value, Mapping):
            if not isinstance(fields.get(key), ConfigDict):
                fields[key] = ConfigDict()
            _update(fields[key], value)
        else:
            fields[key] = as_tuple(value)


def flatten(config: Config, prefix: str = "") -> dict[str, Any]:
    """The fields of a config, or of one as JSON has it, by dotted path."""
    flat: dict[str, Any] = {}
    settings: Any = to_dict(config) if isinstance(config, RunConfig) else config
    for key, value in settings.items():
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
    return {
        field: before.value
        for field, before in newer_fields(stored).items()
        if field not in stored and before.applies(stored)
    }


def differences(old: Config, new: Config, fields: Sequence[str] = ("",)) -> list[str]:
    """Lists, as 'path: old -> new', the fields under any of the dotted prefixes `fields` that differ."""
    a, b = flatten(old), flatten(new)
    missing = "(absent)"
    return [
        f"{path}: {a.get(path, missing)} -> {b.get(path, missing)}"
        for path in sorted(set(a) | set(b))
        if path.startswith(tuple(fields)) and a.get(path, missing) != b.get(path, missing)
    ]
