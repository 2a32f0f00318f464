"""Lone image towers of Hugging Face's, with their classifier and without: ViT, DINOv2, DINOv2 with registers."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmjax.interop import preprocessing
from mmjax.interop.config_format import Raw, Settings, one_size
from mmjax.interop.families.family import Family, activation, read_labels
from mmjax.interop.families.layers import VIT, image_fields, image_settings
from mmjax.interop.param_names import vit as names
from mmjax.interop.param_names.rows import rows, torch_pair
from mmjax.interop.purpose import Purpose

OURS = "encoder_image/"
_MOST_REGISTERS = 1000
_VIT = dict(
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    hidden_act="gelu",
    image_size=224,
    patch_size=16,
)
# What DINOv2's layers have of what others have otherwise.
_BLOCK = dict(
    norm_type="layer_norm",
    **dict(res_post_norm=False, attention_norm=False, mlp_norm=False),
    **dict(kv_heads=0, head_dim=0, rope="none"),
    **dict.fromkeys(("qkv_bias", "key_bias", "out_bias", "mlp_bias"), True),
)
_DINOV2 = dict(_VIT, layer_norm_eps=1e-6, patch_size=14, mlp_ratio=4, layerscale_value=Raw(), use_swiglu_ffn=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoneTower(Family):
    """A family of towers, of which some files have a processor that resizes to more pixels than it cuts out."""

    def prepare_images(self, folder: Path, size: int) -> tuple[dict[str, Any], tuple[str, ...]]:
        file = preprocessing.read_hf_file(folder)
        fields = {} if file is None else file[1]
        if self.processor != "BitImageProcessor" or "crop_size" not in fields:
            return super().prepare_images(folder, size)
        path, fields = file or (folder, {})
        kept = {name: value for name, value in fields.items() if name not in ("size", "crop_size")}
        note = (
            f"images: the short side becomes {size} pixels, and the middle is cut out; {path.name} resizes to"
            f" {str(fields.get('size'))[:40]} and cuts out {str(fields['crop_size'])[:40]}, for which the positions are"
            " resampled there: mmjax.load(..., image_size=224)"
        )
        return preprocessing.from_hf(kept, self.processor, size, path), (note,)


def one_tower(image: Settings, pool: str, config: Mapping[str, Any], headed: bool) -> Settings:
    """The model of one tower."""
    classes = len(read_labels(config["id2label"])) if headed else 0
    encoder = dict(kind="image") | image
    return dict(
        kind="fused",
        encoders=dict(image=encoder),
        fusion=dict(kind="alone", pool=pool),
        classes=classes,
        image=dict(image_size=image["image_size"]),
    )


def purpose(headed: bool, config: Mapping[str, Any], folder: Path) -> Purpose:
    del folder
    if not headed:
        return Purpose(objectives={})
    return Purpose(objectives={"classify": 1.0}, classes=read_labels(config.get("id2label")))


def _table(tower: Callable[[str, str, Settings], list[Any]], prefix: str, headed: bool, settings: Settings):
    image = settings["encoders"]["image"]
    return [*tower(prefix if headed else "", OURS, image), *rows("", "", *torch_pair("classifier", "head"))]


# -- ViT ---------------------------------------------------------------------------------------------------------------


def _vit(headed: bool, config: Mapping[str, Any]) -> Settings:
    image = image_settings(config, "config", **VIT) | dict(position_antialias=False)
    return one_tower(image, "cls", config, headed)


def _vit_back(settings: Settings) -> dict[str, Any]:
    return image_fields(settings["encoders"]["image"])


def _pooler(settings: Settings) -> dict[str, tuple[int, ...]]:
    """Of `ViTModel`, which the tower's tokens do not depend on."""
    width = settings["encoders"]["image"]["width"]
    return {"pooler.dense.weight": (width, width), "pooler.dense.bias": (width,)}


def fixed_settings(headed: bool, pool: str, block: Mapping[str, Any] | None, **encoder: Any) -> dict[str, Any]:
    encoder = dict(class_token=True, patch_bias=True, pre_norm=False, final_norm=True, block=block) | encoder
    return dict(kind="fused", fusion=dict(kind="alone", pool=pool, projection=0), encoders=dict(image=encoder)) | (
        {} if headed else dict(classes=0)
    )


