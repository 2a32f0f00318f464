"""Metrics of a run: what writes them, `metrics.jsonl` and TensorBoard among it, the terminal, and the throughput."""

import contextlib
import functools
import inspect
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
from tqdm import tqdm

from mmjax import plugin_calls, registry
from mmjax.io import paths
from mmjax.parallel import log
from mmjax.training.config import LogConfig

_MADE = "Writer(workdir, settings=..., name=..., fields=...)"
_REMOTE_EVERY = 30.0  # seconds between uploads of logs to an object store, which cannot append
# The end of the names of rates.
PER_SECOND = "_per_second"


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
        self._lines = _read_lines(self.path)[0] if self._remote else []
        self._uploaded = time.monotonic()

    def drop_after(self, step: int, *, evaluated: bool = True) -> None:
        """Forgets lines past a restored step (with its own evaluation, if not `evaluated`), and one a kill cut off.

        Of lines of one kind and step the last one stays. Lines that no run wrote are counted and kept in another file.
        """
        last = step if evaluated else step - 1
        lines, foreign = _read_lines(self.path)
        if foreign:
            copy = self.path.parent / f"{self.path.name}.damaged"
            paths.write_atomically(copy, self.path.read_bytes())
            log.info(
                f"warning: {self.path}: {len(foreign)} lines are no metrics of a run, the first is line {foreign[0]};"
                f" they are left out, and {copy.name} has the file as it was"
            )
        kept = {
            (line["kind"], line["step"]): line
            for line in lines
            if line["step"] <= (step if line["kind"] == "train" else last)
        }
        paths.write_atomically(self.path, "".join(map(_encode, kept.values())))
        self._lines = list(kept.values()) if self._remote else []

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
        return list(self._lines) if self._remote else _read_lines(self.path)[0]


def _encode(line: Mapping[str, Any]) -> str:
    # allow_nan=False: NaN is not JSON, and a run that produced one has been stopped before it gets here.
    return json.dumps(line, allow_nan=False) + "\n"


def _read_lines(path: Any) -> tuple[list[dict[str, Any]], list[int]]:
    """The lines of metrics, and the numbers of other lines, but for the last one where a kill left it unfinished."""
    lines, foreign = [], []
    content = path.read_bytes() if path.exists() else b""
    texts = content.splitlines()
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            line = None
        if isinstance(line, dict) and isinstance(line.get("step"), int) and isinstance(line.get("kind"), str):
            lines.append(line)
        elif number < len(texts) or content.endswith(b"\n"):
            foreign.append(number)
    return lines, foreign


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


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


class Logger:
    """Writes metrics everywhere they are wanted. Processes other than the first write nothing.

    Args:
      workdir: where the files lie.
      settings: where numbers go.
      name: of the run.
      steps: of the run.
      fields: all of its config, for who keeps it beside the numbers.

    Attributes:
      file: `metrics.jsonl`; the first process alone has one.

    Raises:
      UserError: what writes them cannot be made, such as W&B's where that is not installed.
    """

    def __init__(self, workdir: Any, settings: LogConfig, *, name: str, steps: int, fields: Mapping[str, Any]):
        self._active = jax.process_index() == 0
        self._steps = steps
        self._bar = None
        self._workdir = paths.as_path(workdir)
        if not self._active:
            return
        self._writers: dict[str, Any] = {}
        for kind in writer_names(settings):
            make = registry.log_writers.load(kind, where=f"log.writers={kind!r}")
            with plugin_calls.calling(registry.log_writers, kind, make, _MADE):
                self._writers[kind] = make(self._workdir, settings=settings, name=name, fields=fields)
        self._plugins = frozenset(registry.log_writers.added())
        self.file = self._writers["jsonl"].file

    def resume(self, step: int, *, evaluated: bool = True) -> None:
        """Drops logged lines past the step a run goes on from, and starts the progress bar there.

        Args:
          step: the restored step.
          evaluated: whether its checkpoint was saved after its evaluation; else that line goes too.
        """
        if not self._active:
            return
        for call in self._calls("resume"):
            call(step, evaluated=evaluated)
        if _is_terminal(sys.stderr):
            self._bar = tqdm(total=self._steps, initial=step, unit="step", dynamic_ncols=True, smoothing=0.1)

    def _calls(self, method: str) -> list[Callable[..., None]]:
        """A method of every writer; what fails in a plugin's is one line."""

        def call(kind, *args, **settings):
            with plugin_calls.calling(registry.log_writers, kind, self._writers[kind]):
                getattr(self._writers[kind], method)(*args, **settings)

        return [
            functools.partial(call, kind) if kind in self._plugins else getattr(writer, method)
            for kind, writer in self._writers.items()
        ]

    def progress(self, step: int) -> None:
        """Moves the progress bar."""
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def write(self, step: int, kind: str, metrics: Mapping[str, Any]) -> None:
        """Logs numbers of one step; `kind` is `train`, `eval` or `summary`."""
        if not self._active:
            return
        for call in self._calls("write"):
            call(step, kind, metrics)
        if kind == "train":
            self._show(step, metrics)

    def _show(self, step: int, metrics: Mapping[str, Any]) -> None:
        rates = {name: name.replace(PER_SECOND, "/s") for name in metrics if name.endswith(PER_SECOND)}
        rates = {name: short.replace("images", "img") for name, short in rates.items()}
        shown = {"loss": "loss", "accuracy": "acc", "learning_rate": "lr", **rates, "mfu": "mfu"}
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
        line = f"step {step}/{self._steps}  " + "  ".join(f"{k} {v}" for k, v in parts.items()) + left
        print(line, flush=True)  # noqa: T201 (our names and numbers alone)

    def flush(self) -> None:
        """Makes all that was written visible, before a checkpoint that follows from it."""
        if self._active:
            for call in self._calls("flush"):
                call()

    def close(self) -> None:
        """Ends the bar and closes what writes; one that fails leaves none of the others open."""
        if not self._active:
            return
        with contextlib.ExitStack() as stack:
            for call in reversed(self._calls("close")):
                stack.callback(call)
            if self._bar is not None:
                stack.callback(self._bar.close)


