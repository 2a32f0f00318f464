"""Image towers of OpenCLIP: what each kind is recognised by, its config both ways, and its names."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from mmjax.errors import UserError
from mmjax.interop import model_settings, openclip_config, openclip_conv, timm_dinov2, timm_siglip, timm_towers
from mmjax.interop.param_names import convolutional as conv_names
from mmjax.interop.param_names import openclip as names
from mmjax.interop.param_names.rows import Row
from mmjax.interop.tensor_files import Tensors
from mmjax.nn.config import BlockConfig, block_config

Config = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTower:
    """A kind of image tower.

    Attributes:
      marker: a parameter that this kind alone has, of those before it in `TOWERS`; or several, apart by a space.
      reads: whether a `vision_cfg` describes one.
      writes: whether settings of `model.image` are those of one.
      from_config: (vision_cfg, the model's `quick_gelu`, path) -> settings.
      to_config: settings -> vision_cfg; raises `UserError` where OpenCLIP has no such tower.
      template: the settings of the model that such a tower belongs to, to be filled in.
      rows: its table of names; or (settings, the file that is read) -> the table.
      from_tensors: settings of a file without a config beside it; None where `openclip_bare` has them.
      custom_text: the texts' names then stand under `text.`.
      reads_quick: `quick_gelu` is for it, too, and not for the texts alone.
    """

    marker: str
    reads: Callable[[Config], bool]
    writes: Callable[[Config], bool]
    from_config: Callable[[Config, bool, Any], dict[str, Any]]
    to_config: Callable[[Config], dict[str, Any]]
    template: Callable[[], model_settings.Settings]
    rows: list[Row] | Callable[[Config, Tensors | None], list[Row]]
    from_tensors: Callable[[Tensors], dict[str, Any]] | None = None
    custom_text: bool = False
    reads_quick: bool = False


def of_tensors(tensors: Tensors) -> str:
    """The kind of a file's image tower, a key of `TOWERS`."""
    has_all = lambda tower: all(name in tensors for name in tower.marker.split())
    return next((kind for kind, tower in TOWERS.items() if has_all(tower)), "vit")


def of_config(vision: Config) -> str:
    """The kind of a `vision_cfg`, a key of `TOWERS`."""
    return next(kind for kind, tower in TOWERS.items() if tower.reads(vision))


def of_settings(image: Config) -> str:
    """The kind that settings of `model.image` are written as, a key of `TOWERS`."""
    return next(kind for kind, tower in TOWERS.items() if tower.writes(image))


def notes(image: Config) -> list[str]:
    """Lines on what OpenCLIP has to be called with for settings of `model.image`."""
    return timm_dinov2.notes(image) if of_settings(image) == timm_dinov2.KIND else []


# Fields of `vision_cfg` that change nothing in what a trained model computes.
_IGNORED = {
    "output_tokens",
    "patch_dropout",
    "attn_pooler_queries",
    "attn_pooler_heads",
}

# -- OpenCLIP's own vision transformer ---------------------------------------------------------------------------------

_POOLS = {"tok": "cls", "avg": "mean"}
_VIT_FIELDS = {
    *("image_size", "layers", "width", "head_width", "mlp_ratio", "patch_size", "no_ln_pre"),
    *("pool_type", "final_ln_after_pool", "ls_init_value"),
}


def _vit(vision: Config, quick: bool, path: Any) -> dict[str, Any]:
    width, layers = vision.get("width", 768), vision.get("layers", 12)
    known = _VIT_FIELDS | _IGNORED | {"act_kwargs", "norm_kwargs"}
    known |= {field for field in vision if field.startswith("timm_")}  # of timm's towers
    fixed = dict(pos_embed_type=("learnable",))
    openclip_config.check_fields(vision, "vision_cfg", path, known=known, fixed=fixed)
    pool = vision.get("pool_type", "tok")
    if pool not in _POOLS:
        raise UserError(f"{path}: vision_cfg.pool_type={pool!r} is not read; mmjax reads {', '.join(_POOLS)}")
    pooled: dict[str, Any] = dict(pool=_POOLS[pool])
    # The norm comes before pooling or after it: for one token that is the same.
    if pool == "avg" and vision.get("final_ln_after_pool", False):
        pooled |= dict(final_norm=False, pool_norm=True)
    return (
        openclip_config.layer_scale(vision, path)
        | pooled
        | dict(
            width=width,
            depth=layers,
            heads=width // vision.get("head_width", 64),
            mlp_dim=int(width * vision.get("mlp_ratio", 4.0)),
            pre_norm=not vision.get("no_ln_pre", False),
            image_size=_side(vision.get("image_size", 224), path),
            patch_size=vision.get("patch_size", 16),
            activation=openclip_config.activation(vision, quick, path),
            norm_eps=openclip_config.norm_eps(vision),
        )
    )


def _side(size: Any, path: Any) -> int:
    if isinstance(size, (list, tuple)):
        if len(set(size)) != 1:
            raise UserError(f"{path}: image_size={size} is not square")
        return size[0]
    return size


def _vit_config(image: Config) -> dict[str, Any]:
    openclip_config.require("image", image, class_token=True, patch_bias=False, projection="linear")
    full = model_settings.full_tower("image", image)
    is_last = image["pool"] == "mean" and full["pool_norm"]
    norms = dict(final_norm=not is_last, pool_norm=is_last)
    openclip_config.require("image", full, **norms, registers=0)
    if image["pool"] not in _POOLS.values():
        raise UserError(f"model.image.pool={image['pool']!r}: OpenCLIP's tower of this kind has 'cls' or 'mean'")
    vision = dict(image_size=image["image_size"], patch_size=image["patch_size"], width=image["width"])
    vision |= dict(layers=image["depth"], head_width=image["width"] // image["heads"])
    vision |= openclip_config.written_mlp_ratio("image", image) | ({} if image["pre_norm"] else dict(no_ln_pre=True))
    vision |= openclip_config.written_layer_scale("image", image)
    if image["pool"] == "mean":
        vision |= dict(pool_type="avg", final_ln_after_pool=is_last)
    return vision | openclip_config.written_layers("image", image)


# -- SigLIP's, of timm -------------------------------------------------------------------------------------------------

_TIMM_FIELDS = {"image_size", "timm_model_name", "timm_model_pretrained", "timm_drop", "timm_drop_path"}


def _timm_siglip(vision: Config, quick: bool, path: Any) -> dict[str, Any]:
    del quick  # which timm's towers do not read
    settings = timm_siglip.tower_settings(vision["timm_model_name"], path)
    known = _TIMM_FIELDS | _VIT_FIELDS | _IGNORED | {"act_kwargs", "norm_kwargs", "pool_type", "pos_embed_type"}
    fixed = dict(timm_pool=("map",), timm_proj=("none",))
    openclip_config.check_fields(vision, "vision_cfg", path, known=known, fixed=fixed)
    if vision.get("image_size", settings["image_size"]) != settings["image_size"]:
        raise UserError(f"{path}: vision_cfg.image_size={vision['image_size']} is not that of timm_model_name")
    return settings


def _timm_siglip_config(image: Config) -> dict[str, Any]:
    openclip_config.require("image", image, class_token=False, patch_bias=True, pre_norm=False, projection="none")
    model_settings.require_plain({"image": image}, "timm's SigLIP", text=False)
    return dict(
        image_size=image["image_size"],
        timm_model_name=timm_siglip.timm_name(image),
        timm_model_pretrained=False,
        timm_pool="map",
        timm_proj="none",
    )


# -- other towers of timm's --------------------------------------------------------------------------------------------


def _timm_kind(
    kind: str,
    marker: str,
    rows: list[Row] | Callable[[Config, Tensors | None], list[Row]],
    writes: Callable[[Config], bool],
) -> ImageTower:
    """A kind of the towers of `timm_towers`."""

    def from_config(vision: Config, quick: bool, path: Any) -> dict[str, Any]:
        del quick
        known = _TIMM_FIELDS | _VIT_FIELDS | _IGNORED | {"act_kwargs", "norm_kwargs", "pos_embed_type"}
        openclip_config.check_fields(vision, "vision_cfg", path, known=known | {"timm_pool", "timm_proj"})
        return timm_towers.from_config(vision, path)

    return ImageTower(
        marker=marker,
        reads=lambda vision: timm_towers.kind_of(vision.get("timm_model_name")) == kind,
        writes=writes,
        from_config=from_config,
        to_config=functools.partial(timm_towers.to_config, kind),
        template=model_settings.clip_template,
        rows=rows,
        custom_text=True,
    )


def _block(image: Config) -> BlockConfig:
    return block_config(image.get("block"))


_BLOCKS = "visual.trunk.blocks.0"
# By kind, the first that fits.
TOWERS: dict[str, ImageTower] = {
    "convnext": ImageTower(
        marker="visual.trunk.stages.0.blocks.0.gamma",
        reads=openclip_conv.is_convnext,
        writes=lambda image: image.get("kind") == "convnext",
        from_config=openclip_conv.convnext,
        to_config=openclip_conv.convnext_config,
        template=functools.partial(openclip_conv.template, "convnext_base_w"),
        rows=conv_names.CONVNEXT,
        from_tensors=openclip_conv.convnext_of_tensors,
    ),
    "resnet": ImageTower(
        marker="visual.layer1.0.conv1.weight",
        reads=openclip_conv.is_resnet,
        writes=lambda image: image.get("kind") == "resnet",
        from_config=openclip_conv.resnet,
        to_config=openclip_conv.resnet_config,
        template=functools.partial(openclip_conv.template, "RN50"),
        rows=conv_names.RESNET,
        from_tensors=openclip_conv.resnet_of_tensors,
    ),
    "timm_eva02": _timm_kind(
        "timm_eva02",
        f"{_BLOCKS}.mlp.fc1_g.weight",
        names.TIMM_EVA02,
        lambda image: _block(image).mlp_gate and not _block(image).key_bias,
    ),
    "timm_eva": _timm_kind(
        "timm_eva", f"{_BLOCKS}.attn.q_bias", names.TIMM_EVA, lambda image: not _block(image).key_bias
    ),
    timm_dinov2.KIND: _timm_kind(
        timm_dinov2.KIND,
        f"{_BLOCKS}.ls1.gamma visual.trunk.cls_token",
        timm_dinov2.rows,
        lambda image: bool(_block(image).layer_scale) and image["patch_bias"] and image["pool"] == "cls",
    ),
    "timm_gap": _timm_kind(
        "timm_gap",
        f"{_BLOCKS}.ls1.gamma",
        names.TIMM_GAP,
        lambda image: image["pool"] == "mean" and not image["class_token"],
    ),
    "timm_vit": _timm_kind(
        "timm_vit", "visual.trunk.norm_pre.weight", names.TIMM_VIT, lambda image: image["projection"] == "bias"
    ),
    "timm_siglip": ImageTower(
        marker="visual.trunk.patch_embed.proj.weight",
        reads=lambda vision: bool(vision.get("timm_model_name")),
        writes=lambda image: image["pool"] == "map",
        from_config=_timm_siglip,
        to_config=_timm_siglip_config,
        template=model_settings.siglip_template,
        rows=names.TIMM_SIGLIP,
        custom_text=True,
    ),
    "vit": ImageTower(
        marker="visual.conv1.weight",
        reads=lambda vision: True,
        writes=lambda image: True,
        from_config=_vit,
        to_config=_vit_config,
        template=model_settings.clip_template,
        rows=names.VIT,
        reads_quick=True,
    ),
}
