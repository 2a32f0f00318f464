"""Settings of another library's model: from shapes and tables, from a config file, or given by the user."""

import ast
import dataclasses
import re
import shlex
from collections.abc import Mapping
from typing import Any

from mmjax.data.text.tokenizer import LARGEST_ID
from mmjax.errors import UserError, did_you_mean, validate_choice
from mmjax.interop import conv_settings, published_towers
from mmjax.interop.tensor_files import Tensors
from mmjax.models import encoders
from mmjax.models.image_config import ImageTowerConfig
from mmjax.models.text_config import TextTowerConfig
from mmjax.models.variants import two_tower
from mmjax.nn import pool, transformer
from mmjax.nn.config import BlockConfig, block_config
from mmjax.nn.mlp import ACTIVATIONS

Settings = dict[str, Any]
TOWERS = ("image", "text")
_CONFIGS = {"image": ImageTowerConfig, "text": TextTowerConfig}
# How training runs the model, not what it computes: no file has these.
_EXECUTION_FIELDS = ("scan", "remat", "remat_keep", "dropout", "drop_path", "patch_dropout", "layer_scale")
# Fields that most models leave out, with what that means.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "image": dict(final_norm=True, pool_norm=False, pool_heads=None, pool_mlp_dim=None, registers=0, block=None),
    "text": dict(block=None),
}
# Fields with a choice of words.
_CHOICES = {
    "activation": tuple(ACTIVATIONS),
    "image.pool": tuple(kind for kind in pool.POOLS if kind != "eos"),
    "text.pool": pool.POOLS,
    "image.projection": ("linear", "bias", "none"),
    "text.projection": ("linear", "bias", "mlp", "none"),
    "positions": encoders.POSITIONS,
    "norm": transformer.NORMS,
}
# Fields of a number that may be 0.
_FROM_0 = ("remat_keep", "pad_id", "token_types", "registers")
# Far beyond any model: a damaged file is refused before its layers are counted.
_MAX = {"depth": 1_000, "vocab_size": 10**8, "eos_id": 10**8, "pad_id": 10**8, "context_length": 10**6}
_MAX_OTHERS = 10**5


def affects_output(field: str) -> bool:
    """Whether a tower's field decides what it computes, rather than how it is run."""
    return field not in _EXECUTION_FIELDS


def full_tower(name: str, tower: Mapping[str, Any]) -> dict[str, Any]:
    """A tower's settings with those that most models leave out; `block` with all of its fields.

    A convolutional tower has nothing to add.
    """
    if "kind" in tower:
        return dict(tower)
    full = _DEFAULTS[name] | dict(tower)
    return full | {"block": dataclasses.asdict(block_config(full["block"]))}


def require_plain(settings: Mapping[str, Any], called: str, *, image: bool = True, text: bool = True) -> None:
    """Checks that towers have none of the settings that a format does not know.

    Args:
      settings: of the model.
      called: what messages call the format's model.
      image, text: which towers are checked.

    Raises:
      UserError: one has.
    """
    for name in ("image",) * image + ("text",) * text:
        for field, value in full_tower(name, settings[name]).items():
            if field == "block":
                for entry, default in vars(BlockConfig()).items():
                    if value[entry] != default:
                        raise UserError(f"model.{name}.block.{entry}={value[entry]!r}: {called} has {default!r} there")
            elif field in _DEFAULTS[name] and value != _DEFAULTS[name][field]:
                raise UserError(f"model.{name}.{field}={value!r}: {called} has {_DEFAULTS[name][field]!r} there")


def clip_template() -> Settings:
    """CLIP's settings, to be filled in."""
    return two_tower.variant("B/32")


def siglip_template() -> Settings:
    """SigLIP's settings, to be filled in."""
    return two_tower.variant("siglip-B/16")


def apply_overrides(settings: Settings, overrides: Mapping[str, Any], config_file: Any = None) -> None:
    """Sets fields that the user gave, in place: `image.activation`, or `activation` for both towers.

    Args:
      settings: of the model.
      overrides: the fields.
      config_file: where the settings come from, which then are not to be changed; None where no file has them.

    Raises:
      UserError: there is no such field, the value is of another kind, or the config file has another value.
    """
    for name, value in overrides.items():
        for tower, field in _towers_with(name, value, settings):
            valid = validate_field(name, value, tower, field)
            if config_file is not None and settings[tower][field] != valid and affects_output(field):
                raise UserError(
                    f"{name}={value!r} was given, but the model of {config_file} has"
                    f" {tower}.{field}={settings[tower][field]!r}; leave it out, or correct the file"
                )
            settings[tower][field] = valid


def _towers_with(name: str, value: Any, settings: Settings) -> list[tuple[str, str]]:
    """The (tower, field) pairs that an override's name stands for."""
    of_one_tower = {
        f"{tower}.{field}": (tower, field) for tower in TOWERS for field in settings[tower] if field != "block"
    }
    if name in of_one_tower:
        return [of_one_tower[name]]
    shared = [field for field in settings["image"] if field in settings["text"] and affects_output(field)]
    shared = [field for field in shared if field != "block"]
    if name in shared:
        return [(tower, name) for tower in TOWERS]
    settable = [*shared, *(path for path, (_, field) in of_one_tower.items() if affects_output(field))]
    raise UserError(f"{name}={value!r}: a model has no such setting{did_you_mean(name, settable)}; see its config")


