"""Retrieval between any modalities of a model of towers: sounds for videos, series for tables, texts for sounds."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array

from mmjax.data.text.tokenizer import Tokenizer
from mmjax.errors import UserError
from mmjax.evaluation.embedding.batched_apply import BatchRunner, Row
from mmjax.evaluation.evaluation_task import EvaluatedSource, EvaluationTask, Outcome
from mmjax.evaluation.evaluators.retrieval import retrieval_metrics


class ModalityRetrievalEvaluator:
    """Recalls and ranks in both directions for each pair of modalities that a model contrasts.

    The pair of what the model sees first and its texts is `zeroshot_retrieval`'s, by all captions; of others a text is
    the first caption.

    Args:
      task: gives `pairs`, `embed_modality` and `embed_text`.
      runner: runs it on the mesh.
      tokenizer: of the texts; None for a model without any.
    """

    def __init__(self, task: Any, runner: BatchRunner, tokenizer: Tokenizer | None):
        self.pairs = other_pairs(task)
        self.names = tuple(dict.fromkeys(name for pair in self.pairs for name in pair if name != "text"))
        self.task, self.runner = task, runner
        self.tokenizer = tokenizer if any("text" in pair for pair in self.pairs) else None
        self.run = runner.compile(self._embed)

    def __call__(self, data: EvaluatedSource) -> Outcome:
        """Evaluates a source; it has no artifacts."""
        stream = data.stream(lambda example: int(example.id), data.in_views(data.local_examples))
        embeddings = self.runner.run(self.run, data.params, (self._row(example, data) for example in stream))
        ids = np.array(stream.kept, np.uint64)
        metrics = {}
        for first, second in self.pairs:
            of_pair = retrieval_metrics(embeddings[first], embeddings[second], np.arange(len(ids)), image_ids=ids)
            # `retrieval_metrics` calls the first side images, and the second one texts.
            prefixes = {"image_retrieval": f"{second}_to_{first}", "text_retrieval": f"{first}_to_{second}"}
            for key, value in of_pair.items():
                side = next((side for side in prefixes if key.startswith(side)), "")
                metrics[key.replace(side, prefixes[side]) if side else f"{first}_{second}_{key}"] = value
        return Outcome(metrics, len(ids))

    def _embed(self, params: Any, *columns: Array) -> dict[str, Array]:
        result = {
            name: self.task.embed_modality(params, name, array)
            for name, array in zip(self.names, columns, strict=False)
        }
        return result | ({"text": self.task.embed_text(params, *columns[-2:])} if self.tokenizer else {})

    def _row(self, example: Any, data: EvaluatedSource) -> Row:
        for name in self.names:
            if name not in example.inputs:
                raise UserError(
                    f"data.eval: the example of id {example.id} of {data.source.name!r} has no {name}; leave it out"
                )
        arrays = tuple(example.inputs[name] for name in self.names)
        if self.tokenizer is None:
            return arrays
        ids, mask = self.tokenizer(example.captions[:1] or [""])
        return (*arrays, ids[0], mask[0])


def other_pairs(task: Any) -> list[tuple[str, str]]:
    """The pairs that a model contrasts beside that of what it sees first and its texts."""
    return [(first, second) for first, second, _ in task.pairs if (first, second) != (task.seen, "text")]


def _missing_fields(record: Mapping[str, Any]) -> str:
    return "" if record.get("modalities") or record.get("image") is not None else "modalities"


MODALITY_RETRIEVAL = EvaluationTask(
    title="retrieval between modalities",
    evaluator=lambda model: ModalityRetrievalEvaluator(model.task, model.runner, model.tokenizer),
    unit="examples",
    needs=("modalities",),
    missing_fields=_missing_fields,
    by_default="always",
    has_plain_metrics=True,
)
