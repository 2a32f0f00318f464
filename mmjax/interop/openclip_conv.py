"""Convolutional image towers of OpenCLIP, OpenAI's modified ResNets and timm's ConvNeXt: their configs both ways."""

import re
from collections.abc import Mapping
from typing import Any

from mmjax.errors import UserError
from mmjax.interop import model_settings, openclip_config, published_towers
from mmjax.interop.conv_settings import WIDEST
from mmjax.interop.tensor_files import Tensors
from mmjax.models.image_config import CONV_STAGES, CONV_STRIDE
from mmjax.models.variants import two_tower

Config = Mapping[str, Any]
_HEAD_WIDTH = 64


def template(kind: str) -> model_settings.Settings:
    """CLIP's settings with a convolutional tower, to be filled in; `kind` is a size of it."""
    return two_tower.variant("B/32") | {"image": two_tower.variant(kind)["image"]}


# -- OpenAI's modified ResNets -----------------------------------------------------------------------------------------

_RESNET_FIELDS = {"image_size", "layers", "width", "head_width"}


def is_resnet(vision: Config) -> bool:
    """Whether a `vision_cfg` describes a modified ResNet."""
    return isinstance(vision.get("layers"), (list, tuple)) and not vision.get("timm_model_name")


def resnet(vision: Config, quick: bool, path: Any) -> dict[str, Any]:
    """Settings of `model.image` from `vision_cfg`.

    Raises:
      UserError: a setting that mmjax does not have.
    """
    del quick  # which is for the texts: this tower has ReLUs
    known = _RESNET_FIELDS | {"patch_size", "mlp_ratio", "act_kwargs", "norm_kwargs", "output_tokens", "patch_dropout"}
    openclip_config.check_fields(vision, "vision_cfg", path, known=known)
    width, head_width = vision.get("width", 64), vision.get("head_width", _HEAD_WIDTH)
    for name, value in (("width", width), ("head_width", head_width)):
        if type(value) is not int or not 1 <= value <= WIDEST:
            raise UserError(f"{path}: vision_cfg.{name}={value!r} is out of range; it must be 1 to {WIDEST}")
    settings = dict(kind="resnet", image_size=vision.get("image_size", 224), blocks=tuple(vision["layers"]))
    settings |= dict(stem_width=width, pool="attention", pool_norm=False, projection="bias")
    return settings | dict(pool_heads=CONV_STRIDE * width // head_width)


def resnet_config(image: Config) -> dict[str, Any]:
    """The content of `vision_cfg`.

    Raises:
      UserError: OpenCLIP has no such tower.
    """
    openclip_config.require("image", image, pool="attention", pool_norm=False, projection="bias")
    width = image["stem_width"]
    head_width = CONV_STRIDE * width // image["pool_heads"]
    fields = dict(image_size=image["image_size"], layers=list(image["blocks"]), width=width, patch_size=None)
    return fields | ({} if head_width == _HEAD_WIDTH else dict(head_width=head_width))


def resnet_of_tensors(tensors: Tensors) -> dict[str, Any]:
    """Settings of a file without a config beside it, from shapes; heads are of 64 numbers, as in all of OpenAI's."""
    width = model_settings.param_shape(tensors, "visual.conv3.weight", 4)[0]
    table = "visual.attnpool.positional_embedding"
    side = model_settings.grid_side(tensors, table, model_settings.param_shape(tensors, table, 2)[0] - 1)
    blocks = tuple(
        model_settings.count_layers(tensors, rf"visual\.layer{stage + 1}\.(\d+)\.") for stage in range(CONV_STAGES)
    )
    sizes = dict(image_size=CONV_STRIDE * side, stem_width=width, pool_heads=max(1, CONV_STRIDE * width // _HEAD_WIDTH))
    return sizes | dict(blocks=blocks)


# -- timm's ConvNeXt ---------------------------------------------------------------------------------------------------

_CONVNEXT_FIELDS = {
    *("image_size", "timm_model_name", "timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias"),
    *("timm_drop", "timm_drop_path"),
}
_IGNORED = {"layers", "width", "head_width", "mlp_ratio", "patch_size", "patch_dropout", "output_tokens"}


def is_convnext(vision: Config) -> bool:
    """Whether a `vision_cfg` describes a ConvNeXt."""
    return re.match(r"(test_)?convnext", str(vision.get("timm_model_name") or "")) is not None


def convnext(vision: Config, quick: bool, path: Any) -> dict[str, Any]:
    """Settings of `model.image` from `vision_cfg`.

    Raises:
      UserError: a setting that mmjax does not have.
    """
    del quick  # which is for the texts
    openclip_config.check_fields(vision, "vision_cfg", path, known=_CONVNEXT_FIELDS | _IGNORED)
    name = vision["timm_model_name"].partition(".")[0]
    if name not in two_tower.CONVNEXTS:
        known = ", ".join(two_tower.CONVNEXTS)
        raise UserError(f"{path}: vision_cfg.timm_model_name={name!r} is not read; of ConvNeXts mmjax has {known}")
    pool, projection = vision.get("timm_pool", "avg"), vision.get("timm_proj", "linear")
    bias, drop_path = bool(vision.get("timm_proj_bias", False)), vision.get("timm_drop_path")
    if pool not in ("", "avg") or (projection, bias) not in _PROJECTIONS:
        raise UserError(
            f"{path}: vision_cfg.timm_pool={pool!r} with timm_proj={projection!r} and timm_proj_bias={bias} is not"
            " read; mmjax has the mean ('' or 'avg'), and 'linear', 'none' or, without a bias, 'mlp'"
        )
    if isinstance(drop_path, bool) or not isinstance(drop_path or 0.0, (int, float)) or not 0 <= (drop_path or 0) < 1:
        raise UserError(f"{path}: vision_cfg.timm_drop_path={drop_path!r} is not in [0, 1)")
    settings = convnext_settings(name) | dict(projection=_PROJECTIONS[projection, bias])
    return settings | dict(image_size=vision.get("image_size", 224), drop_path=float(drop_path or 0.0))


_PROJECTIONS = {
    ("linear", False): "linear",
    ("linear", True): "bias",
    ("mlp", False): "mlp",
    ("none", False): "none",
    ("none", True): "none",
}


def convnext_settings(name: str) -> dict[str, Any]:
    """Settings of a tower by timm's name, a key of `CONVNEXTS`, at their defaults where it says nothing."""
    defaults = dict(activation="gelu", norm_eps=1e-6, pool="mean", pool_norm=True, pool_heads=1)
    return dict(kind="convnext") | defaults | two_tower.CONVNEXTS[name]


_DECISIVE = ("blocks", "widths", "activation", "norm_eps", "pool", "pool_norm")


def convnext_config(image: Config) -> dict[str, Any]:
    """The content of `vision_cfg`.

    Raises:
      UserError: OpenCLIP has no such tower.
    """
    for name in two_tower.CONVNEXTS:
        known = convnext_settings(name)
        if all(_plain(known[field]) == _plain(image[field]) for field in _DECISIVE):
            kind, bias = next(key for key, ours in _PROJECTIONS.items() if ours == image["projection"])
            fields = dict(image_size=image["image_size"], timm_model_name=name, timm_model_pretrained=False)
            fields |= dict(timm_pool="", timm_proj=kind, timm_drop=0.0, timm_drop_path=image["drop_path"])
            return fields | (dict(timm_proj_bias=True) if bias else {})
    tower = ", ".join(f"{field}={image[field]}" for field in _DECISIVE)
    raise UserError(
        f"model.image with {tower}: OpenCLIP takes ConvNeXts from timm, by name, and none is like this; choose one of"
        f" {', '.join(two_tower.CONVNEXTS)}"
    )


def convnext_of_tensors(tensors: Tensors) -> dict[str, Any]:
    """Settings of a file without a config beside it: those of timm's tower of these sizes.

    Raises:
      UserError: timm has no such tower.
    """
    trunk = "visual.trunk."
    pattern = trunk.replace(".", r"\.") + r"stages\.{}\.blocks\.(\d+)\."
    stages = range(CONV_STAGES)
    blocks = tuple(model_settings.count_layers(tensors, pattern.format(stage)) for stage in stages)
    gamma = trunk + "stages.{}.blocks.0.gamma"
    widths = tuple(model_settings.param_shape(tensors, gamma.format(stage), 1)[0] for stage in stages)
    for name, known in two_tower.CONVNEXTS.items():
        if (known["blocks"], known["widths"]) == (blocks, widths):
            projection = "mlp" if "visual.head.mlp.fc1.weight" in tensors else "none"
            if "visual.head.proj.weight" in tensors:
                projection = "bias" if "visual.head.proj.bias" in tensors else "linear"
            size = published_towers.MissingSetting("256", "a ConvNeXt reads images of any size")
            return convnext_settings(name) | dict(projection=projection, image_size=size)
    raise UserError(f"{tensors.path}: a ConvNeXt of {blocks} blocks of the widths {widths}, which timm does not have")


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