def validate_field(label: str, value: Any, tower: str, field: str) -> Any:
    """The value of a tower's field, of the right type and in the right range; `label` is its name in messages."""
    if field == "block" or (value is None and field in ("pad_id", "pool_heads", "pool_mlp_dim")):
        return value
    value = _validate_type(label, value, _examples(tower)[field])
    choices = _CHOICES.get(field) or _CHOICES.get(f"{tower}.{field}")
    if choices:
        validate_choice(label, value, choices)
    if type(value) is int and field != "eos_id" and value < int(field not in _FROM_0):
        raise UserError(f"{label}={value} must be at least {int(field not in _FROM_0)}")
    if type(value) is int and value > _MAX.get(field, _MAX_OTHERS):
        raise UserError(f"{label}={value} is more than any model has ({_MAX.get(field, _MAX_OTHERS)})")
    if field == "norm_eps" and not 0 < value < 1:
        raise UserError(f"{label}={value} must be greater than 0 and less than 1")
    return value


def _examples(tower: str) -> dict[str, Any]:
    """A value of every field of a tower."""
    defaults = {field.name: field.default for field in dataclasses.fields(_CONFIGS[tower])}
    of_other_kinds = two_tower.variant("RN50")[tower] | two_tower.variant("convnext_base_w")[tower]
    return (
        defaults | {"pad_id": 0, "pool_heads": 8, "pool_mlp_dim": 8} | of_other_kinds | two_tower.variant("B/32")[tower]
    )


