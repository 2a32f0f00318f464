"""A sample of an evaluation's examples for the report, drawn while it runs: failures first, from all over the set.

Only indices are kept. The images of the few that are shown are read again at the end.
"""

from typing import Any, NamedTuple

import numpy as np

from mmjax.evaluation.example_selection import NUM_FAILURES, NUM_SHOWN, Artifacts, ImageMatches, Match
from mmjax.evaluation.pictures import example_picture

Prediction = tuple[str, float, bool]  # a text, its score, whether it is right


class _Sample(NamedTuple):
    index: int
    labels: list[str]
    predictions: list[Prediction]
    alignment: list[tuple[str | None, str | None]]


class ExampleSampler:
    """Samples a stream of examples, those that the model got wrong and others apart.

    Args:
      keep: whether anything will be shown.
      what: what stands under the images, such as "captions written".
    """

    def __init__(self, keep: bool, what: str):
        self.keep, self.what = keep, what
        self.failures: list[_Sample] = []
        self.others: list[_Sample] = []
        self._seen = [0, 0]
        self._rng = np.random.default_rng(0)

    def add(
        self,
        index: int,
        labels: list[str],
        predictions: list[Prediction],
        alignment: list[tuple[str | None, str | None]] | None = None,
    ) -> None:
        """Offers an example.

        Args:
          index: of the example whose image is shown.
          labels: its captions, or the question with its answer.
          predictions: of the model, best first.
          alignment: of a transcript, see `ImageMatches`.
        """
        if not self.keep:
            return
        right = bool(predictions and predictions[0][2])
        size, kept = (NUM_SHOWN, self.others) if right else (NUM_FAILURES, self.failures)
        self._seen[right] += 1
        # Reservoir sampling: each example is as likely to be kept as any other.
        slot = len(kept) if len(kept) < size else int(self._rng.integers(self._seen[right]))
        if slot < size:
            kept[slot : slot + 1] = [_Sample(index, labels, predictions, alignment or [])]

    def artifacts(self, examples: Any) -> Artifacts | None:
        """The sample with its images, which this process alone reads here; None where nothing is kept.

        Args:
          examples: those that indices count; `read` gives them by index.

        Raises:
          UserError: an image cannot be read any more.
        """
        if not self.keep:
            return None
        chosen = (self.failures + self.others)[:NUM_SHOWN]
        shown = examples.read([sample.index for sample in chosen])
        images = [
            ImageMatches(
                example_picture(example.inputs),
                sample.labels,
                [Match(*item) for item in sample.predictions],
                sample.alignment,
            )
            for sample, example in zip(chosen, shown, strict=True)
        ]
        return Artifacts(images, [], what=self.what)
