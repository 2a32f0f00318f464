"""Hooks of the steps: lines of metrics, evaluation, checkpoints, and a profiler trace."""

import collections
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from mmjax.errors import TrainingDiverged, UserError
from mmjax.evaluation.results import flat_metrics
from mmjax.io import paths
from mmjax.parallel import log, process_agreement
from mmjax.parallel import mesh as mesh_lib
from mmjax.report import page
from mmjax.training import lora, lora_base
from mmjax.training.run import Run
from mmjax.training.step_agreement import StepAgreement

# Steps dispatched ahead of the device: enough to hide Python, few enough to bound the batches held.
RUN_AHEAD = 2


@dataclasses.dataclass
class StepContext:
    """A step that is over, as hooks see it.

    Attributes:
      step: its number.
      state: the train state after it.
      stopping: whether the run stops after it; a hook that takes long asks again.
    """

    step: int
    state: Any
    stopping: bool = False


class DeferredLog:
    """Lines of metrics, each written when the next step is on its way to the device.

    Args:
      run: whose logger is written to, with the rates of its meter.
      agreement: of its processes; each line has the counts of bad examples up to its step.
    """

    def __init__(self, run: Run, agreement: StepAgreement):
        self._run, self._agreement, self._meter = run, agreement, run.meter
        self._running = collections.deque()  # losses of the last steps, to bound how far Python runs ahead
        self._pending: tuple[int, Any, dict[str, float]] | None = None

    def add(self, step: int, metrics: Any) -> None:
        """Takes the metrics of a step that has been dispatched; waits for the one `RUN_AHEAD` steps before it."""
        config, first = self._run.config, self._run.start + 1
        self._running.append(metrics["loss"])
        if len(self._running) > RUN_AHEAD:
            self._running.popleft().block_until_ready()
            self._agreement.resolve(step - RUN_AHEAD)
            if step == first + RUN_AHEAD:
                self._meter.reset(first)  # the first step was compiled
        self.write()
        if step == 1 or step % config.log.every == 0 or step == config.steps:
            if step == config.steps:
                self._running.clear()
                metrics["loss"].block_until_ready()
            self._pending = (step, metrics, self._meter.read(step - len(self._running)))
        self._run.logger.progress(step)

    def write(self) -> None:
        """Writes the pending line, if there is one.

        Raises:
          TrainingDiverged: its loss or gradient was not finite.
        """
        if self._pending is None:
            return
        (step, metrics, rates), self._pending = self._pending, None
        values = {name: value.item() for name, value in mesh_lib.to_host(metrics).items()}
        self._check_finite(values.pop("first_bad_step"))
        self._agreement.resolve(step)
        self._run.claim.check()
        self._run.logger.write(step, "train", values | rates | self._run.bad_examples.metrics(step))

    def catch_up(self, step: int, state: Any) -> None:
        """Reads and writes all there is of the steps up to this one, before something is made of its state.

        Raises:
          TrainingDiverged: the loss or gradient of a step was not finite.
        """
        self._agreement.resolve(step)
        self.write()
        self._check_finite(int(mesh_lib.to_host(state.first_bad_step)))

    def restart(self, step: int) -> None:
        """Measures from here on, after something that was not training."""
        self._running.clear()
        self._meter.reset(step)

    def _check_finite(self, first_bad_step: int) -> None:
        if first_bad_step < 0:
            return
        self._run.checkpoints.wait()  # the message names the latest one
        latest = self._run.checkpoints.latest()
        kept = "no checkpoint had been written yet" if latest is None else f"the checkpoint of step {latest} is intact"
        raise TrainingDiverged(
            f"loss or gradient norm is not finite at step {first_bad_step}; {kept}."
            " Lower optimizer.learning_rate, set optimizer.grad_clip, or look at the data of that step"
        )


