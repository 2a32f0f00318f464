"""Counts of the training examples that could not be read, over all processes of a run."""

import collections
from collections.abc import Mapping, Sequence

from mmjax.data import bad_example
from mmjax.errors import GlobalUserError

# Too few examples to say what share of a data set is bad.
_MIN_SEEN = 1000


class BadExamples:
    """Counts by reason, the same in every process.

    Args:
      counts: those of the checkpoint that the run goes on from.
      batch_size: examples of a step.
      data: `data.train`, for messages.
      max_fraction: `data.max_bad_fraction`.
      history: steps whose counts are still asked for, as a line of metrics is written some steps late.

    Attributes:
      counts: by reason, of all steps that were added.
    """

    def __init__(self, counts: Mapping[str, int], batch_size: int, data: str, max_fraction: float, history: int):
        self.counts = collections.Counter(counts)
        self._batch_size, self._data, self._max_fraction = batch_size, data, max_fraction
        self._history = collections.deque(maxlen=history)  # (step, counts up to it)

    def add(self, step: int, counts: Sequence[int]) -> None:
        """Adds the counts of a step, in the order of `bad_example.REASONS` without its first, "none".

        Raises:
          GlobalUserError: more examples than `data.max_bad_fraction` could not be read.
        """
        self.counts.update({reason: n for reason, n in zip(bad_example.REASONS[1:], counts, strict=True) if n})
        self._history.append((step, dict(self.counts)))
        if any(counts):
            self._check_fraction(step)

    def _check_fraction(self, step: int) -> None:
        seen, bad = step * self._batch_size, self.counts.total()
        if (seen >= _MIN_SEEN or not self._max_fraction) and bad > self._max_fraction * seen:
            raise GlobalUserError(
                f"data.train={self._data!r}: {self.describe(step)}, more than"
                f" data.max_bad_fraction={self._max_fraction}; repair the data or allow more"
            )

    def metrics(self, step: int) -> dict[str, int]:
        """`bad_REASON`: the counts up to a step."""
        counts = next((counts for number, counts in self._history if number == step), self.counts)
        return {f"bad_{reason}": count for reason, count in sorted(counts.items())}

    def describe(self, step: int) -> str:
        """How many of the examples up to a step could not be read, and why."""
        reasons = ", ".join(f"{reason}: {count}" for reason, count in self.counts.most_common())
        return f"{self.counts.total()} of {step * self._batch_size} examples could not be read ({reasons})"
