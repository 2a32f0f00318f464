"""Hooks at the end of a step: evaluation and checkpoints."""

import dataclasses
import time
from typing import Any

import jax
import numpy as np

from mmjax.errors import UserError
from mmjax.evaluation import from_config
from mmjax.parallel import log
from mmjax.report import page
from mmjax.training import checkpoint, packing
from mmjax.training.run import Run
from mmjax.training.step_agreement import StepAgreement


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
        started = time.perf_counter()
        is_last = step == run.config.steps
        results = run.evaluator.run(params, keep_artifacts=is_last)
        metrics = from_config.flat_metrics(results)
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
        run.logger.flush()
        metrics = self._evaluate.metrics_of(step)
        meta = checkpoint.make_meta(
            run.config,
            step * run.config.batch_size,
            run.task.image_spec,
            run.tokenizer,
            data=run.data,
            facts=dataclasses.asdict(run.task.dataset_metadata),
            bad_examples=dict(run.bad_examples.counts),
            text_packing=packing.to_meta(run.packer),
            remat={tower: dataclasses.asdict(remat) for tower, remat in run.setup.remat.items()},
            evaluated=metrics is not None,
        )
        run.checkpoints.save(step, context.state, meta, metrics)


def evaluate_or_save(evaluate: Evaluate, save: Save, agreement: StepAgreement, context: StepContext) -> None:
    """Evaluates; where the data cannot be evaluated on, the state is saved before the error goes on."""
    try:
        evaluate.run(context)
    except UserError:
        save.run(context)
        raise
    context.stopping = agreement.ask_signal() is not None  # one may have come during the evaluation


def write_summary(run: Run) -> None:
    """Writes the summary line of a run that is complete, once."""
    if jax.process_index() != 0:
        return
    lines, steps = run.logger.file.lines(), run.config.steps
    if any(line["kind"] == "summary" and line["step"] == steps for line in lines):
        return
    rates = [line["images_per_second"] for line in lines if line["kind"] == "train" and "images_per_second" in line]
    summary = {"examples_seen": steps * run.config.batch_size}
    if rates:
        summary["images_per_second"] = float(np.median(rates))
    # From the file: the evaluation may have been another process's, killed before it came to the summary.
    for line in lines:
        if line["kind"] == "eval" and line["step"] == steps:
            summary |= {name: value for name, value in line.items() if name not in ("step", "kind", "eval_seconds")}
    run.logger.write(steps, "summary", summary)
    if run.bad_examples.counts:
        log.info(f"note: {run.bad_examples.describe(steps)}; others took their places")
