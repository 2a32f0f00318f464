"""The families, by what config.json says and by our settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.errors import UserError
from mmjax.interop import config_format
from mmjax.interop.families import blip, vilt, vit_gpt2
from mmjax.interop.families.family import Family

FAMILIES: tuple[Family, ...] = (vit_gpt2.FAMILY, blip.CAPTIONING, *vilt.FAMILIES)
BY_KEY = {family.key: family for family in FAMILIES}


def of_config(config: Mapping[str, Any], path: Path) -> Family | None:
    """The family of a config.json; None where its `model_type` is none of theirs.

    Raises:
      UserError: another class of such a model, or none is named where there are several.
    """
    known = [family for family in FAMILIES if family.model_type == config.get("model_type")]
    if not known:
        return None
    classes = config.get("architectures") or []
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise UserError(f"{path}: architectures={str(classes)[:60]}: wants a list with the name of a class")
    matching = [family for family in known if family.architecture in classes]
    if matching or (len(known) == 1 and not classes):
        return (matching or known)[0]
    names = ", ".join(family.architecture for family in known)
    raise UserError(
        f"{path}: architectures={classes} is not read; of model_type={config['model_type']!r} mmjax reads {names}"
    )


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
