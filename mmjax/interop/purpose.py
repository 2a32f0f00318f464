"""What a model of another library was trained for, in the terms of a run's config."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mmjax.data.config import DataConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Purpose:
    """What a model was trained for.

    Attributes:
      objectives: weights, as `config.objectives` has them.
      texts: what its texts are, as `data.texts` has it.
      answers: those that it chooses among.
      classes: names of those that it tells apart.
      decoding: fields of `config.decoding`: how it writes.
      question_template: what stands around a question, as `data.question_template` has it.
      context_length: tokens of a text that there is room for; 0 for as many as the model can read.
    """

    objectives: Mapping[str, float]
    texts: str = "captions"
    answers: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    decoding: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    question_template: str = DataConfig.question_template
    context_length: int = 0


def of_two_towers(settings: Mapping[str, Any]) -> Purpose:
    """Contrast: CLIP's, or with a bias of the logits SigLIP's."""
    return Purpose(objectives={"itc": 1.0} if settings["logit_bias_init"] is None else {"sigmoid": 1.0})
