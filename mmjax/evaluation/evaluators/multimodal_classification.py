"""Classification by several modalities, with all of them, without each, and by each alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool

from mmjax.data.loading.inputs import Arrays
from mmjax.evaluation.embedding.batched_apply import BatchRunner, Row
from mmjax.evaluation.embedding.features import ExamplePass
from mmjax.evaluation.evaluation_task import EvaluatedSource, EvaluationTask, Outcome
from mmjax.metrics.classification import classification_metrics


class MultimodalClassificationEvaluator:
    """Accuracy with all modalities, and with some withheld, over the examples that have some left.

    Args:
      task: gives `classify`, and `example_transform`, which makes arrays of a record's modalities.
      runner: runs it on the mesh.
    """

    def __init__(self, task: Any, runner: BatchRunner):
        self.task, self.runner, self.names = task, runner, task.example_transform.names
        self.patterns = _modality_patterns(self.names)
        self.run = runner.compile(self._classify)

    def __call__(self, data: EvaluatedSource) -> Outcome:
        """Evaluates a source; it has no artifacts.

        Modalities are arrays of any size, which are not sent around: every process reads all examples.
        """
        examples = data.in_views(data.local_examples)
        stream, blank = data.stream(lambda example: int(example.label), examples), examples.specs.blank()
        rows = ExamplePass((self._row(example, blank) for example in stream), keep=lambda row: row[-1])
        scores_by_pattern = self.runner.run(self.run, data.params, rows)
        labels, present = np.array(stream.kept), np.stack(rows.kept)
        metrics: dict[str, float] = {}
        for name, scores in scores_by_pattern.items():
            # An example of which a pattern leaves nothing says nothing of it.
            left = (present & self.patterns[name]).any(axis=1)
            if left.any():
                values = classification_metrics(scores[left], labels[left])
                metrics |= values if name == "acc1" else {name: values["acc1"]}
        return Outcome(metrics, len(labels))

    def _classify(self, params: Any, *columns: Array) -> dict[str, Array]:
        """Scores [B, C] by pattern."""
        *values, present = columns
        batch = dict(zip(self.names, values, strict=True))
        masks = np.stack(list(self.patterns.values()))
        # One after the other: the model is compiled once.
        scores = jax.lax.map(lambda mask: self.task.classify(params, batch, present & mask), masks)
        return dict(zip(self.patterns, scores, strict=True))

    def _row(self, example: Any, blank: Arrays) -> Row:
        """The arrays of `names`, blank where they are missing, and bool [M], which modalities are present."""
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
    return "" if record.get("modalities") and record.get("label") is not None else "modalities with a label"


MULTIMODAL_CLASSIFICATION = EvaluationTask(
    title="classification by several modalities",
    evaluator=lambda model: MultimodalClassificationEvaluator(model.task, model.runner),
    unit="examples",
    needs=("classify",),
    missing_fields=_missing_fields,
    by_default="always",
    has_plain_metrics=True,
)
