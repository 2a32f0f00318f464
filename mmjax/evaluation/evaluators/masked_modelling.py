"""Masked words and patches of held-out pairs, the same ones masked every time."""

from typing import Any

from mmjax.data.loading.example_transforms import id_words
from mmjax.data.text.tokenizer import Tokenizer
from mmjax.evaluation.embedding.batched_apply import BatchRunner, Row
from mmjax.evaluation.evaluation_task import EvaluatedSource, EvaluationTask, Outcome
from mmjax.evaluation.results import missing_pair_fields

_MASKED = frozenset({"masked_words", "masked_patches"})


class MaskedModellingEvaluator:
    """The loss of masked words and patches, and the accuracy of words.

    Args:
      task: gives `encode`.
      runner: runs it on the mesh.
      tokenizer: of the captions.
    """

    def __init__(self, task: Any, runner: BatchRunner, tokenizer: Tokenizer):
        self.runner, self.tokenizer = runner, tokenizer
        names = [name for name, one in task.objectives.items() if not _MASKED.isdisjoint(one.taught)]

        def run(params, image, text, mask, ids):
            batch = {task.seen: image, "text": text, "text_mask": mask, "id": ids}
            return task.encode(params, batch, None, only=names)[1]

        self.run = runner.compile(run)

    def __call__(self, data: EvaluatedSource) -> Outcome:
        """Evaluates a source; it has no artifacts."""
        rows = map(self._row, data.progress(data.examples))
        metrics, losses = {}, self.runner.run(self.run, data.params, rows)
        for name, sums in losses.items():
            count = max(float(sums.count.sum()), 1.0)
            metrics[f"{name}_loss"] = float(sums.total.sum()) / count
            metrics |= {key: float(values.sum()) / count for key, values in sums.metrics.items()}
        n = len(next(iter(losses.values())).count)
        return Outcome(metrics, n)

    def _row(self, example: Any) -> Row:
        ids, mask = self.tokenizer([example.captions[0]])
        return example.seen, ids[0], mask[0], id_words(example.id)


MASKED_MODELLING = EvaluationTask(
    title="masked words and patches",
    evaluator=lambda model: MaskedModellingEvaluator(model.task, model.runner, model.text_tokenizer),
    taught=tuple(sorted(_MASKED)),
    missing_fields=missing_pair_fields,
    reads_of_run=("loss.mlm_rate", "loss.mim_ratio"),
    by_default="always",
    has_plain_metrics=True,
)
