"""Groups that have fields of their own by `kind`: models, encoders of a modality, fusions."""

from collections.abc import Mapping
from typing import Any

from mmjax import registry
from mmjax.errors import UserError, validate_choice
from mmjax.models import config as models
from mmjax.models.fusion import config as fusion
from mmjax.registry import Registry


def _by_kind(*classes: type) -> dict[str, type]:
    return {cls.kind: cls for cls in classes}


ENCODERS = _by_kind(
    fusion.ImageEncoderConfig,
    fusion.TextEncoderConfig,
    fusion.VideoEncoderConfig,
    fusion.AudioEncoderConfig,
    fusion.SeriesEncoderConfig,
    fusion.TableEncoderConfig,
    fusion.FeaturesEncoderConfig,
)
FUSIONS = _by_kind(
    fusion.ConcatConfig,
    fusion.WeightedConfig,
    fusion.GatedConfig,
    fusion.AttentionConfig,
    fusion.CrossConfig,
    fusion.JointConfig,
    fusion.BottleneckConfig,
    fusion.LateConfig,
    fusion.HybridConfig,
)
# Of captioners, what `decoder` says.
DECODERS = {"transformer": models.CaptionerConfig, "lstm": models.LSTMCaptionerConfig}
# Groups that have fields of their own by kind: how their classes are known, and the kind where none is given.
KINDS: dict[type, tuple[Registry | dict[str, type], str]] = {
    models.ModelConfig: (registry.models, models.TwoTowerConfig.kind),
    fusion.EncoderConfig: (ENCODERS, ""),
    fusion.FusionConfig: (FUSIONS, ""),
}


def classes(base: type) -> dict[str, type]:
    """The dataclasses of a group that has fields of its own, by kind.

    Args:
      base: a key of `KINDS`.
    """
    known, _ = KINDS[base]
    return {kind: _class_of(base, kind) for kind in known}


def _class_of(base: type, kind: str) -> type:
    known, _ = KINDS[base]
    if not isinstance(known, Registry):
        return known[kind]
    cls = known.config_class(kind, where="kind")
    if cls is None or not issubclass(cls, base) or getattr(cls, "kind", None) != kind:
        raise UserError(
            f"{known.kind} {kind!r} of {known.module(kind)} is registered with config={getattr(cls, '__name__', cls)};"
            f" its fields need a dataclass of {base.__name__} with kind = {kind!r}"
        )
    return cls


def class_of_kind(base: type, settings: Mapping[str, Any], field: str) -> type:
    """The dataclass of a group that has fields of its own.

    Args:
      base: a key of `KINDS`.
      settings: the group's, with its `kind`.
      field: where it stands in the config.

    Raises:
      UserError: an unknown kind, or none where one is needed.
    """
    known, default = KINDS[base]
    if "kind" not in settings and not default:
        raise UserError(f"{field}.kind is missing; choose one of: {', '.join(known)}")
    kind, where = settings.get("kind", default), f"{field}.kind"
    if isinstance(known, Registry):
        cls = _class_of(base, known.validate_choice(where, kind))
    else:
        cls = known[validate_choice(where, kind, known)]
    if cls is models.CaptionerConfig:
        return DECODERS[validate_choice(f"{field}.decoder", settings.get("decoder", "transformer"), DECODERS)]
    return cls
