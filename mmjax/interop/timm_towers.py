"""Image towers of timm's that OpenCLIP takes by name, beside SigLIP's (`timm_siglip`): what each name stands for.

Perception Encoder (arXiv:2504.13181), EVA (arXiv:2211.07636) and EVA-02 (arXiv:2303.11331) as EVA-CLIP has them
(arXiv:2303.15389), DINOv2 (arXiv:2304.07193; `timm_dinov2`), and two plain vision transformers. Settings are those of
timm 1.0.31.
"""

from collections.abc import Mapping
from typing import Any

from mmjax.errors import UserError
from mmjax.interop import model_settings, timm_dinov2

_EVA_EPS, _CLIP_EPS = 1e-6, 1e-5
_OF_CLIP = dict(class_token=True, pool="cls", projection="bias", activation="gelu")


def _layers(width: int, depth: int, heads: int, mlp_dim: int) -> dict[str, int]:
    return dict(width=width, depth=depth, heads=heads, mlp_dim=mlp_dim)


def _eva(layers: dict[str, int], patch_size: int, image_size: int = 224, **changes: Any) -> dict[str, Any]:
    """EVA-01; EVA-02's E/14 has norms of what a branch adds."""
    settings = layers | dict(image_size=image_size, patch_size=patch_size, patch_bias=True, pre_norm=False)
    return settings | _OF_CLIP | dict(norm_eps=_EVA_EPS, block=dict(key_bias=False)) | changes


def _eva02(layers: dict[str, int], patch_size: int, image_size: int = 224) -> dict[str, Any]:
    block = dict(key_bias=False, attention_norm=True, mlp_gate=True, mlp_norm=True, rope="interleaved", rope_grid=16)
    return _eva(layers, patch_size, image_size, activation="silu", block=block)


def _perception_encoder(
    layers: dict[str, int], patch_size: int, image_size: int, *, class_token: bool = True
) -> dict[str, Any]:
    block: dict[str, Any] = dict(rope="interleaved", rope_grid=image_size // patch_size, rope_axes="xy")
    block["rope_offset"] = float(class_token)  # without one, positions count from 0
    settings = layers | dict(image_size=image_size, patch_size=patch_size, patch_bias=False, pre_norm=True)
    settings |= _OF_CLIP | dict(class_token=class_token, norm_eps=_CLIP_EPS, pool="map", pool_heads=8, block=block)
    return settings | dict(pool_mlp_dim=4 * layers["width"])


# By timm's name: the kind of `openclip_image.TOWERS`, and the tower's settings.
TOWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "eva_giant_patch14_224": ("timm_eva", _eva(_layers(1408, 40, 16, 6144), 14)),
    "eva_giant_patch14_clip_224": ("timm_eva", _eva(_layers(1408, 40, 16, 6144), 14)),
    "eva02_base_patch16_clip_224": ("timm_eva02", _eva02(_layers(768, 12, 12, 2048), 16)),
    "eva02_large_patch14_clip_224": ("timm_eva02", _eva02(_layers(1024, 24, 16, 2730), 14)),
    "eva02_large_patch14_clip_336": ("timm_eva02", _eva02(_layers(1024, 24, 16, 2730), 14, 336)),
    "eva02_enormous_patch14_clip_224": (
        "timm_eva",
        _eva(_layers(1792, 64, 16, 15360), 14, block=dict(key_bias=False, res_post_norm=True)),
    ),
    "vit_pe_core_tiny_patch16_384": ("timm_vit", _perception_encoder(_layers(192, 12, 3, 768), 16, 384)),
    "vit_pe_core_small_patch16_384": ("timm_vit", _perception_encoder(_layers(384, 12, 6, 1536), 16, 384)),
    "vit_pe_core_base_patch16_224": ("timm_vit", _perception_encoder(_layers(768, 12, 12, 3072), 16, 224)),
    "vit_pe_core_large_patch14_336": ("timm_vit", _perception_encoder(_layers(1024, 24, 16, 4096), 14, 336)),
    "vit_pe_core_gigantic_patch14_448": (
        "timm_vit",
        _perception_encoder(_layers(1536, 50, 16, 8960), 14, 448, class_token=False),
    ),
    # MobileCLIP2-L/14's
    "vit_large_patch14_clip_224": (
        "timm_vit",
        _layers(1024, 24, 16, 4096)
        | _OF_CLIP
        | dict(image_size=224, patch_size=14, patch_bias=False, pre_norm=True, norm_eps=_CLIP_EPS),
    ),
    "vit_medium_patch16_gap_256": (
        "timm_gap",
        _layers(512, 12, 8, 2048)
        | dict(image_size=256, patch_size=16, patch_bias=True, pre_norm=False, class_token=False, norm_eps=_EVA_EPS)
        | dict(pool="mean", projection="linear", activation="gelu", block=dict(qkv_bias=False, layer_scale=1e-6)),
    ),
    **{name: (timm_dinov2.KIND, settings) for name, settings in timm_dinov2.TOWERS.items()},
}
# Settings of the texts beside a tower, where its published model has others than CLIP's.
_TEXTS: dict[str, dict[str, Any]] = {"vit_large_patch14_clip_224": dict(causal=False)}
# For messages.
KNOWN = "those of SigLIP, EVA, Perception Encoder, DINOv2, vit_large_patch14_clip_224 and vit_medium_patch16_gap_256"
KINDS = {kind for kind, _ in TOWERS.values()}
# `timm_pool` and `timm_proj` of OpenCLIP's configs, by our pool and projection.
_POOLS = {"cls": "token", "map": "map", "mean": ""}
_PROJECTIONS = {"bias": None, "linear": "linear", "none": "none"}


