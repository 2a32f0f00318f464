"""An update rule with a field of its own, and a writer of logs."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import optax

from mmjax.plugin import LogConfig, OptimizerConfig, UpdateRule, log_writers, optimizers


@dataclass(frozen=True)
class AdanConfig:
    """What Adan (arXiv:2208.06677) has beside `optimizer.b1`, `b2` and `eps`."""

    renamed: ClassVar[Mapping[str, str]] = {"beta3": "b3"}  # what an older version of this plugin called it
    b3: float = 0.99
    """decay of the second moment; `b2` is that of the gradients' differences"""


def _adan(settings: OptimizerConfig, params: Any) -> optax.GradientTransformation:
    return optax.scale_by_adan(b1=settings.b1, b2=settings.b2, b3=settings.added["adan"].b3, eps=settings.eps)


optimizers.register("adan", config=AdanConfig)(UpdateRule(_adan, reads=("b2", "eps")))


@log_writers.register("csv")
class CSV:
    """The loss of every logged step, in WORKDIR/loss.csv."""

    def __init__(self, workdir: Any, *, settings: LogConfig, name: str, fields: Mapping[str, Any]):
        self._path = workdir / "loss.csv"

    def resume(self, step: int, *, evaluated: bool) -> None:
        """Keeps the lines up to the step that the run goes on from."""
        rows = list(csv.reader(self._path.read_text().splitlines())) if self._path.exists() else []
        kept = [row for row in rows if int(row[0]) <= step]
        self._path.write_text("".join(",".join(row) + "\n" for row in kept))

    def write(self, step: int, kind: str, metrics: Mapping[str, Any]) -> None:
        """Adds a line."""
        if kind == "train":
            with open(self._path, "a") as file:
                file.write(f"{step},{metrics['loss']}\n")

    def flush(self) -> None:
        """Every line is written when it comes."""

    def close(self) -> None:
        """No file is open between lines."""
