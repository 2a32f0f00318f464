"""Writers of a run's numbers: `metrics.jsonl`, TensorBoard, Weights & Biases."""

import hashlib
import json
import tempfile
import time
from collections.abc import Mapping
from typing import Any, Protocol

from etils import epath

from mmjax.errors import UserError
from mmjax.io import paths
from mmjax.training.config import LogConfig
from mmjax.utils import optional_imports

_REMOTE_EVERY = 30.0  # seconds between uploads of logs to an object store, which cannot append


class LogWriter(Protocol):
    """Something that a run's numbers are written to; the first process alone has them.

    It is made as `Writer(workdir, settings=..., name=..., fields=...)`: the run's folder (local or a URL), its group
    `log`, its name, and all fields of its config by name. A class may have a static `check(settings)`, which raises a
    `UserError` before anything long is computed.
    """

    def resume(self, step: int, *, evaluated: bool) -> None:
        """Begins to write, once; what stands there past the step that the run goes on from (0: it begins) is void.

        `evaluated` is false where that step's evaluation will be written again.
        """
        ...

    def write(self, step: int, kind: str, metrics: Mapping[str, Any]) -> None:
        """Writes what was measured at a step; `kind` is `train`, `eval` or `summary`."""
        ...

    def flush(self) -> None:
        """Makes all that was written visible."""
        ...

    def close(self) -> None:
        """Ends; nothing follows."""
        ...


def numbers(kind: str, metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are numbers, as `KIND/NAME`."""
    return {f"{kind}/{name}": value for name, value in metrics.items() if isinstance(value, (int, float))}


class MetricsFile:
    """`metrics.jsonl`: one JSON object a line; every step stands once per kind, restarts or not."""

    def __init__(self, path: Any):
        self.path = paths.as_path(path)
        self._remote = bool(paths.scheme(self.path))
        self._lines = _read_lines(self.path) if self._remote else []
        self._uploaded = time.monotonic()

    def drop_after(self, step: int, *, evaluated: bool = True) -> None:
        """Forgets lines past a restored step (with its own evaluation, if not `evaluated`), and one a kill cut off."""
        last = step if evaluated else step - 1
        kept = [line for line in _read_lines(self.path) if line["step"] <= (step if line["kind"] == "train" else last)]
        paths.write_atomically(self.path, "".join(_encode(line) for line in kept))
        self._lines = kept if self._remote else []

    def write(self, line: Mapping[str, Any]) -> None:
        """Appends a line and lets it reach the operating system."""
        if self._remote:
            self._lines.append(dict(line))
            if time.monotonic() - self._uploaded > _REMOTE_EVERY:
                self.flush()
            return
        with self.path.open("a") as file:
            file.write(_encode(line))

    def flush(self) -> None:
        """Uploads what an object store does not have yet."""
        if self._remote:
            self.path.write_text("".join(_encode(line) for line in self._lines))
            self._uploaded = time.monotonic()

    def lines(self) -> list[dict[str, Any]]:
        """All lines so far."""
        return list(self._lines) if self._remote else _read_lines(self.path)


def _encode(line: Mapping[str, Any]) -> str:
    # allow_nan=False: NaN is not JSON, and a run that produced one has been stopped before it gets here.
    return json.dumps(line, allow_nan=False) + "\n"


def _read_lines(path: Any) -> list[dict[str, Any]]:
    """Reads whole lines; what a kill left unfinished is skipped."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and "step" in line:
            lines.append(line)
    return lines


class JSONLines:
    """`metrics.jsonl` as a writer; arguments as every `LogWriter` has.

    Attributes:
      file: the file.
    """

    def __init__(self, workdir: Any, *, settings: LogConfig, name: str, fields: Mapping[str, Any]):
        self.file = MetricsFile(workdir / "metrics.jsonl")

    def resume(self, step: int, *, evaluated: bool) -> None:
        self.file.drop_after(step, evaluated=evaluated)

    def write(self, step: int, kind: str, metrics: Mapping[str, Any]) -> None:
        self.file.write({"step": step, "kind": kind, **metrics})

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.file.flush()


class TensorBoard:
    """Event files in `tensorboard/`; arguments as every `LogWriter` has."""

    def __init__(self, workdir: Any, *, settings: LogConfig, name: str, fields: Mapping[str, Any]):
        self._target = workdir / "tensorboard"
        self._local = tempfile.TemporaryDirectory(prefix="mmjax-tensorboard-") if paths.scheme(self._target) else None
        self._board = None

    def resume(self, step: int, *, evaluated: bool) -> None:
        from tensorboardX import SummaryWriter

        folder = self._target if self._local is None else self._local.name
        # purge_step: TensorBoard then hides what an earlier process wrote from that step on.
        self._board = SummaryWriter(str(folder), flush_secs=30, purge_step=step + 1 if step else None)

    def write(self, step: int, kind: str, metrics: Mapping[str, Any]) -> None:
        if self._board is not None:
            for name, value in numbers(kind, metrics).items():
                self._board.add_scalar(name, value, step)

    def flush(self) -> None:
        if self._board is not None:
            self._board.flush()
            self._upload()

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
            self._upload()
        if self._local is not None:
            self._local.cleanup()

    def _upload(self) -> None:
        if self._local is not None:
            paths.copy_tree(epath.Path(self._local.name), self._target)


class WandB:
    """A run of Weights & Biases, in `log.wandb_project`; arguments as every `LogWriter` has."""

    def __init__(self, workdir: Any, *, settings: LogConfig, name: str, fields: Mapping[str, Any]):
        self.check(settings)
        self._run = _wandb(settings).init(
            project=settings.wandb_project,
            name=name,
            config=dict(fields),
            resume="allow",
            # The workdir is the run: started again on it, W&B goes on too.
            id=hashlib.sha256(str(workdir).encode()).hexdigest()[:16],
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


def _wandb(settings: LogConfig) -> Any:
    return optional_imports.require("wandb", extra="wandb", where=f"log.wandb_project={settings.wandb_project!r}")
