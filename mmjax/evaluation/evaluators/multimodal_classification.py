"""Classification by several modalities, with all of them, without each, and by each alone."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from mmjax.evaluation.embedding.batched_apply import Feeder, Row
from mmjax.evaluation.metric_columns import FUSION
from mmjax.evaluation.results import Evaluation
from mmjax.metrics.classification import classification_metrics


class FusedEvaluation:
    """Accuracy as the data are, and the same data with modalities taken away, over those examples that have some left.

    Args:
      task: gives `classify`, and `preparer`, which makes arrays of a record's modalities.
      feeder: runs it on the mesh.
    """

    def __init__(self, task: Any, feeder: Feeder):
        self.task, self.feeder = task, feeder
        self.run = None

    def lacking(self, record: Mapping[str, Any]) -> str:
        """What a record has not that this needs."""
        return "" if record.get("modalities") and record.get("label") is not None else "modalities with a label"

    def __call__(self, params: Any, source: Any, examples: Iterable[Any], *, keep: bool) -> Evaluation:
        """Evaluates a source."""
        del keep
        names = self.task.preparer.names
        patterns = {"acc1": np.ones(len(names), bool)}
        for place, name in enumerate(names if len(names) > 1 else ()):
            patterns[f"acc1_without_{name}"] = np.arange(len(names)) != place
        if len(names) > 2:  # of two, each alone is the other missing
            for place, name in enumerate(names):
                patterns[f"acc1_only_{name}"] = np.arange(len(names)) == place
        stacked = np.stack(list(patterns.values()))
        labels: list[int] = []
        given: list[np.ndarray] = []
        keys: list[str] = []

        def rows() -> Iterator[Row]:
            for example in examples:
                arrays, there = self._arrays(example)
                labels.append(int(example.label))
                keys[:] = sorted(arrays)
                given.append(np.array([there[name] for name in names], bool))
                yield *(arrays[key] for key in keys), given[-1]

        if self.run is None:

            def classify(params, *columns):
                *values, present = columns
                batch = dict(zip(keys, values, strict=True))
                # One after the other: the model is compiled once.
                scores = jax.lax.map(lambda kept: self.task.classify(params, batch, present & kept), stacked)
                return dict(zip(patterns, scores, strict=True))

            self.run = self.feeder.compiled(classify)
        found = self.feeder.run(self.run, params, rows())
        metrics: dict[str, float] = {}
        for name, scores in found.items():
            # An example of which a pattern leaves nothing says nothing of it.
            left = (np.stack(given) & patterns[name]).any(axis=1)
            if left.any():
                told = classification_metrics(scores[left], np.array(labels)[left])
                metrics |= told if name == "acc1" else {name: told["acc1"]}
        return Evaluation(source.name, FUSION, len(labels), metrics)

    def _arrays(self, example: Any) -> tuple[dict[str, np.ndarray], dict[str, bool]]:
        preparer = self.task.preparer
        arrays, there = preparer.arrays(example.extras)
        if preparer.image_spec is not None:
            size = preparer.image_spec.size
            there["image"] = example.image is not None
            arrays["image"] = example.image if there["image"] else np.zeros((size, size, 3), np.uint8)
        return arrays, there
