"""Plain vision transformers of timm's: a config.json that names the architecture, with or without a classifier.

Sizes are those of timm 1.0.31's names, changed by what `model_args` says. They are read only: mmjax writes such a tower
as the class of transformers that computes the same.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.errors import UserError
from mmjax.interop import preprocessing
from mmjax.interop.config_format import LARGEST, Raw, Settings, one_size
from mmjax.interop.families.lone_tower import OURS, LoneTower, one_tower
from mmjax.interop.param_names import timm_vit as timm_names
from mmjax.interop.param_names.rows import Row
from mmjax.interop.purpose import Purpose
from mmjax.interop.tensor_files import read_json
from mmjax.interop.weights_path import HF_CONFIG

# By the size in a name: width, depth, heads.
_SIZES = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}
_DINOV2_SIZES = _SIZES | {"giant": (1536, 40, 24)}
_PLAIN = re.compile(r"vit_(tiny|small|base|large|huge)_patch(\d{1,3})_(clip_|clip_quickgelu_)?(\d{2,4})")
_DINOV2 = re.compile(r"vit_(small|base|large|giant)_patch(\d{1,3})_(reg4_)?dinov2")
_KNOWN = (
    "vit_{tiny,small,base,large,huge}_patch*_*, vit_*_patch*_clip_* and vit_{small,base,large,giant}_patch14_dinov2,"
    " with reg4 too"
)
# Of `model_args`: the sizes that are read, and what others must be.
_COUNTS = {"embed_dim": "width", "depth": "depth", "num_heads": "heads"}
_FIXED = dict(
    **dict(in_chans=3, global_pool="token", class_token=True, qkv_bias=True, final_norm=True, fc_norm=(None, False)),
    **dict(qk_norm=False, dynamic_img_size=(False, True), pos_drop_rate=0.0, drop_rate=0.0, drop_path_rate=0.0),
    **dict(use_naflex=False, strict_img_size=(True, False)),
)
_ELSEWHERE = {"img_size", "patch_size", "mlp_ratio", "init_values", "num_classes", *_COUNTS}
_WEIGHTS = "pretrained_cfg"
_MOST_LAYERS = 1000
_MOST_CLASSES = 10**6
_LONGEST_NAME = 1000  # characters


def is_of(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is timm's."""
    return "model_type" not in config and isinstance(config.get("architecture"), str)


def _by_name(name: str) -> tuple[Settings, float, int]:
    """A tower's settings by its name, the ratio of its MLP, and its pixels.

    Raises:
      ValueError: a name that mmjax does not have.
    """
    if match := _PLAIN.fullmatch(name):
        size, patch, clip, pixels = match.groups()
        width, depth, heads = _SIZES[size]
        quick = "quickgelu" in (clip or "")
        image = dict(activation="quick_gelu" if quick else "gelu", norm_eps=1e-5 if clip else 1e-6)
        image |= dict(patch_bias=not clip, pre_norm=bool(clip))
        ratio, side = 4.0, int(pixels)
    elif match := _DINOV2.fullmatch(name):
        size, patch, registers = match.groups()
        width, depth, heads = _DINOV2_SIZES[size]
        gated = size == "giant"
        image = dict(activation="silu" if gated else "gelu", norm_eps=1e-6, patch_bias=True, pre_norm=False)
        image |= dict(block=dict(layer_scale=1e-5, mlp_gate=gated), registers=4 if registers else 0)
        ratio, side = 2.66667 * 2 if gated else 4.0, 518
    else:
        raise ValueError(f"architecture={name[:60]!r} is not read; of timm's lone towers mmjax has {_KNOWN}")
    return image | dict(patch_size=int(patch), width=width, depth=depth, heads=heads), ratio, side


def _count(field: str, value: Any, most: int = LARGEST) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"{field}={str(value)[:60]}: wants a whole number of 1 to {most}")
    return value


