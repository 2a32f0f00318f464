"""Groups that have fields of their own by `kind`: models, encoders of a modality, fusions."""

from collections.abc import Mapping
from typing import Any

from mmjax.errors import UserError, validate_choice
from mmjax.models import config as models
from mmjax.models.fusion import config as fusion


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
MODELS = _by_kind(
    models.TwoTowerConfig,
    models.CaptionerConfig,
    models.CoCaConfig,
    models.ALBEFConfig,
    models.ViLTConfig,
    models.QFormerConfig,
    models.PrefixLMConfig,
    fusion.FusedConfig,
)
# Of captioners, what `decoder` says.
DECODERS = {"transformer": models.CaptionerConfig, "lstm": models.LSTMCaptionerConfig}
# Groups that have fields of their own by kind: the classes, and the kind where none is given.
KINDS: dict[type, tuple[dict[str, type], str]] = {
    models.ModelConfig: (MODELS, models.TwoTowerConfig.kind),
    fusion.EncoderConfig: (ENCODERS, ""),
    fusion.FusionConfig: (FUSIONS, ""),
}


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
    cls = known[validate_choice(f"{field}.kind", settings.get("kind", default), known)]
    if cls is models.CaptionerConfig:
        return DECODERS[validate_choice(f"{field}.decoder", settings.get("decoder", "transformer"), DECODERS)]
    return cls
