"""Metrics of a run: `metrics.jsonl`, TensorBoard, Weights & Biases and the terminal; the meter of its throughput."""

import contextlib
import hashlib
import importlib.util
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from etils import epath
from tqdm import tqdm

from mmjax.errors import UserError
from mmjax.io import paths
from mmjax.parallel import log
from mmjax.training.config import LogConfig

_REMOTE_EVERY = 30.0  # seconds between uploads of logs to an object store, which cannot append


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


class Logger:
    """Writes metrics everywhere they are wanted. Processes other than the first write nothing.

    Args:
      workdir: where the files lie.
      settings: where numbers go.
      name: of the run.
      steps: of the run.
      fields: all of its config, for W&B.

    Raises:
      UserError: W&B is asked for and not installed.
    """

    def __init__(self, workdir: Any, settings: LogConfig, *, name: str, steps: int, fields: Mapping[str, Any]):
        self._active = jax.process_index() == 0
        self._steps = steps
        self._board = self._wandb = self._bar = None
        self._workdir = paths.as_path(workdir)
        if not self._active:
            return
        self.file = MetricsFile(self._workdir / "metrics.jsonl")
        self._tensorboard = settings.tensorboard
        if settings.wandb_project:
            self._open_wandb(settings, name, fields)

    def _open_board(self, step: int) -> None:
        from tensorboardX import SummaryWriter

        self._board_folder = None
        folder = self._workdir / "tensorboard"
        if paths.scheme(folder):
            self._board_folder = tempfile.TemporaryDirectory(prefix="mmjax-tensorboard-")
            folder = self._board_folder.name
        # purge_step: TensorBoard then hides what an earlier process wrote from that step on.
        self._board = SummaryWriter(str(folder), flush_secs=30, purge_step=step + 1 if step else None)

    def _open_wandb(self, settings: LogConfig, name: str, fields: Mapping[str, Any]) -> None:
        check_settings(settings)
        import wandb

        self._wandb = wandb.init(
            project=settings.wandb_project,
            name=name,
            config=dict(fields),
            resume="allow",
            # The workdir is the run: started again on it, W&B goes on too.
            id=hashlib.sha256(str(self._workdir).encode()).hexdigest()[:16],
        )

    def resume(self, step: int, *, evaluated: bool = True) -> None:
        """Drops logged lines past the step a run goes on from, and starts the progress bar there.

        Args:
          step: the restored step.
          evaluated: whether its checkpoint was saved after its evaluation; else that line goes too.
        """
        if not self._active:
            return
        self.file.drop_after(step, evaluated=evaluated)
        if self._tensorboard:
            self._open_board(step)
        if sys.stderr.isatty():
            self._bar = tqdm(total=self._steps, initial=step, unit="step", dynamic_ncols=True, smoothing=0.1)

    def progress(self, step: int) -> None:
        """Moves the progress bar."""
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def write(self, step: int, kind: str, metrics: Mapping[str, Any]) -> None:
        """Logs numbers of one step; `kind` is `train`, `eval` or `summary`."""
        if not self._active:
            return
        self.file.write({"step": step, "kind": kind, **metrics})
        numbers = {f"{kind}/{k}": v for k, v in metrics.items() if isinstance(v, (int, float))}
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)
        if kind == "train":
            self._show(step, metrics)

    def _show(self, step: int, metrics: Mapping[str, Any]) -> None:
        shown = {"loss": "loss", "accuracy": "acc", "learning_rate": "lr", "images_per_second": "img/s", "mfu": "mfu"}
        parts = {
            short: f"{metrics[name]:.3g}" if name != "loss" else f"{metrics[name]:.4f}"
            for name, short in shown.items()
            if name in metrics
        }
        if self._bar is not None:
            self._bar.set_postfix(parts)
            return
        left = ""
        if "step_time" in metrics:
            left = f"  left {_duration((self._steps - step) * metrics['step_time'])}"
        log.info(f"step {step}/{self._steps}  " + "  ".join(f"{k} {v}" for k, v in parts.items()) + left)

    def flush(self) -> None:
        """Makes all that was written visible, before a checkpoint that follows from it."""
        if self._active:
            self.file.flush()
            if self._board is not None:
                self._board.flush()
                self._upload_board()

    def close(self) -> None:
        """Ends the bar and closes the files."""
        if not self._active:
            return
        self.file.flush()
        if self._bar is not None:
            self._bar.close()
        if self._board is not None:
            self._board.close()
            self._upload_board()
            if self._board_folder is not None:
                self._board_folder.cleanup()
        if self._wandb is not None:
            self._wandb.finish()

    def _upload_board(self) -> None:
        if self._board_folder is not None:
            paths.copy_tree(epath.Path(self._board_folder.name), self._workdir / "tensorboard")


class Meter:
    """Rates between two readings: images per second, step time, time waiting for data, MFU where the peak is known.

    Args:
      batch_size: pairs per step.
      flops_per_example: of a forward pass; a training step is counted as three of them, recomputation not counted.
        None where they are not known.
      devices: how many.
      peak: of one device in FLOP/s, or None.
    """

    def __init__(self, batch_size: int, flops_per_example: float | None, devices: int, peak: float | None):
        self._batch_size = batch_size
        known = peak is not None and flops_per_example is not None
        self._step_flops = 3.0 * (flops_per_example or 0.0) * batch_size
        self._peak = peak * devices if known else None
        self.reset(0)

    def reset(self, step: int) -> None:
        """Starts a new interval after `step`; call after anything that is not training (an evaluation, a save)."""
        self._start, self._step, self._waits = time.perf_counter(), step, []

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Context that counts the time spent in it as time without a batch."""
        start = time.perf_counter()
        yield
        self._waits.append(time.perf_counter() - start)

    def read(self, step: int) -> dict[str, float]:
        """Returns the rates since the last reading and starts the next interval; empty when no step has ended.

        Args:
          step: the last one that has ended. One that is only on its way took no more than the time to ask for it.
        """
        steps = step - self._step
        if steps <= 0:
            return {}
        step_time = (time.perf_counter() - self._start) / steps
        rates = {
            "images_per_second": self._batch_size / step_time,
            "step_time": step_time,
            "data_wait": sum(self._waits) / max(1, len(self._waits)),
        }
        if self._peak is not None:
            rates["mfu"] = self._step_flops / step_time / self._peak
        self.reset(step)
        return rates


def check_settings(settings: LogConfig) -> None:
    """Checks where numbers go.

    Raises:
      UserError: W&B is asked for and not installed.
    """
    project = settings.wandb_project
    if project and importlib.util.find_spec("wandb") is None:
        raise UserError(f"log.wandb_project={project!r}: wandb is not installed; pip install wandb")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"