def kind_of(name: str | None) -> str | None:
    """The kind of the tower of a name; None where the name is none of these."""
    name = (name or "").partition(".")[0]  # without the tag of published weights, such as `.fb`
    return TOWERS[name][0] if name in TOWERS else None


def from_config(vision: Mapping[str, Any], path: Any) -> dict[str, Any]:
    """A tower's settings by timm's name, its pool and its projection.

    Raises:
      UserError: OpenCLIP's model of this tower has another pool or projection.
    """
    name = vision["timm_model_name"].partition(".")[0]
    kind, settings = TOWERS[name][0], dict(TOWERS[name][1])
    if kind == timm_dinov2.KIND:
        settings |= timm_dinov2.from_config(vision, path)
    wanted = dict(timm_pool=_POOLS[settings["pool"]], timm_proj=_PROJECTIONS[settings["projection"]])
    for field, value in wanted.items():
        if (vision.get(field) or None) != (value or None):
            raise UserError(
                f"{path}: vision_cfg.{field}={vision.get(field)!r} is not read; mmjax has {value!r} with {name}"
            )
    if vision.get("image_size", settings["image_size"]) != settings["image_size"]:
        raise UserError(f"{path}: vision_cfg.image_size={vision['image_size']} is not that of timm_model_name")
    return settings


def to_config(kind: str, image: Mapping[str, Any]) -> dict[str, Any]:
    """The `vision_cfg` of settings of `model.image`.

    Raises:
      UserError: timm registers no such tower.
    """
    ours = model_settings.full_tower("image", image)
    for name, (other, settings) in TOWERS.items():
        if other != kind:
            continue
        theirs = model_settings.full_tower("image", settings)
        if kind == timm_dinov2.KIND:
            theirs = timm_dinov2.without_free(theirs, ours)
        if all(ours[field] == value for field, value in theirs.items() if model_settings.affects_output(field)):
            if kind == timm_dinov2.KIND:
                timm_dinov2.check_size(image["image_size"], "model.image.image_size")
            fields = dict(timm_pool=_POOLS[image["pool"]], timm_proj=_PROJECTIONS[image["projection"]])
            return dict(image_size=image["image_size"], timm_model_name=name, timm_model_pretrained=False) | fields
    fields = ("width", "depth", "patch_size", "image_size", "activation", "pool")
    tower = ", ".join(f"{field}={image[field]!r}" for field in fields)
    raise UserError(f"model.image with {tower}: OpenCLIP takes such towers from timm, by name, and none is like this")


def published(
    kind: str, width: int, mlp_dim: int, patch: int, patches: int, registers: int, pool: str | None, path: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of a file without a config: of the tower of a kind with these sizes; `pool` is `map` or None.

    Returns:
      Those of the tower, and what is known of the texts of its published model.

    Raises:
      UserError: there is none.
    """
    for name, (other, settings) in TOWERS.items():
        side = settings["image_size"] // settings["patch_size"]
        sizes = (settings["width"], settings["mlp_dim"], settings["patch_size"], side * side)
        sizes += (settings.get("registers", 0),)
        is_map = settings["pool"] == "map"
        if (other, sizes, is_map) == (kind, (width, mlp_dim, patch, patches, registers), pool == "map"):
            return dict(settings), {"activation": "gelu"} | _TEXTS.get(name, {})
    raise UserError(
        f"{path}: no published tower of timm's has width {width}, MLPs of {mlp_dim} and {patches} patches of {patch}"
        " pixels; give the folder that open_clip_config.json lies in"
    )


def unknown(name: str, path: Any) -> UserError:
    """The error of a name that is none of timm's towers that mmjax has."""
    return UserError(f"{path}: vision_cfg.timm_model_name={name!r} is not read; of timm's towers mmjax has {KNOWN}")