class Meter:
    """Rates between two readings: examples per second, step time, time waiting for data, MFU where the peak is known.

    Args:
      rate: the name of the first, such as `images_per_second`.
      batch_size: pairs per step.
      flops_per_example: of a forward pass; a training step is counted as three of them, recomputation not counted.
        None where they are not known.
      devices: how many.
      peak: of one device in FLOP/s, or None.
    """

    def __init__(self, rate: str, batch_size: int, flops_per_example: float | None, devices: int, peak: float | None):
        self.rate, self._batch_size = rate, batch_size
        self._step_flops = 3.0 * (flops_per_example or 0.0) * batch_size
        self._peak = None if peak is None or flops_per_example is None else peak * devices
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
            self.rate: self._batch_size / step_time,
            "step_time": step_time,
            "data_wait": sum(self._waits) / max(1, len(self._waits)),
        }
        if self._peak is not None:
            rates["mfu"] = self._step_flops / step_time / self._peak
        self.reset(step)
        return rates


def _is_terminal(stream: Any) -> bool:
    """Whether a progress bar can be seen there: not in a file, nor in a terminal that says that it has no columns."""
    try:
        return stream.isatty() and os.get_terminal_size(stream.fileno()).columns > 0
    except OSError:  # a stream of something else, which calls itself a terminal
        return True


def writer_names(settings: LogConfig) -> tuple[str, ...]:
    """Who writes a run's numbers, by their names in `registry.log_writers`; `metrics.jsonl` is always written."""
    switched_on = {"jsonl": True, "tensorboard": settings.tensorboard, "wandb": bool(settings.wandb_project)}
    return tuple(dict.fromkeys([*(name for name, is_on in switched_on.items() if is_on), *settings.writers]))


def check_settings(settings: LogConfig) -> None:
    """Checks where numbers go.

    Raises:
      UserError: an unknown writer, or one that lacks what it needs, such as W&B's where that is not installed.
    """
    for name in writer_names(settings):
        registry.log_writers.validate_choice("log.writers", name, settings.writers)
        make = registry.log_writers.load(name, where=f"log.writers={settings.writers!r}")
        if hasattr(make, "check"):
            with plugin_calls.calling(registry.log_writers, name, make, "check(settings)"):
                make.check(settings)
        if name in registry.log_writers.added():
            _check_added(name, make)


def _check_added(name: str, make: Any) -> None:
    """Checks that a plugin's writer can be made as all are, and has the methods of one."""
    if not callable(make):
        raise plugin_calls.wrong(registry.log_writers, name, make, f"{make!r} cannot be called as {_MADE}")
    with plugin_calls.calling(registry.log_writers, name, make, _MADE):
        inspect.signature(make).bind("", settings=None, name="", fields={})
    for method in ("resume", "write", "flush", "close"):
        if isinstance(make, type) and not hasattr(make, method):
            raise plugin_calls.wrong(registry.log_writers, name, make, f"{make.__name__} has no method {method}")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"
