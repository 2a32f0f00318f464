"""Masked words and patches of held-out pairs, the same ones masked every time."""

from collections.abc import Iterable, Iterator
from typing import Any

from mmjax.data.loading.example_transforms import id_words
from mmjax.data.text.tokenizer import Tokenizer
from mmjax.evaluation.embedding.batched_apply import Feeder, Row
from mmjax.evaluation.metric_columns import MASKING
from mmjax.evaluation.results import Evaluation, lacking_pair


class MaskEvaluation:
    """The loss of masked words and patches, and how many words are guessed right.

    Args:
      task: gives `encode`.
      feeder: runs it on the mesh.
      tokenizer: of the captions.
    """

    lacking = staticmethod(lacking_pair)

    def __init__(self, task: Any, feeder: Feeder, tokenizer: Tokenizer):
        self.feeder, self.tokenizer = feeder, tokenizer

        def run(params, image, text, mask, ids):
            batch = {"image": image, "text": text, "text_mask": mask, "id": ids}
            return task.encode(params, batch, None, only=("mlm", "mim"))[1]

        self.run = feeder.compiled(run)

    def __call__(self, params: Any, source: Any, examples: Iterable[Any], *, keep: bool) -> Evaluation:
        """Evaluates a source."""
        del keep

        def rows() -> Iterator[Row]:
            for example in examples:
                ids, mask = self.tokenizer([example.captions[0]])
                yield example.image, ids[0], mask[0], id_words(example.id)

        metrics, found = {}, self.feeder.run(self.run, params, rows())
        for name, sums in found.items():
            count = max(float(sums.count.sum()), 1.0)
            metrics[f"{name}_loss"] = float(sums.total.sum()) / count
            metrics |= {key: float(values.sum()) / count for key, values in sums.metrics.items()}
        n = len(next(iter(found.values())).count)
        return Evaluation(source.name, MASKING, n, metrics)