def _number(field: str, value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or not 0 < value <= LARGEST:
        raise ValueError(f"{field}={str(value)[:60]}: wants a number above 0")
    return float(value)


def _square(field: str, value: Any) -> int:
    if isinstance(value, list) and not all(type(side) is int for side in value):
        raise ValueError(f"{field}={str(value)[:60]}: wants whole numbers")
    return _count(field, one_size(field, value))


def _changed(args: Mapping[str, Any], image: Settings, ratio: float) -> tuple[Settings, float]:
    """A tower's settings and the ratio of its MLP, as `model_args` changes them."""
    for name, value in args.items():
        wanted = _FIXED.get(name)
        allowed = wanted if isinstance(wanted, tuple) else (wanted,)
        if name not in _ELSEWHERE and (name not in _FIXED or value not in allowed):
            known = ", ".join(sorted(_ELSEWHERE))
            raise ValueError(f"model_args.{str(name)[:60]}={str(value)[:60]!r} is not read; mmjax reads {known}")
    for theirs, ours in _COUNTS.items():
        if theirs in args:
            most = _MOST_LAYERS if theirs == "depth" else LARGEST
            image[ours] = _count(f"model_args.{theirs}", args[theirs], most)
    if "patch_size" in args:
        image["patch_size"] = _square("model_args.patch_size", args["patch_size"])
    if "mlp_ratio" in args:
        ratio = _number("model_args.mlp_ratio", args["mlp_ratio"])
    if args.get("init_values") is not None:
        scale = _number("model_args.init_values", args["init_values"])
        image["block"] = dict(image.get("block", {}), layer_scale=scale)
    elif "init_values" in args and "block" in image:
        raise ValueError("model_args.init_values=None: mmjax has a layer scale in DINOv2")
    return image, ratio


def _group(config: Mapping[str, Any], field: str, missing: Mapping[str, Any]) -> Mapping[str, Any]:
    value = missing if config.get(field) is None else config[field]
    if not isinstance(value, Mapping):
        raise ValueError(f"{field}={str(value)[:60]!r}: wants a group of fields")
    return value


def _weights(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """`pretrained_cfg`, whose fields old files have beside the architecture."""
    return _group(config, _WEIGHTS, config)


def _classes(config: Mapping[str, Any]) -> int:
    value = config.get("num_classes")
    value = _weights(config).get("num_classes") if value is None else value
    if type(value) is not int or not 0 <= value <= _MOST_CLASSES:
        raise ValueError(f"num_classes={str(value)[:60]}: wants a whole number of 0 to {_MOST_CLASSES}")
    return value


def _from_config(fields: Mapping[str, Any]) -> Settings:
    config = {name: value for name, value in fields.items() if value is not None}
    if config.get("global_pool", "token") != "token":
        raise ValueError(f"global_pool={str(config['global_pool'])[:60]!r} is not read; mmjax has 'token' there")
    image, ratio, side = _by_name(config["architecture"])
    args = _group(config, "model_args", {})
    image, ratio = _changed(args, image, ratio)
    shape = _weights(config).get("input_size")
    if "img_size" in args:
        side = _square("model_args.img_size", args["img_size"])
    elif isinstance(shape, list) and len(shape) == 3:
        side = _square("pretrained_cfg.input_size", shape[1:])
    hidden = int(image["width"] * ratio)
    gated = image.get("block", {}).get("mlp_gate", False)
    image |= dict(mlp_dim=hidden // 2 if gated else hidden, image_size=side)
    return one_tower(image, "cls", config, False) | dict(classes=_classes(config))


def _class_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of classes by number; their numbers where there are none.

    Raises:
      ValueError: they are not as many as there are classes.
    """
    count, cfg = _classes(config), _weights(config)
    labels = config.get("label_names") or cfg.get("label_names") or cfg.get("labels")
    if labels is None:
        return tuple(f"LABEL_{number}" for number in range(count))
    if isinstance(labels, Mapping):
        labels = [labels.get(str(number)) for number in range(count)]
    labels = labels if isinstance(labels, list) else []
    names = [name for name in labels if isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME]
    if not len(names) == len(set(names)) == len(labels) == count:
        raise ValueError(f"label_names={str(labels)[:60]}: wants {count} different names of classes")
    descriptions = config.get("label_descriptions") or cfg.get("label_descriptions")
    if not isinstance(descriptions, Mapping):
        return tuple(names)
    described = [str(descriptions.get(name, name))[:_LONGEST_NAME] or name for name in names]
    return tuple(described) if len(set(described)) == count else tuple(names)


def _purpose(config: Mapping[str, Any], folder: Path) -> Purpose:
    try:
        classes = _class_names(config)
    except ValueError as error:
        raise UserError(f"{folder / HF_CONFIG}: {error}") from error
    return Purpose(objectives={"classify": 1.0} if classes else {}, classes=classes)


def _table(settings: Settings) -> list[Row]:
    image = settings["encoders"]["image"]
    is_gated = bool(image["block"] and image["block"]["mlp_gate"])
    return timm_names.table(OURS, is_gated=is_gated, has_positions_of_patches=image["registers"] > 0)


def _no_config(settings: Settings) -> dict[str, Any]:
    raise ValueError("timm's files are read only")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimmTower(LoneTower):
    """timm's towers."""

    @property
    def key(self) -> str:
        """Its name among the formats."""
        return "timm"

    def prepare_images(self, folder: Path, size: int) -> tuple[dict[str, Any], tuple[str, ...]]:
        """As timm's transforms of evaluation; a picture is never made larger than what is cut out."""
        path = folder / HF_CONFIG
        fields = _weights(read_json(path))
        modes = {"center": "shortest", "squash": "squash"}
        mode = fields.get("crop_mode") or "center"
        if mode not in modes:
            raise UserError(f"{path}: pretrained_cfg.crop_mode={str(mode)[:60]!r} is not center or squash")
        wanted = {name: fields[name] for name in ("mean", "std", "interpolation") if fields.get(name) is not None}
        cfg = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]) | wanted | dict(resize_mode=modes[mode])
        prepared = preprocessing.from_openclip({_WEIGHTS: cfg}, size, path, _WEIGHTS)
        share = fields.get("crop_pct")
        share = 0.875 if share is None else share
        if type(share) not in (int, float) or not 0 < share <= 1:
            raise UserError(f"{path}: pretrained_cfg.crop_pct={str(share)[:60]} wants a number of 0 to 1")
        if share == 1:
            return prepared, ()
        side = "the short side becomes" if mode == "center" else "both sides become"
        pixels = math.floor(size / share)
        note = f"images: {side} {size} pixels; with crop_pct={share} timm resizes to {pixels} and cuts out the middle"
        return prepared, (note,)


FAMILY = TimmTower(
    name="timm's vision transformer",
    model_type="",
    architecture="timm",
    defaults=dict(
        architecture="vit_base_patch16_224",
        **dict.fromkeys(("num_classes", "global_pool", "model_args", "pretrained_cfg", "input_size"), Raw()),
    ),
    fixed={},
    settings=dict(kind="fused"),
    from_config=_from_config,
    to_config=_no_config,
    table=_table,
    processor="ViTImageProcessor",
    purpose=_purpose,
)
