"""The families, by what config.json says and by our settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.errors import UserError, validate_choice
from mmjax.interop import config_format
from mmjax.interop.config_format import Settings
from mmjax.interop.families import blip, blip2, clip, llava, lone_clip, lone_tower, paligemma, timm_vit, vilt, vit_gpt2
from mmjax.interop.families.family import Family, Params

FAMILIES: tuple[Family, ...] = (
    vit_gpt2.FAMILY,
    blip.CAPTIONING,
    blip.QUESTION_ANSWERING,
    blip.RETRIEVAL,
    blip2.RETRIEVAL,
    blip2.CONDITIONAL,
    *vilt.FAMILIES,
    llava.FAMILY,
    paligemma.FAMILY,
    *lone_tower.FAMILIES,
    clip.CHINESE,
    clip.METACLIP_2,
    *lone_clip.FAMILIES,
)
# What is read, and written as one of the others.
READ_ONLY: tuple[Family, ...] = (timm_vit.FAMILY, clip.OWLVIT)
BY_KEY = {family.key: family for family in FAMILIES}


def of_config(config: Mapping[str, Any], path: Path) -> Family | None:
    """The family of a config.json; None where its `model_type` is none of theirs.

    Raises:
      UserError: another class of such a model, or none is named where there are several.
    """
    if timm_vit.is_of(config):
        return timm_vit.FAMILY
    known = [family for family in (*FAMILIES, clip.OWLVIT) if family.model_type == config.get("model_type")]
    if not known:
        return None
    classes = config.get("architectures") or []
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise UserError(f"{path}: architectures={str(classes)[:60]}: wants a list with the name of a class")
    matching = [family for family in known if {family.architecture, *family.aliases} & {*classes}]
    if matching or (len(known) == 1 and not classes):
        return (matching or known)[0]
    names = ", ".join(family.architecture for family in known)
    if not classes:
        raise UserError(
            f"{path}: no `architectures` says of which class the model is; of model_type={config['model_type']!r} mmjax"
            f' reads {names}: add "architectures": [...] with one of them'
        )
    raise UserError(
        f"{path}: architectures={classes} is not read; of model_type={config['model_type']!r} mmjax reads {names}"
    )


def select(settings: Settings, params: Params, architecture: str = "") -> tuple[Family, Settings, Params]:
    """The family that a model, or a part of it, is written as, with the settings and parameters that then are written.

    Args:
      settings: of the model.
      params: its arrays by path.
      architecture: the class of transformers that a part is written for; "" for the model's own.

    Raises:
      UserError: no family has such a model, or the class is of another kind of model.
    """
    parts = {form.architecture: form for form in FAMILIES if form.part_of is not None}
    if architecture:
        form = parts[validate_choice("--architecture", architecture, parts)]
        try:
            settings, params = form.part_of(settings, params) if form.part_of else (settings, params)
        except ValueError as error:
            raise UserError(f"--architecture={architecture}: {error}") from error
    elif settings.get("caption"):
        classes = [form.architecture for form in parts.values() if settings["kind"] in form.larger]
        names = " or ".join(f"--architecture={name}" for name in classes)
        raise UserError(
            f"model.kind={settings['kind']!r} with model.caption=True: no class there has all of it; give {names}"
        )
    return of_settings(settings), settings, params


def of_settings(settings: Mapping[str, Any]) -> Family:
    """The family that has a model of such settings.

    Raises:
      UserError: none has; the first field that differs from the nearest one is named.
    """
    kind = settings["kind"]
    known = [family for family in FAMILIES if family.settings["kind"] == kind]
    if not known:
        kinds = ", ".join(dict.fromkeys(f"{family.settings['kind']!r}" for family in FAMILIES))
        raise UserError(
            f"model.kind={kind!r}: --to=hf writes two towers and {kinds}; mmjax.load and config.init_from read workdirs"
        )
    nearest = min(known, key=lambda family: len(list(config_format.differences(family, settings))))
    for field, value, wanted in config_format.differences(nearest, settings):
        raise UserError(f"model.{field}={value!r}: {nearest.name} has {wanted!r} there")
    return nearest