def _vit_family(headed: bool) -> Family:
    return LoneTower(
        name=f"Hugging Face's ViT {'for classes' if headed else 'without a head'}",
        model_type="vit",
        architecture="ViTForImageClassification" if headed else "ViTModel",
        defaults=_VIT | dict(intermediate_size=3072, layer_norm_eps=1e-12) | (dict(id2label=Raw()) if headed else {}),
        fixed=dict(num_channels=3, qkv_bias=True),
        settings=fixed_settings(headed, "cls", None, registers=0),
        from_config=functools.partial(_vit, headed),
        to_config=_vit_back,
        table=functools.partial(_table, lambda prefix, ours, image: names.table(prefix, ours), "vit.", headed),
        unread=r"(vit\.)?(pooler\.|embeddings\.mask_token$)",
        unused=(lambda settings: {}) if headed else _pooler,
        processor="ViTImageProcessor",
        purpose=functools.partial(purpose, headed),
    )


# -- DINOv2 ------------------------------------------------------------------------------------------------------------


def _gated(width: int, ratio: int) -> int:
    """Hidden units of the gated MLP of a width."""
    return (int(width * ratio * 2 / 3) + 7) // 8 * 8


def _dinov2(headed: bool, registers: bool, config: Mapping[str, Any]) -> Settings:
    scale = config["layerscale_value"]
    scale = 1.0 if scale is None else scale
    if type(scale) not in (int, float) or not 0 < scale <= 1e6:
        raise ValueError(f"layerscale_value={str(scale)[:40]} wants a number above 0")
    width, gated = config["hidden_size"], config["use_swiglu_ffn"]
    image = dict(
        {name: one_size(name, config[name]) for name in ("image_size", "patch_size")},
        width=width,
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp_dim=_gated(width, config["mlp_ratio"]) if gated else width * config["mlp_ratio"],
        activation="silu" if gated else activation("hidden_act", config["hidden_act"]),
        norm_eps=float(config["layer_norm_eps"]),
        **VIT,
        block=dict(layer_scale=float(scale), mlp_gate=gated),
        position_antialias=registers,  # as their `interpolate_pos_encoding`
    )
    if registers:
        if config["num_register_tokens"] > _MOST_REGISTERS:
            raise ValueError(f"num_register_tokens={config['num_register_tokens']} is more than any model has")
        image["registers"] = config["num_register_tokens"]
    return one_tower(image, "cls_mean" if headed else "cls", config, headed)


def _dinov2_back(registers: bool, settings: Settings) -> dict[str, Any]:
    image = settings["encoders"]["image"]
    gated = image["block"]["mlp_gate"]
    fields = image_fields(image | dict(activation="gelu"))
    fields["hidden_act"] = "gelu" if gated else image_fields(image)["hidden_act"]
    del fields["intermediate_size"]
    ratios = [
        n for n in range(1, 65) if image["mlp_dim"] == (_gated(image["width"], n) if gated else n * image["width"])
    ]
    if not ratios or (gated and image["activation"] != "silu"):
        raise ValueError(
            f"model.encoders.image.mlp_dim={image['mlp_dim']} with activation={image['activation']!r} is no MLP of its"
        )
    fields |= dict(mlp_ratio=4 if 4 in ratios else ratios[0], use_swiglu_ffn=gated)
    fields["layerscale_value"] = image["block"]["layer_scale"]
    return fields | (dict(num_register_tokens=image["registers"]) if registers else {})


def _dinov2_family(headed: bool, registers: bool) -> Family:
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    prefix = "dinov2_with_registers." if registers else "dinov2."
    title = "DINOv2 with registers" if registers else "DINOv2"
    start = prefix if headed else ""
    return LoneTower(
        name=f"Hugging Face's {title} {'for classes' if headed else 'without a head'}",
        model_type="dinov2_with_registers" if registers else "dinov2",
        architecture=f"{kind}ForImageClassification" if headed else f"{kind}Model",
        defaults=_DINOV2
        | (dict(id2label=Raw()) if headed else {})
        | (dict(num_register_tokens=4) if registers else {}),
        fixed=dict(num_channels=3, qkv_bias=True),
        settings=fixed_settings(
            headed, "cls_mean" if headed else "cls", _BLOCK, **({} if registers else dict(registers=0))
        ),
        from_config=functools.partial(_dinov2, headed, registers),
        to_config=functools.partial(_dinov2_back, registers),
        table=functools.partial(
            _table,
            lambda prefix, ours, image: names.dinov2(prefix, ours, is_gated=image["block"]["mlp_gate"]),
            prefix,
            headed,
        ),
        unread=r"(dinov2(_with_registers)?\.)?embeddings\.mask_token$",
        unused=lambda settings: {f"{start}embeddings.mask_token": (1, settings["encoders"]["image"]["width"])},
        processor="BitImageProcessor",
        purpose=functools.partial(purpose, headed),
    )


FAMILIES = (
    *(_vit_family(headed) for headed in (False, True)),  # of settings that suit both the first is taken
    *(_dinov2_family(headed, registers) for registers in (False, True) for headed in (False, True)),
)