def _validate_type(label: str, value: Any, example: Any) -> Any:
    if isinstance(example, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(example):
        raise UserError(f"{label}={value!r}: wants a value such as {example!r}")
    return value


def parse_flags(texts: list[str]) -> dict[str, Any]:
    """Reads `image.activation=quick_gelu` and the like, as the command line gives them."""
    changes = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--model-config {text!r} is not of the form FIELD=VALUE, such as image.activation=gelu")
        try:
            changes[name.strip()] = ast.literal_eval({"true": "True", "false": "False"}.get(value, value))
        except (ValueError, SyntaxError):
            changes[name.strip()] = value
    return changes


def complete(settings: Settings, path: Any) -> None:
    """Checks that every setting is known and valid; sets in place what follows from others.

    Raises:
      UserError: naming the fields and how to give them.
    """
    text = settings["text"]
    if text["pool"] in ("last", "mean", "map") and isinstance(text["eos_id"], published_towers.MissingSetting):
        text["eos_id"] = 1  # not read
    require_known(settings, path)
    is_convolutional = "kind" in settings["image"]
    if is_convolutional:
        conv_settings.check(settings["image"], path)
    for tower in TOWERS[is_convolutional:]:
        for field, value in settings[tower].items():
            settings[tower][field] = validate_field(f"{path}: {tower}.{field}", value, tower, field)
    size = _validate_type(f"{path}: embed_dim", settings["embed_dim"], 512)
    if not 1 <= size <= _MAX_OTHERS:
        raise UserError(f"{path}: embed_dim={size} must be between 1 and {_MAX_OTHERS}")
    _check_consistent(settings, path)
    image = settings["image"]
    if is_convolutional:
        return
    # The other libraries' patches are a convolution, which leaves the last pixels out.
    image["crop_to_patches"] = image["image_size"] % image["patch_size"] != 0


def require_known(settings: Settings, path: Any) -> None:
    """Checks that no setting of the towers is a `published_towers.MissingSetting`.

    Raises:
      UserError: naming the fields and how to give them.
    """
    if missing := _missing_settings(settings):
        raise UserError(f"{path}: {_missing_message(missing, path)}")


def fill_missing(settings: Settings, known: Settings) -> None:
    """Takes from a known model, in place, what neither the shapes of a file nor the tables of published models tell."""
    for tower in TOWERS:
        for field, value in settings[tower].items():
            if isinstance(value, published_towers.MissingSetting):
                settings[tower][field] = known[tower][field]


def check_equal(settings: Settings, known: Settings, path: Any, name: str) -> None:
    """Checks that a file holds the model of a name, by what is known of it.

    Raises:
      UserError: a setting differs.
    """
    values, expectations = _output_fields(settings), _output_fields(known)
    for field, expected in expectations.items():
        value = values[field]
        if isinstance(value, published_towers.MissingSetting):
            continue
        if value != expected:
            raise UserError(
                f"weights={str(path)!r}: {field}={value!r}, and {name} has {expected!r}; give the name of the model"
                " that the weights are of, or read them by mmjax.load"
            )


def _output_fields(settings: Settings) -> dict[str, Any]:
    """What decides a model's embeddings and logits, by name; but for what follows from the others."""
    towers = {
        "image": full_tower("image", settings["image"]),
        "text": full_tower("text", resolve_eos_id(settings["text"])),
    }
    fields = {"embed_dim": settings["embed_dim"], "a bias of the logits": settings["logit_bias_init"] is not None}
    for tower in TOWERS:
        decisive = (field for field in towers[tower] if affects_output(field) and field != "crop_to_patches")
        fields |= {f"{tower}.{field}": towers[tower][field] for field in decisive}
    return fields


def _missing_settings(settings: Settings) -> dict[str, published_towers.MissingSetting]:
    """The missing settings by name, `image.heads` or, where both towers miss the same, `activation`."""
    missing = {
        f"{tower}.{field}": value
        for tower in TOWERS
        for field, value in settings[tower].items()
        if isinstance(value, published_towers.MissingSetting)
    }
    for field in sorted({name.split(".")[1] for name in missing}):
        image, text = (missing.get(f"{tower}.{field}") for tower in TOWERS)
        if image is not None and image == text:
            del missing[f"image.{field}"], missing[f"text.{field}"]
            missing[field] = image
    return missing


def _missing_message(missing: Mapping[str, published_towers.MissingSetting], path: Any) -> str:
    """The missing fields, why they are missing, and how code and the command line give them."""
    shared = [name for name in missing if "." not in name]
    single = [name for name in missing if "." in name]
    names = [f"{name} ({missing[name].why})" if missing[name].why else name for name in (*shared, *single)]
    code = [f"{name}={missing[name].example}" for name in shared]
    if single:
        code.append("**{" + ", ".join(f'"{name}": {missing[name].example}' for name in single) + "}")
    flags = " ".join(f"--model-config {name}={missing[name].example.strip(chr(34))}" for name in (*shared, *single))
    command = f"mmjax convert {shlex.quote(str(path))} DST --to=mmjax {flags}"
    return (
        f"no config file lies beside it, and shapes do not tell {', '.join(names)};"
        f" give what the model was trained with, e.g. mmjax.load(path, {', '.join(code)}) or {command}"
    )


def _check_consistent(settings: Settings, path: Any) -> None:
    """Checks what would make the model impossible to build, or would pool texts where no token is."""
    is_convolutional = "kind" in settings["image"]
    for name in TOWERS[is_convolutional:]:
        tower = settings[name]
        if tower["width"] % tower["heads"]:
            raise UserError(f"{path}: {name}.heads={tower['heads']} does not divide {name}.width={tower['width']}")
    image, text = settings["image"], settings["text"]
    if is_convolutional:
        pass
    elif image["image_size"] < image["patch_size"]:
        raise UserError(f"{path}: image.image_size={image['image_size']} is less than a patch")
    if text["pool"] == "cls" and text["causal"]:
        raise UserError(f"{path}: text.pool='cls' sees the first token alone where text.causal=True")
    if text["pool"] == "eos" and not LARGEST_ID <= text["eos_id"] < text["vocab_size"]:
        raise UserError(
            f"{path}: text.eos_id={text['eos_id']} is none of the {text['vocab_size']} ids, and texts are pooled there"
        )


def count_layers(tensors: Tensors, pattern: str) -> int:
    """Number of layers whose names match a pattern with one group, the layer's number.

    Raises:
      UserError: there is none.
    """
    layers = {int(match[1]) for name in tensors for match in [re.match(pattern, name)] if match}
    if not layers:
        raise UserError(f"{tensors.path}: has no layers of the name {pattern.replace(chr(92), '')}")
    if max(layers) >= _MAX["depth"]:
        raise UserError(f"{tensors.path}: names a layer {max(layers)}, which no model has; the file is damaged")
    return max(layers) + 1


def param_shape(tensors: Tensors, name: str, axes: int) -> tuple[int, ...]:
    """Shape of an array that a model of this kind must have.

    Raises:
      UserError: it is missing or has another number of axes.
    """
    if name not in tensors:
        raise UserError(f"{tensors.path}: the parameter {name} is missing{did_you_mean(name, tensors)}")
    sizes = tensors[name]
    if len(sizes) != axes:
        raise UserError(f"{tensors.path}: {name} has shape {list(sizes)}, which has {len(sizes)} axes and not {axes}")
    return sizes


def grid_side(tensors: Tensors, name: str, positions: int) -> int:
    """Side of the grid of patches.

    Raises:
      UserError: the number of positions is not a square.
    """
    side = round(positions**0.5)
    if side < 1 or side * side != positions:
        raise UserError(f"{tensors.path}: {name} has {positions} patches, which make no square")
    return side


def translate_activation(field: str, value: str, names: Mapping[str, str]) -> str:
    """Our name of an activation.

    Raises:
      UserError: mmjax does not have it.
    """
    return names[validate_choice(field, value, names)]


def resolve_eos_id(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A text tower's settings with the id that is the largest of every tokenized text in place of `LARGEST_ID`.

    A vocabulary of CLIP's kind ends with the end-of-text token: a tower that pools there by its id and one that pools
    at the largest id compute the same of every text that has it.
    """
    if settings.get("eos_id") != LARGEST_ID:
        return dict(settings)
    return dict(settings) | {"eos_id": settings["vocab_size"] - 1}
