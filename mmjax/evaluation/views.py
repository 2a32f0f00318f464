"""Several clips and crops of an example, over which evaluation takes the mean of embeddings or of probabilities."""

import dataclasses
from typing import Any

from mmjax.data.loading.inputs import InputSpecs, ViewsDecoder
from mmjax.errors import UserError
from mmjax.evaluation.config import EvaluationSettings
from mmjax.models.fusion.config import FusedConfig
from mmjax.tasks import capabilities


def view_specs(task: Any, settings: EvaluationSettings) -> InputSpecs | None:
    """How a model's videos and sounds are prepared in the clips and crops of `eval.video` and `eval.audio`.

    The mean of embeddings is of unit length again. Classifiers take the mean of probabilities over all clips and crops,
    as SlowFast (arXiv:1812.03982) and VideoMAE (arXiv:2203.12602) do; ViViT (arXiv:2103.15691) takes that of logits.

    Args:
      task: the model's.
      settings: of the evaluation.

    Returns:
      The specs; None where all have one view, and are as in `task.input_specs`.

    Raises:
      UserError: clips of what the model does not decode, crops that the frames do not have, or, in a classifier of
        both, other numbers of clips of videos than of sounds.
    """
    video, audio = settings.video, settings.audio
    counts = {"video": (video.clips, video.crops), "audio": (audio.clips, 1)}
    counts = {name: views for name, views in counts.items() if views != (1, 1)}
    if not counts:
        return None
    specs = {spec.name: spec for spec in task.input_specs.others}
    for name, (clips, crops) in counts.items():
        field = f"{settings.prefix}{name}.{f'crops={crops}' if clips == 1 else f'clips={clips}'}"
        if name not in specs or not isinstance(specs[name].decoder, ViewsDecoder):
            model = capabilities.describe_model(task.config)
            raise UserError(f"{field}: {model} decodes no {name}; set it to 1")
        specs[name] = specs[name].in_views(clips, crops)
    if isinstance(task.config.model, FusedConfig) and len({clips for clips, _ in counts.values() if clips > 1}) > 1:
        raise UserError(
            f"{settings.prefix}video.clips={video.clips} and {settings.prefix}audio.clips={audio.clips}: a classifier"
            " of both sees them clip by clip; set them to the same number, or one to 1"
        )
    return dataclasses.replace(task.input_specs, others=tuple(specs.values()))
