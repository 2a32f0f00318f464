"""Results of evaluations."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.evaluation.example_selection import Artifacts


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The outcome on one source.

    Attributes:
      dataset: the source's name.
      task: `zeroshot_classification`, `zeroshot_retrieval`, ...
      n: the number of images.
      metrics: rates in [0, 1], ranks from 1 up, and `loss`, the held-out loss in nats (`contrastive_loss`
        of a model that is trained for more than that).
      artifacts: examples for a report, when they were asked for.
    """

    dataset: str
    task: str
    n: int
    metrics: dict[str, float]
    artifacts: Artifacts | None = None


def lacking_pair(record: Mapping[str, Any]) -> str:
    """What a record has not that an evaluation of pairs needs; an empty string where it has all."""
    return "" if record.get("image") is not None and record.get("captions") else "image with captions"


def to_records(evaluations: Sequence[Evaluation], *, model: str, pretrained: str) -> list[dict[str, Any]]:
    """The evaluations in the JSON shape of CLIP_benchmark, one record per dataset."""
    return [
        {
            "dataset": evaluation.dataset,
            "model": model,
            "pretrained": pretrained,
            "task": evaluation.task,
            "metrics": {name: float(value) for name, value in evaluation.metrics.items()},
            "language": "en",
        }
        for evaluation in evaluations
    ]
