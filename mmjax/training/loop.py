"""The training loop: a batch, a step, and what is due after it."""

import contextlib
from collections.abc import Callable, Collection
from typing import Any

import jax
import ml_collections

from mmjax.data.loading import batches as batches_lib
from mmjax.parallel import log
from mmjax.parallel import mesh as mesh_lib
from mmjax.training import hooks, packing, throughput
from mmjax.training.deferred_log import DeferredLog
from mmjax.training.profiler import Profiler
from mmjax.training.run import Run, prepare
from mmjax.training.signals import ErrorDeferringBatches, StopSignal
from mmjax.training.step_agreement import AsyncAllReduce, StepAgreement


def train(config: ml_collections.ConfigDict, workdir: Any, flags: Collection[str] = ()) -> int | None:
    """Trains, resuming whatever the workdir holds.

    Several processes call it alike. What stops one of them (a signal, data that cannot be read) stops all, at the same
    step.

    Args:
      config: a recipe's config.
      workdir: a local folder, gs:// or any fsspec URL.
      flags: fields that the command line gives, by path, where they are not the recipe's.

    Returns:
      None when the run is complete, else the number of the signal that stopped it (after saving).

    Raises:
      UserError: a mistake in config, data or workdir.
      TrainingDiverged: a non-finite loss or gradient.
    """
    with StopSignal() as stop, contextlib.closing(prepare(config, workdir, flags)) as run:
        return run_steps(run, stop)


def run_steps(run: Run, stop: StopSignal) -> int | None:
    """Runs the steps after `run.start`, until the last one or a signal; returns as `train` does."""
    config, mesh, start, state = run.config, run.mesh, run.start, run.state
    run.state = None  # the first step consumes it
    meter = _make_meter(run)
    evaluate = hooks.Evaluate(run)
    save = hooks.Save(run, evaluate)
    if run.evaluation_missing and evaluate.due(start):
        evaluate.run(hooks.StepContext(start, state))

    batches, train_step = _open_batches(run, stop)
    agreement = StepAgreement(mesh, config.batch_size, stop, batches, run.bad_examples)
    metrics_log = DeferredLog(run, agreement, meter)
    with batches, Profiler(run.workdir, config.log.profile) as profiler:
        meter.reset(start)
        for step in range(start + 1, config.steps + 1):
            profiler.before(step, state)
            try:
                with meter.waiting():
                    batch = next(batches)
            except Exception as error:
                if stop.received is None:
                    raise
                # The signal went to the workers as well (SLURM does that), and there are no more batches.
                log.info(f"no batch for step {step} after the signal: {type(error).__name__}: {error}")
                if step > start + 1:
                    metrics_log.catch_up(step - 1, state)
                    save.run(hooks.StepContext(step - 1, state))
                break
            agreement.post(batch.pop("substitution_reason"), step)
            state, metrics = train_step(state, mesh_lib.to_global(mesh, batch))
            metrics_log.add(step, metrics)

            is_due = evaluate.due(step) or save.due(step)
            if is_due:
                agreement.resolve(step)
            context = hooks.StepContext(step, state, stopping=agreement.is_stopping())
            if is_due or context.stopping:
                metrics_log.catch_up(step, state)
                if evaluate.due(step) and not context.stopping:
                    hooks.evaluate_or_save(evaluate, save, agreement, context)
                if save.due(step) or context.stopping:
                    save.run(context)
                metrics_log.restart(step)
            if context.stopping:
                agreement.log_signal(step)
                break
    stopped_by = agreement.ask_signal()
    if stopped_by is None:
        hooks.write_summary(run)
    run.checkpoints.wait()
    return stopped_by


def _open_batches(run: Run, stop: StopSignal) -> tuple[Any, Callable[[Any, Any], tuple[Any, Any]]]:
    """The batches of this process from the first step on, and the step that takes them."""
    config, start = run.config, run.start
    rows = mesh_lib.local_rows(run.mesh, config.batch_size)

    def make_batches(step: int, workers: int = config.data.workers) -> batches_lib.BatchIterator:
        return batches_lib.train_batches(
            run.examples,
            start_step=step,
            stop_step=config.steps,
            global_batch=config.batch_size,
            rows=rows,
            workers=workers,
            threads=config.data.threads or None,
            prefetch=config.data.prefetch,
            finish=run.packer,
        )

    several = jax.process_count() > 1 and start < config.steps
    batches = ErrorDeferringBatches(make_batches, start, stop) if several else make_batches(start)
    if run.packer is None:
        return batches, run.setup.step
    votes = AsyncAllReduce(run.mesh) if several else None
    packed = packing.PackedBatches(batches, run.packer, votes, config.steps - start)
    return packed, packing.PackedStep(run.setup.step, run.packer)


def _make_meter(run: Run) -> throughput.Meter:
    peak = throughput.peak_flops(jax.devices()[0].device_kind)
    return throughput.Meter(run.config.batch_size, run.task.flops_per_example(), run.mesh.size, peak)
