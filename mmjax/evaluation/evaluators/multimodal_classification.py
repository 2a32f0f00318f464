"""Classification by labels: of images or other modalities, with all of them, without each, and by each alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool

from mmjax.data.loading.inputs import Arrays
from mmjax.data.source_protocols import Source
from mmjax.errors import UserError
from mmjax.evaluation.embedding.batched_apply import BatchRunner, Row
from mmjax.evaluation.embedding.features import ExamplePass
from mmjax.evaluation.evaluation_task import EvaluatedSource, EvaluationTask, Outcome
from mmjax.evaluation.example_selection import Artifacts
from mmjax.evaluation.prompts import PromptedSource
from mmjax.metrics.classification import classification_metrics, confusion_matrix, supervised_metrics
from mmjax.tasks import class_labels


class MultimodalClassificationEvaluator:
    """Accuracy with all modalities, and with some withheld, over the examples that have some left.

    Labels of a source are those of the model by the names of their classes.

    Args:
      task: gives `classify`, and `example_transform`, which makes arrays of a record's modalities.
      runner: runs it on the mesh.
    """

    def __init__(self, task: Any, runner: BatchRunner):
        self.task, self.runner, self.names = task, runner, task.example_transform.names
        self.patterns = _modality_patterns(self.names)
        self.run = runner.compile(self._classify)

    def __call__(self, data: EvaluatedSource) -> Outcome:
        """Evaluates a source; the report shows its confusions.

        Modalities are arrays of any size, which are not sent around: every process reads all examples.

        Raises:
          UserError: an example has no label, or nothing that the model reads.
        """
        numbers = _numbers_in_model(data.source, self.task)
        examples = data.in_views(data.local_examples)
        stream = data.stream(lambda example: numbers[int(example.label)], examples)
        blank = examples.specs.blank()
        made = (self._row(example, blank, data.source) for example in stream)
        rows = ExamplePass(made, keep=lambda row: row[-1])
        scores_by_pattern = self.runner.run(self.run, data.params, rows)
        labels, present = np.array(stream.kept), np.stack(rows.kept)
        metrics: dict[str, float] = {}
        for name, scores in scores_by_pattern.items():
            # An example of which a pattern leaves nothing says nothing of it.
            left = (present & self.patterns[name]).any(axis=1)
            if left.any():
                if name == "acc1":
                    metrics |= supervised_metrics(scores[left], labels[left])
                else:
                    metrics[name] = classification_metrics(scores[left], labels[left])["acc1"]
        scores = scores_by_pattern["acc1"]
        names = list(self.task.class_names)
        confusion = confusion_matrix(scores.argmax(axis=1), labels, len(names))
        return Outcome(metrics, len(labels), Artifacts([], [], confusion, names))

    def _classify(self, params: Any, *columns: Array) -> dict[str, Array]:
        """Scores [B, C] by pattern."""
        *values, present = columns
        batch = dict(zip(self.names, values, strict=True))
        masks = np.stack(list(self.patterns.values()))
        # One after the other: the model is compiled once.
        scores = jax.lax.map(lambda mask: self.task.classify(params, batch, present & mask), masks)
        return dict(zip(self.patterns, scores, strict=True))

    def _row(self, example: Any, blank: Arrays, source: Source) -> Row:
        """The arrays of `names`, blank where they are missing, and bool [M], which modalities are present."""
        if not example.inputs:
            raise UserError(
                f"data.eval: the example of id {example.id} of {source.name!r} has none of {', '.join(self.names)};"
                " leave it out"
            )
        arrays = blank | dict(example.inputs)
        return *(arrays[name] for name in self.names), np.array([name in example.inputs for name in self.names], bool)


def _modality_patterns(names: Sequence[str]) -> dict[str, Bool[np.ndarray, " M"]]:
    """By metric, the modalities that the model may see."""
    patterns = {"acc1": np.ones(len(names), bool)}
    identity = np.eye(len(names), dtype=bool)
    if len(names) > 1:
        patterns |= {f"acc1_without_{name}": ~row for name, row in zip(names, identity, strict=True)}
    if len(names) > 2:  # of two, each alone is the other missing
        patterns |= {f"acc1_only_{name}": row for name, row in zip(names, identity, strict=True)}
    return patterns


def _missing_fields(record: Mapping[str, Any]) -> str:
    if record.get("image") is None and not record.get("modalities"):
        return "modalities"
    return "" if record.get("label") is not None else "label"


def _numbers_in_model(source: Source, task: Any) -> list[int]:
    """For each class of a source its number in the model."""
    known = task.dataset_metadata.class_names
    # What published prompts call the classes is for texts.
    source = source.source if isinstance(source, PromptedSource) else source
    return class_labels.numbers_in_model(known, len(task.class_names), source)


def _check_classes(source: Source, task: Any) -> None:
    """Checks that the model knows a source's classes; raises as `class_labels.numbers_in_model` does."""
    _numbers_in_model(source, task)


MULTIMODAL_CLASSIFICATION = EvaluationTask(
    title="classification by labels",
    evaluator=lambda model: MultimodalClassificationEvaluator(model.task, model.runner),
    unit="examples",
    needs=("classify",),
    needs_classes=True,
    needs_one_label=True,
    missing_fields=_missing_fields,
    check_classes=_check_classes,
    by_default="always",
    curves=("acc1", "mean_per_class_recall", "macro_f1", "auroc"),
    has_plain_metrics=True,
)
