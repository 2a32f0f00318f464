"""Results of evaluations, and the tasks that they are of."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax import registry
from mmjax.evaluation.example_selection import Artifacts
from mmjax.models.slot_config import UNITS

CLASSIFICATION = "zeroshot_classification"
RETRIEVAL = "zeroshot_retrieval"


def task_unit(task: str) -> str:
    """The unit that evaluations of a task count in; images, where nothing of that name is registered."""
    evaluations = registry.evaluations
    return evaluations.load(task, where="task").unit if task in evaluations else "images"


def unit(task: str, seen: str) -> str:
    """What evaluations of a task count of a model that sees `seen` first: images only where that is an image."""
    of_task = task_unit(task)
    return UNITS.get(seen, of_task) if of_task == "images" else of_task


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The outcome on one source.

    Attributes:
      dataset: the source's name.
      task: a name of `registry.evaluations`.
      n: the number of images, or of what else the task counts.
      metrics: rates in [0, 1], ranks from 1 up, and `loss`, the held-out loss in nats (`contrastive_loss`
        of a model that is trained for more than that).
      artifacts: examples for a report, where they were kept.
      unit: what `n` counts; "" for what the task does.
    """

    dataset: str
    task: str
    n: int
    metrics: dict[str, float]
    artifacts: Artifacts | None = None
    unit: str = ""

    @property
    def counted(self) -> str:
        """What `n` counts: images, videos, sounds, ..."""
        return self.unit or task_unit(self.task)


def flat_metrics(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    """All metrics as `DATASET/METRIC`, or `DATASET/TASK/METRIC`, see `log_group`."""
    return {f"{log_group(e.dataset, e.task)}/{name}": value for e in evaluations for name, value in e.metrics.items()}


def log_group(dataset: str, task: str) -> str:
    """What metrics of a task stand under in a run's log: the dataset, and the task where its metrics are not plain."""
    is_plain = task not in registry.evaluations or registry.evaluations.load(task, where="task").has_plain_metrics
    return dataset if is_plain else f"{dataset}/{task}"


def missing_pair_fields(record: Mapping[str, Any]) -> str:
    """The fields that a record lacks for an evaluation of pairs; an empty string where it has all."""
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
