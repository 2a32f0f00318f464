"""The training loop: a batch, a step, and what is due after it."""

from mmjax.io import machine_faults
from mmjax.parallel import log
from mmjax.parallel import mesh as mesh_lib
from mmjax.training import hooks
from mmjax.training.hooks import DeferredLog
from mmjax.training.run import Run
from mmjax.training.signals import StopSignal
from mmjax.training.step_agreement import StepAgreement


def run_steps(run: Run, stop: StopSignal) -> int | None:
    """Runs the steps after `run.start`, until the last one or a signal.

    Args:
      run: ready to train; its state is consumed.
      stop: what this process has received.

    Returns:
      None when the run is complete, else the number of the signal that stopped it (after saving).

    Raises:
      MachineError: the machine fails; where no more batches come, after saving.
      TrainingDiverged: a non-finite loss or gradient.
    """
    config, mesh, start, state = run.config, run.mesh, run.start, run.take_state()
    evaluate = hooks.Evaluate(run)
    save = hooks.Save(run, evaluate)
    if run.evaluation_missing and evaluate.due(start):
        evaluate.run(hooks.StepContext(start, state))

    batches = run.open_batches(stop)
    agreement = StepAgreement(mesh, config.batch_size, stop, batches, run.bad_examples)
    metrics_log = DeferredLog(run, agreement)
    with batches, hooks.Profiler(run.workdir, config.log.profile) as profiler:
        run.meter.reset(start)
        for step in range(start + 1, config.steps + 1):
            profiler.before(step, state)
            try:
                with run.meter.waiting():
                    batch = next(batches)
            except Exception as error:
                fault = machine_faults.of(error) if stop.received is None else None
                if stop.received is None and fault is None:
                    raise
                # The signal went to the workers as well (SLURM does that), or the machine fails: no more batches come.
                if fault is None:
                    log.info(f"no batch for step {step} after the signal: {type(error).__name__}: {error}")
                if step > start + 1:
                    metrics_log.catch_up(step - 1, state)
                    save.run(hooks.StepContext(step - 1, state))
                if fault is not None:
                    run.checkpoints.wait()
                    raise fault from error
                break
            agreement.post(batch, step)
            state, metrics = run.step(state, mesh_lib.to_global(mesh, batch))
            metrics_log.add(step, metrics)

            is_due = evaluate.due(step) or save.due(step)
            if is_due:
                agreement.resolve(step)
            stopping = agreement.is_stopping()
            if not is_due and not stopping:
                continue
            context = hooks.StepContext(step, state, stopping)
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
