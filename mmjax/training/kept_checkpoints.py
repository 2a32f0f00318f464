"""Which checkpoints of a run are kept: the latest ones, and the best ones by a metric."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from orbax.checkpoint import checkpoint_managers

from mmjax.errors import UserError
from mmjax.io import paths
from mmjax.training.config import CheckpointConfig


@dataclasses.dataclass(frozen=True)
class Best(checkpoint_managers.PreservationPolicy):
    """Keeps the `count` checkpoints with the largest `metric`; one that was not evaluated is no candidate."""

    metric: str
    count: int

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        rated = [
            (info.metrics[self.metric], number)
            for number, info in enumerate(checkpoints)
            if self.metric in (info.metrics or {})
        ]
        best = {number for _, number in sorted(rated, reverse=True)[: self.count]}
        return [number in best for number in range(len(checkpoints))]


def drop_damaged_metrics(folder: Any, expected: Mapping[str, float] | None) -> bool:
    """Removes a checkpoint's metrics where they are not those that were saved; it then counts as not evaluated.

    Args:
      folder: of the checkpoint.
      expected: the metrics by what lies beside the state; None where it does not say.

    Returns:
      Whether they were damaged.
    """
    path = folder / "metrics" / "metrics"
    if not path.exists():
        return False
    try:
        metrics = json.loads(path.read_text())
        are_numbers = isinstance(metrics, dict) and all(isinstance(value, (int, float)) for value in metrics.values())
    except (ValueError, RecursionError):
        metrics, are_numbers = {}, False
    if are_numbers and expected in (None, metrics):
        return False
    paths.remove_tree(path.parent)
    return True


def check_settings(settings: CheckpointConfig) -> None:
    """Checks what is kept.

    Raises:
      UserError: naming the field of `checkpoint`.
    """
    if settings.keep < 1:
        raise UserError(f"checkpoint.keep={settings.keep} must be at least 1: the latest checkpoint always survives")
    if settings.keep_best < 0:
        raise UserError(f"checkpoint.keep_best={settings.keep_best} must not be negative")
    if settings.keep_best and not settings.best_metric:
        raise UserError(f"checkpoint.keep_best={settings.keep_best} needs checkpoint.best_metric, e.g. 'shapes/acc1'")