class Evaluate:
    """Evaluation, and the report with the last one; due every `eval.every` steps and at the last step."""

    def __init__(self, run: Run):
        self._run = run
        self._latest: tuple[int, dict[str, float]] | None = None

    def due(self, step: int) -> bool:
        """Whether this is a step to evaluate at."""
        every = self._run.config.eval.every
        return step == self._run.config.steps or bool(every and step % every == 0)

    def metrics_of(self, step: int) -> dict[str, float] | None:
        """The metrics of an evaluation at this step; None where there was none."""
        return self._latest[1] if self._latest is not None and self._latest[0] == step else None

    def run(self, context: StepContext) -> None:
        """Evaluates and logs; at the last step the report is written too."""
        run, state, step = self._run, context.state, context.step
        params = state.params if state.ema_params is None else state.ema_params
        params = lora.merged(params, run.config.optimizer.lora)
        started = time.perf_counter()
        is_last = step == run.config.steps
        results = run.evaluate(params, keep_artifacts=is_last)
        metrics = flat_metrics(results)
        run.claim.check()
        if results:
            run.logger.write(step, "eval", metrics | {"eval_seconds": time.perf_counter() - started})
        for result in results:
            shown = "  ".join(f"{name} {value:.4f}" for name, value in result.metrics.items() if "rank" not in name)
            log.info(f"step {step}  {result.dataset}: {shown}")
        if results and is_last and jax.process_index() == 0:
            page.write_report(run.workdir / "report.html", run.config, run.logger.file.lines(), results, step=step)
        self._latest = step, metrics


class Save:
    """Checkpoints; due every `checkpoint.every` steps and at the last step."""

    def __init__(self, run: Run, evaluate: Evaluate):
        self._run, self._evaluate = run, evaluate

    def due(self, step: int) -> bool:
        """Whether this is a step to save."""
        return step == self._run.config.steps or step % self._run.config.checkpoint.every == 0

    def run(self, context: StepContext) -> None:
        """Starts a checkpoint; all that was logged up to here is visible first."""
        run, step = self._run, context.step
        with process_agreement.raise_on_all():
            run.claim.check()
            run.logger.flush()
        metrics = self._evaluate.metrics_of(step)
        meta = run.make_meta(
            position=step * run.config.batch_size,
            bad_examples=dict(run.bad_examples.counts),
            evaluated=metrics is not None,
        )
        run.checkpoints.save(step, lora_base.slim(context.state, run.config.optimizer), meta, metrics)


class Profiler:
    """A trace of a window of steps in WORKDIR/profile, for TensorBoard or Perfetto.

    A run that goes on inside the window traces what is left of it.

    Args:
      workdir: the path of the run.
      window: (first, last) step, or empty.
    """

    def __init__(self, workdir: Any, window: Sequence[int]):
        self._folder = workdir / "profile"
        self._first, self._last = window or (0, -1)
        self._tracing = False
        self._temporary = None

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def before(self, step: int, state: Any) -> None:
        """Call before every step with the state it starts from."""
        if not self._tracing and self._first <= step <= self._last:
            folder = self._folder
            if paths.scheme(folder):
                self._temporary = tempfile.TemporaryDirectory(prefix="mmjax-profile-")
                folder = self._temporary.name
            jax.profiler.start_trace(str(folder))
            self._tracing = True
        elif self._tracing and step > self._last:
            jax.block_until_ready(state.step)  # the device may still be at work on the window
            self.close()

    def close(self) -> None:
        """Ends the trace, when there is one."""
        if not self._tracing:
            return
        self._tracing = False
        jax.profiler.stop_trace()
        if self._temporary is not None:
            paths.copy_tree(epath.Path(self._temporary.name), self._folder)
            self._temporary.cleanup()


def evaluate_or_save(evaluate: Evaluate, save: Save, agreement: StepAgreement, context: StepContext) -> None:
    """Evaluates; where that fails, the state is saved before the error goes on."""
    try:
        evaluate.run(context)
    except Exception as error:
        # A fault that is no mistake may be one process's alone, and saving would wait for the others.
        if isinstance(error, UserError) or jax.process_count() == 1:
            save.run(context)
        raise
    context.stopping = agreement.ask_signal() is not None  # one may have come during the evaluation


def write_summary(run: Run) -> None:
    """Writes the summary line of a run that is complete, once."""
    if jax.process_index() != 0:
        return
    run.claim.check()
    lines, steps = run.logger.file.lines(), run.config.steps
    if any(line["kind"] == "summary" and line["step"] == steps for line in lines):
        return
    rate = run.meter.rate
    rates = [line[rate] for line in lines if line["kind"] == "train" and rate in line]
    summary: dict[str, float] = {"examples_seen": steps * run.config.batch_size}
    if rates:
        summary[rate] = float(np.median(rates))
    # From the file: the evaluation may have been another process's, killed before it came to the summary.
    for line in lines:
        if line["kind"] == "eval" and line["step"] == steps:
            summary |= {name: value for name, value in line.items() if name not in ("step", "kind", "eval_seconds")}
    run.logger.write(steps, "summary", summary)
    if run.bad_examples.counts:
        log.info(f"note: {run.bad_examples.describe(steps)}; others took their places")
