"""Curves of a metric over levels of corruption, their areas, and MultiBench's effective robustness.

Of examples that `eval.corrupt` corrupts, metrics are named `acc1@image:noise0.1`, or `acc1@audio:snr10,image:noise0.1`
of several modalities at once; the area under the curve over all levels `acc1_area@image:noise`.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

# Kinds of corruption whose level 0 changes nothing.
HARMLESS_AT_0 = ("noise", "blur", "drop", "delete", "replace")
_PART = re.compile(r"(\w+:([a-z]+))(-?[\d.]+(?:e[-+]?\d+)?)")


@dataclasses.dataclass(frozen=True)
class Curve:
    """A metric over levels of corruption.

    Attributes:
      metric: its name on examples as they are.
      sweep: what is corrupted, and how: `image:noise`, or several joined by commas.
      levels: in their order; of several corruptions those of the first.
      values: of the metric.
    """

    metric: str
    sweep: str
    levels: tuple[float, ...]
    values: tuple[float, ...]

    @property
    def area(self) -> float:
        """See `area_under_curve`."""
        return area_under_curve(self.levels, self.values)


def split_key(key: str) -> tuple[str, str, tuple[float, ...]] | None:
    """A metric's name, the sweep and the levels in the key of a corrupted one; None for another key."""
    metric, _, corruption = key.rpartition("@")
    parts = [_PART.fullmatch(part) for part in corruption.split(",")]
    if not metric or not all(parts):
        return None
    matches = [part for part in parts if part is not None]
    return metric, ",".join(match[1] for match in matches), tuple(float(match[3]) for match in matches)


def curves(metrics: Mapping[str, float]) -> list[Curve]:
    """The curves of metrics by key; those of kinds that level 0 leaves as it is begin there.

    Of several corruptions, the first at level 0 and another above it, that point is the beginning; a curve has a level
    once.

    Sweeps of a single level, which have no curve, are left out.
    """
    points: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for key, value in metrics.items():
        if split := split_key(key):
            metric, sweep, levels = split
            points.setdefault((metric, sweep), []).append((levels[0], value))
    result = []
    for (metric, sweep), evaluated in points.items():
        if len(evaluated) < 2:
            continue
        is_from_0 = all(part.partition(":")[2] in HARMLESS_AT_0 for part in sweep.split(",")) and metric in metrics
        every = [(0.0, metrics[metric]), *evaluated] if is_from_0 and evaluated[0][0] else evaluated
        levels, values = zip(*every, strict=True)
        result.append(Curve(metric, sweep, levels, values))
    return result


def area_under_curve(levels: Sequence[float], values: Sequence[float]) -> float:
    """The area under a curve by trapezoids, divided by how far the levels reach: the mean value over them.

    MultiBench's relative robustness before it is scaled among methods, whose levels are 0, 0.1, ..., 1.

    Args:
      levels: ascending or descending.
      values: of each.

    Raises:
      ValueError: there are fewer than two, not as many of both, or the levels are in no order.
    """
    steps = np.diff(np.asarray(levels, np.float64))
    if len(levels) != len(values) or not len(steps) or not (np.all(steps > 0) or np.all(steps < 0)):
        raise ValueError(f"levels {list(levels)} and values {list(values)}: give two or more of each, in their order")
    return float(np.trapezoid(values, levels) / (levels[-1] - levels[0]))


def effective_robustness(values: Sequence[float], baseline: Sequence[float]) -> float:
    """MultiBench's effective robustness (arXiv:2107.07502): how much better than a baseline a method withstands noise.

    The sum over levels of the method's value minus the baseline's, after the baseline is moved to the method's value at
    the first level; above 0, the method loses less than the baseline. MultiBench's baseline is late fusion.

    Args:
      values: of the method, from examples as they are to the most corrupted ones.
      baseline: of the baseline at the same levels.

    Raises:
      ValueError: there are none, or not as many of both.
    """
    if not len(values) or len(values) != len(baseline):
        raise ValueError(f"{len(values)} values and {len(baseline)} of the baseline: give as many of both")
    method, other = np.asarray(values, np.float64), np.asarray(baseline, np.float64)
    return float(np.sum((method - method[0]) - (other - other[0])))
