"""Weights & Biases as a writer of a run's numbers."""

import hashlib
import uuid
from collections.abc import Mapping
from typing import Any

from mmjax.errors import UserError
from mmjax.io import paths
from mmjax.training.config import LogConfig
from mmjax.training.metrics_log import numbers
from mmjax.utils import optional_imports


class WandB:
    """A run of Weights & Biases, in `log.wandb_project`; arguments as every `LogWriter` has."""

    def __init__(self, workdir: Any, *, settings: LogConfig, name: str, fields: Mapping[str, Any]):
        self.check(settings)
        self._run = _wandb(settings).init(
            project=settings.wandb_project,
            name=name,
            config=dict(fields),
            resume="allow",
            id=_run_id(workdir),
        )

    @staticmethod
    def check(settings: LogConfig) -> None:
        """Checks that there is a project, and the package.

        Raises:
          UserError: one of them is missing.
        """
        if not settings.wandb_project:
            raise UserError("log.writers names wandb, which needs a project; set log.wandb_project")
        _wandb(settings)

    def resume(self, step: int, *, evaluated: bool) -> None:
        """W&B drops nothing: it ignores steps below its last one."""

    def write(self, step: int, kind: str, metrics: Mapping[str, Any]) -> None:
        self._run.log(numbers(kind, metrics), step=step)

    def flush(self) -> None:
        """W&B sends by itself."""

    def close(self) -> None:
        self._run.finish()


def _run_id(workdir: Any) -> str:
    """W&B's id of the run in a workdir, which goes on under it; another run of the same path has another."""
    file = workdir / "wandb_run_id"
    if not file.exists():
        # Of a run that older code began it follows from the path.
        is_older = (workdir / "metrics.jsonl").exists()
        run_id = hashlib.sha256(str(workdir).encode()).hexdigest()[:16] if is_older else uuid.uuid4().hex[:16]
        paths.write_atomically(file, run_id)
    return file.read_text()


def _wandb(settings: LogConfig) -> Any:
    return optional_imports.require("wandb", extra="wandb", where=f"log.wandb_project={settings.wandb_project!r}")
