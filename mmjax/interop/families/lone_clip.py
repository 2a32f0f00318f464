"""Lone image towers of Hugging Face's CLIP, with its projection and without, and SigLIP."""

import functools
from collections.abc import Mapping
from typing import Any

from mmjax.interop.config_format import Settings
from mmjax.interop.families.family import Family
from mmjax.interop.families.layers import VIT, image_fields, image_settings
from mmjax.interop.families.lone_tower import OURS, fixed_settings, one_tower, purpose
from mmjax.interop.huggingface import DEFAULTS, PROCESSORS
from mmjax.interop.param_layouts import LINEAR
from mmjax.interop.param_names import huggingface as names
from mmjax.interop.param_names.rows import Row, rows

_PREFIX = "vision_model."
_CLIP: Settings = dict(patch_bias=False, pre_norm=True)
_SIGLIP: Settings = dict(class_token=False)


def _defaults(kind: str) -> dict[str, Any]:
    vision = DEFAULTS[kind]["vision"]
    return {name: value for name, value in vision.items() if name != "num_channels"}


# -- CLIP --------------------------------------------------------------------------------------------------------------


def _clip(projected: bool, config: Mapping[str, Any]) -> Settings:
    settings = one_tower(image_settings(config, "config", **_CLIP), "cls", config, False)
    settings["fusion"]["projection"] = config["projection_dim"] if projected else 0
    return settings


def _clip_back(projected: bool, settings: Settings) -> dict[str, Any]:
    size = settings["fusion"]["projection"]
    if projected != bool(size):
        raise ValueError(f"model.fusion.projection={size} is that of another class")
    return image_fields(settings["encoders"]["image"]) | (dict(projection_dim=size) if projected else {})


def _clip_table(projected: bool, settings: Settings) -> list[Row]:
    del settings
    if not projected:
        return names.vision("", OURS)
    head = rows("", "fusion/", ("visual_projection.weight", "projection/kernel", LINEAR))
    return [*names.vision(_PREFIX, OURS), *head]


def _clip_settings(projected: bool) -> dict[str, Any]:
    settings = fixed_settings(False, "cls", None, **_CLIP, registers=0)
    fusion = {name: value for name, value in settings["fusion"].items() if not projected or name != "projection"}
    return settings | dict(fusion=fusion)


def _clip_family(projected: bool) -> Family:
    return Family(
        name=f"Hugging Face's CLIP image tower {'with' if projected else 'without'} its projection",
        model_type="clip_vision_model",
        architecture="CLIPVisionModelWithProjection" if projected else "CLIPVisionModel",
        defaults=_defaults("clip") | (dict(projection_dim=512) if projected else {}),
        fixed=dict(num_channels=3),
        settings=_clip_settings(projected),
        from_config=functools.partial(_clip, projected),
        to_config=functools.partial(_clip_back, projected),
        table=functools.partial(_clip_table, projected),
        # Other versions of the library begin the names of a tower without projection like those of one with it.
        renamed=(lambda name: name) if projected else (lambda name: name.removeprefix(_PREFIX)),
        processor=PROCESSORS["clip"],
        purpose=functools.partial(purpose, False),
    )


# -- SigLIP ------------------------------------------------------------------------------------------------------------


def _siglip(config: Mapping[str, Any]) -> Settings:
    return one_tower(image_settings(config, "config", **VIT, **_SIGLIP), "map", config, False)


def _siglip_table(settings: Settings) -> list[Row]:
    del settings
    return [*names.vision("", OURS), *names.vision_pool("head.", "fusion/pool/")]


_SIGLIP_FAMILY = Family(
    name="Hugging Face's SigLIP image tower",
    model_type="siglip_vision_model",
    architecture="SiglipVisionModel",
    defaults=_defaults("siglip"),
    fixed=dict(num_channels=3, vision_use_head=True),
    settings=fixed_settings(False, "map", None, **_SIGLIP, registers=0),
    from_config=_siglip,
    to_config=lambda settings: image_fields(settings["encoders"]["image"]),
    table=_siglip_table,
    renamed=lambda name: name.removeprefix(_PREFIX),
    processor=PROCESSORS["siglip"],
    purpose=functools.partial(purpose, False),
)

FAMILIES = (*(_clip_family(projected) for projected in (False, True)), _SIGLIP_FAMILY)
