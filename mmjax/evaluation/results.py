"""Results of evaluations, and the tasks that they are of."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.evaluation.example_selection import Artifacts

CLASSIFICATION = "zeroshot_classification"
RETRIEVAL = "zeroshot_retrieval"
CAPTIONING = "image_captioning"
VQA = "visual_question_answering"
IMAGE_TEXT_MATCHING = "image_text_matching"
MASKED_MODELLING = "masked_modelling"
MULTIMODAL_CLASSIFICATION = "multimodal_classification"


@dataclasses.dataclass(frozen=True)
class TaskInfo:
    """A task of evaluation.

    Attributes:
      title: stands above its table.
      unit: what `Evaluation.n` counts.
      in_suite: a suite's dataset may name it.
      needs_classes: the dataset has class names.
      needs_one_label: every image shows one class.
      needs_train: it learns from a training split.
    """

    title: str
    unit: str = "images"
    in_suite: bool = False
    needs_classes: bool = False
    needs_one_label: bool = False
    needs_train: bool = False


# By name, in the order of tables.
TASKS = {
    CLASSIFICATION: TaskInfo("zero-shot classification", in_suite=True, needs_classes=True),
    RETRIEVAL: TaskInfo("zero-shot retrieval", in_suite=True),
    CAPTIONING: TaskInfo("captioning"),
    VQA: TaskInfo("questions about images", unit="questions"),
    IMAGE_TEXT_MATCHING: TaskInfo("image-text matching"),
    MASKED_MODELLING: TaskInfo("masked words and patches"),
    MULTIMODAL_CLASSIFICATION: TaskInfo("classification by several modalities", unit="examples"),
    "image_caption_selection": TaskInfo("image-caption selection", in_suite=True),
    "clip_score": TaskInfo("CLIPScore", in_suite=True),
    "knn": TaskInfo("k nearest neighbours", in_suite=True, needs_classes=True, needs_one_label=True, needs_train=True),
    "few_shot": TaskInfo("few-shot episodes", in_suite=True, needs_classes=True, needs_one_label=True),
    "linear_probe": TaskInfo("linear probe", in_suite=True, needs_classes=True, needs_one_label=True, needs_train=True),
}


def task_unit(task: str) -> str:
    """The unit that evaluations of a task count in; images, where the task is not one of ours."""
    return TASKS[task].unit if task in TASKS else "images"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The outcome on one source.

    Attributes:
      dataset: the source's name.
      task: of `TASKS`.
      n: the number of images.
      metrics: rates in [0, 1], ranks from 1 up, and `loss`, the held-out loss in nats (`contrastive_loss`
        of a model that is trained for more than that).
      artifacts: examples for a report, where they were kept.
    """

    dataset: str
    task: str
    n: int
    metrics: dict[str, float]
    artifacts: Artifacts | None = None


def flat_metrics(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    """All metrics as `DATASET/METRIC`."""
    return {f"{e.dataset}/{name}": value for e in evaluations for name, value in e.metrics.items()}


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
