"""Confidence intervals of any per-example metric, by the percentile bootstrap (Efron and Tibshirani 1993, ch. 13)."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Integer

_DRAWS_AT_A_TIME = 2**22  # examples


@dataclasses.dataclass(frozen=True)
class Interval:
    """A statistic of the whole sample, and the bounds between which it falls in `level` of all resamples."""

    value: float
    low: float
    high: float
    level: float

    def metrics(self, name: str) -> dict[str, float]:
        """The bounds as metrics, `NAME_low95` and `NAME_high95` for a level of 0.95."""
        return {f"{name}_low{100 * self.level:.0f}": self.low, f"{name}_high{100 * self.level:.0f}": self.high}


def bootstrap_interval(
    values: Float[np.ndarray, " N"] | Integer[np.ndarray, " N"] | Bool[np.ndarray, " N"],
    *,
    statistic: Callable[[np.ndarray], float] | None = None,
    groups: Integer[np.ndarray, " N"] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The bootstrap interval of a statistic of per-example values.

    Args:
      values: one per example: whether it was right, its reciprocal rank, its CLIPScore.
      statistic: of values [N]; the mean by default, which is much faster.
      groups: examples that belong together are drawn together, as the captions of one image should be: they are not
        independent, and without this the interval is too narrow.
      level: the share of resamples between the bounds.
      resamples: how many.
      seed: of the draws; the same seed gives the same bounds.

    Raises:
      ValueError: without values, or for a level outside (0, 1) or fewer than one resample.
    """
    if not len(values) or not 0 < level < 1 or resamples < 1:
        raise ValueError(f"{len(values)} values, level {level} and {resamples} resamples: none may be 0, level below 1")
    if groups is None:
        order, offsets = np.arange(len(values)), np.arange(len(values) + 1)
    else:
        order = np.argsort(groups, kind="stable")
        offsets = np.concatenate([[0], np.cumsum(np.unique(groups, return_counts=True)[1])])
    ordered = values[order]
    sizes, rng = np.diff(offsets), np.random.default_rng(seed)
    sums = np.add.reduceat(ordered.astype(np.float64), offsets[:-1])
    resampled = np.empty(resamples)
    at_a_time = max(1, _DRAWS_AT_A_TIME // len(sizes)) if statistic is None else 1
    for start in range(0, resamples, at_a_time):
        stop = min(start + at_a_time, resamples)
        drawn = rng.integers(0, len(sizes), (stop - start, len(sizes)))
        if statistic is None:
            resampled[start:stop] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
        else:
            (groups_drawn,) = drawn
            counts = sizes[groups_drawn]
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            resampled[start] = statistic(ordered[np.repeat(offsets[groups_drawn], counts) + within])
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    value = values.mean() if statistic is None else statistic(values)
    return Interval(float(value), float(low), float(high), level)
