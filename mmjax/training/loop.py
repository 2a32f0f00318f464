"""The training loop, top to bottom: mesh, input, model, restore, steps, evaluation, checkpoint."""

import collections
import dataclasses
import signal
import time
from collections.abc import Collection
from typing import Any

import jax
import ml_collections
import numpy as np

from mmjax import tasks
from mmjax.data import bad_example
from mmjax.data.loading import batches as batches_lib
from mmjax.errors import GlobalUserError, TrainingDiverged, UserError
from mmjax.evaluation import from_config
from mmjax.io import paths
from mmjax.parallel import global_arrays, process_agreement
from mmjax.parallel import mesh as mesh_lib
from mmjax.report import page
from mmjax.training import (
    build_step,
    checkpoint,
    compiler,
    init_from,
    layer_memory,
    metrics_log,
    packing,
    profiler,
    resumed_config,
    throughput,
    unread_fields,
    validate_run,
)
from mmjax.training.signals import ErrorDeferringBatches, StopSignal

# Steps dispatched ahead of the device: enough to hide Python, few enough to bound the batches held.
_RUN_AHEAD = 2
# Too few examples to say what share of a data set is bad.
_MIN_SEEN = 1000


def train(config: ml_collections.ConfigDict, workdir: Any, given: Collection[str] = ()) -> int | None:
    """Trains, resuming whatever the workdir holds.

    Several processes call it alike. What stops one of them (a signal, data that cannot be read) stops all, at the same
    step.

    Args:
      config: a recipe's config.
      workdir: a local folder, gs:// or any fsspec URL.
      given: fields that the command line gives, by path, where they are not the recipe's.

    Returns:
      None when the run is complete, else the number of the signal that stopped it (after saving).

    Raises:
      UserError: a mistake in config, data or workdir.
      TrainingDiverged: a non-finite loss or gradient.
    """
    with StopSignal() as stop:
        # What a process does by itself: a mistake that one of them meets is raised by all.
        with process_agreement.raise_on_all():
            workdir = paths.as_path(workdir)
            config, kept = resumed_config.keep(config, workdir, given)
            stored = resumed_config.stored_fields(workdir)
            validate_run.check_config(config, kept, stored, given)
            validate_run.check_workdir(config, workdir)
            for note in (unread_fields.note(config, kept, stored, given), tasks.note_on_crop(config, kept)):
                if note:
                    metrics_log.say(note)
        began = process_agreement.run_on_process_0(lambda: checkpoint.stored_frame(workdir / "checkpoints"))
        with process_agreement.raise_on_all():
            # Mesh, input, task.
            mesh = mesh_lib.make_mesh(config.mesh)
            mesh_lib.check_batch("batch_size", config.batch_size, mesh, config.microbatch, loss=config.loss.impl)
            image_spec, tokenizer = tasks.make_image_spec(config), tasks.make_tokenizer(config)
            mixture = tasks.open_mixture(config)
            facts = tasks.read_dataset_metadata(config, mixture)
        platform = mesh.devices.flat[0].platform
        frame, resizing = process_agreement.run_on_process_0(
            lambda: tasks.choose_frame(config, image_spec, mixture, platform, began)
        )
        memory = process_agreement.run_on_process_0(lambda: layer_memory.limit(jax.local_devices()[0]))
        with process_agreement.raise_on_all():
            if frame:
                image_spec = dataclasses.replace(image_spec, frame=frame)
            task = tasks.Task(config, image_spec, tokenizer, mesh, facts)
            source = tasks.make_train_examples(config, mixture, task.preparer)
            data = source.describe()
            evaluator = from_config.Evaluator(config, task, mesh, tokenizer, image_spec)
            validate_run.check_best_metric(config, [source.name for source in evaluator.sources])

            # Model and optimizer, as shapes; nothing is made on the devices yet.
            setup = build_step.make_setup(config, task, mesh, memory)
            for note in setup.notes:
                metrics_log.say(note)
            # Until here, and until a warm start has been read, no mistake has changed the workdir.
            paths.make_folder(workdir, "--workdir")
        process_agreement.check_shared(workdir, "--workdir")
        validate_run.check_same_data(data, config.data.train)

        # Restore, or initialise. All look at the same folder, and so meet the same mistakes.
        settings = config.checkpoint
        checkpoints = checkpoint.Checkpoints(
            workdir / "checkpoints", keep=settings.keep, keep_best=settings.keep_best, best_metric=settings.best_metric
        )
        # The first host's look at a shared disk counts; another's may be older.
        start = process_agreement.broadcast_from_0(checkpoints.latest() or 0)
        with process_agreement.raise_on_all():
            if start:
                process_agreement.wait_for(
                    lambda: start in checkpoints.all_steps(), f"--workdir={workdir}: checkpoint {start}"
                )
            meta = checkpoints.read_meta(start) if start else {}
            if start > config.steps:
                raise UserError(
                    f"steps={config.steps}: the workdir is already at step {start}; give more steps or another workdir"
                )
        bad_examples = collections.Counter()
        setup = setup.resumed(meta.get("remat", {}))
        if start:
            bad_examples.update(meta["bad_examples"])
            state = checkpoints.restore(start, setup.state)
            with process_agreement.raise_on_all():
                validate_run.check_scale(config, state.params.get("logit_scale"), f"--workdir={workdir}")
            metrics_log.say(f"resumed at step {start} of {config.steps}")
            changed = validate_run.changed_data(data, meta, config.data.train)
            if changed:
                metrics_log.say(changed)
        else:
            with process_agreement.raise_on_all():
                taken = init_from.read(setup.state.params, config) if config.init_from else {}
            state = init_from.replace(setup.make_state(config.seed), taken)
        _introduce(config, task, mesh, setup)
        if setup.planner is not None and mesh.devices.flat[0].platform != "cpu":
            metrics_log.say(setup.planner.describe(setup.remat))
        packer = packing.choose_packer(config, mesh, source, meta)
        if resizing:
            metrics_log.say(resizing)
        if config.optimizer.freeze and not config.init_from and not start:
            metrics_log.say("note: init_from is empty, so what optimizer.freeze locks keeps its random initialisation")

        if jax.process_index() == 0:
            paths.write_atomically(workdir / "config.json", resumed_config.to_json(config, kept))
        logger = metrics_log.Logger(workdir, config)
        # An evaluation that the checkpoint does not know of is made again below, and its line with it.
        logger.resume(start, evaluated=bool(start and meta["evaluated"]))
        run = _Run(
            config, workdir, task, setup, evaluator, checkpoints, logger, bad_examples, tokenizer, data, packer, mesh
        )
        try:
            if start and not meta["evaluated"] and run.evaluation_due(start):
                run.evaluate(state, start)  # the run was stopped before it could
            state = run.loop(state, start, setup.step, source, stop)
            stopped_by = run.stopped_by(stop)
            if stopped_by is None:
                run.finish()
            checkpoints.wait()
        finally:
            run.profiler.close()
            logger.close()
            checkpoints.close()
        return stopped_by


class _Run:
    """A started run: what the loop needs at every step, and what it does now and then."""

    def __init__(
        self, config, workdir, task, setup, evaluator, checkpoints, logger, bad_examples, tokenizer, data, packer, mesh
    ):
        self.config, self.workdir, self.task, self.setup, self.mesh = config, workdir, task, setup, mesh
        self.evaluator, self.checkpoints, self.logger = evaluator, checkpoints, logger
        self.tokenizer, self.data, self.packer = tokenizer, data, packer
        self.bad_examples = bad_examples
        kind = jax.devices()[0].device_kind
        self.meter = throughput.Meter(
            config.batch_size, task.flops_per_example(), mesh.size, throughput.peak_flops(kind)
        )
        self.profiler = profiler.Profiler(workdir, config.log.profile)
        self.evaluated: dict[str, float] | None = None  # metrics of the current step's evaluation
        self.votes = process_agreement.AsyncAllReduce(mesh)
        self.own = mesh_lib.rows_counted_here(
            mesh, config.batch_size
        )  # the rows whose bad examples this process counts
        self.cast = collections.deque()  # (step, vote) not read yet
        self.bad_at = collections.deque(maxlen=_RUN_AHEAD + 2)  # (step, bad examples up to it)
        self.signal: int | None = None  # which one of the processes got, as all know it
        self.stop, self.feed = None, None

    def loop(self, state, start, train_step, source, stop):
        """Runs steps start + 1 to `steps`, or until a signal."""
        config, self.stop = self.config, stop
        rows = mesh_lib.local_rows(self.mesh, config.batch_size)

        def make_batches(step: int, workers: int = config.data.workers) -> batches_lib.BatchIterator:
            return batches_lib.train_batches(
                source,
                start_step=step,
                stop_step=config.steps,
                global_batch=config.batch_size,
                rows=rows,
                workers=workers,
                threads=config.data.threads or None,
                prefetch=config.data.prefetch,
                finish=self.packer,
            )

        several = jax.process_count() > 1 and start < config.steps
        batches = ErrorDeferringBatches(make_batches, start, stop) if several else make_batches(start)
        if self.packer is not None:
            train_step = packing.PackedStep(train_step, self.packer)
            votes = self.votes if several else None
            batches = packing.PackedBatches(batches, self.packer, votes, config.steps - start)
        self.feed = batches
        running = collections.deque()  # results of the last steps, to bound how far Python runs ahead
        unlogged = None  # a step whose numbers are read once the next one is on its way
        self.meter.reset(start)
        with batches:
            for step in range(start + 1, config.steps + 1):
                self.profiler.before(step, state)
                waiting = time.perf_counter()
                try:
                    batch = next(batches)
                except Exception as error:
                    if stop.received is None:
                        raise
                    # The signal went to the workers as well (SLURM does that), and there are no more batches.
                    metrics_log.say(f"no batch for step {step} after the signal: {type(error).__name__}: {error}")
                    if step > start + 1:
                        self._stop_at(step - 1, state, unlogged)
                    break
                self.meter.wait(time.perf_counter() - waiting)
                self._count_bad(batch.pop("replaced"), step)
                state, metrics = train_step(state, global_arrays.to_global(self.mesh, batch))
                running.append(metrics["loss"])
                if len(running) > _RUN_AHEAD:
                    running.popleft().block_until_ready()
                    self._settle(step - _RUN_AHEAD)
                    if step == start + 1 + _RUN_AHEAD:
                        self.meter.reset(start + 1)  # the first step was compiled
                if unlogged is not None:
                    self._log(*unlogged)
                    unlogged = None
                if step == 1 or step % config.log.every == 0 or step == config.steps:
                    if step == config.steps:
                        running.clear()
                        metrics["loss"].block_until_ready()
                    unlogged = (step, metrics, self.meter.read(step - len(running)))
                self.logger.progress(step)

                save = step == config.steps or step % config.checkpoint.every == 0
                if save or self.evaluation_due(step):
                    self._settle(step)
                stopping = self._stopping()
                evaluate = self.evaluation_due(step) and not stopping
                if evaluate or save or stopping:
                    self._settle(step)
                    if unlogged is not None:
                        self._log(*unlogged)
                        unlogged = None
                    self._check_finite(state)
                    self.evaluated = self._evaluate_or_save(state, step) if evaluate else None
                    if evaluate:
                        stopping = self.stopped_by(stop) is not None  # a signal may have come during the evaluation
                    if save or stopping:
                        self.save(state, step)
                    running.clear()
                    self.meter.reset(step)
                if stopping:
                    self._tell_others_signal(step)
                    break
        return state

    def _stop_at(self, step: int, state: Any, unlogged: Any) -> None:
        """Logs and saves a step that is over, and evaluated where that was due."""
        if unlogged is not None:
            self._log(*unlogged)
        self._check_finite(state)
        self.evaluated = self.evaluated if self.evaluation_due(step) else None
        self.save(state, step)

    def _stopping(self) -> bool:
        """Whether to stop after this step, as far as all processes know."""
        if jax.process_count() == 1:
            self.signal = self.stop.received
        return self.signal is not None

    def stopped_by(self, stop: StopSignal) -> int | None:
        """The signal that any process got, asking all of them now."""
        if jax.process_count() == 1:
            self.signal = stop.received
        elif self.signal is None:
            self._read_signals(np.asarray(self.votes.cast(self._signals(stop))))
        return self.signal

    @staticmethod
    def _signals(stop: StopSignal) -> list[int]:
        return [int(stop.received == number) for number in process_agreement.SIGNALS]

    def _read_signals(self, counts: np.ndarray) -> None:
        received = [number for number, count in zip(process_agreement.SIGNALS, counts.tolist(), strict=False) if count]
        if received and self.signal is None:
            self.signal = received[0]

    def _tell_others_signal(self, step: int) -> None:
        if self.stop.received is None:  # else its handler told
            metrics_log.say(f"{signal.Signals(self.signal).name} in another process: saved step {step}, stopping")

    def _evaluate_or_save(self, state: Any, step: int) -> dict[str, float]:
        """Evaluates; data that cannot be evaluated on costs none of the training."""
        try:
            return self.evaluate(state, step)
        except UserError:
            self.evaluated = None
            self.save(state, step)
            raise

    def evaluation_due(self, step: int) -> bool:
        """Whether this is a step to evaluate at; the last one always is."""
        every = self.config.eval.every
        return step == self.config.steps or bool(every and step % every == 0)

    def _log(self, step: int, metrics: Any, others: dict[str, float]) -> None:
        values = {name: value.item() for name, value in global_arrays.to_host(metrics).items()}
        self._stop_if_bad(values.pop("first_bad_step"))
        self._settle(step)
        self.logger.write(step, "train", values | others | self._bad_counts(step))

    def _check_finite(self, state: Any) -> None:
        self._stop_if_bad(int(global_arrays.to_host(state.first_bad_step)))

    def _stop_if_bad(self, first_bad_step: int) -> None:
        if first_bad_step >= 0:
            self.checkpoints.wait()  # so that the message tells what there is
            raise _diverged(first_bad_step, self.checkpoints.latest())

    def _bad_counts(self, step: int) -> dict[str, int]:
        counts = next((counts for at, counts in self.bad_at if at == step), self.bad_examples)
        return {f"bad_{reason}": count for reason, count in sorted(counts.items())}

    def _count_bad(self, replaced: np.ndarray, step: int) -> None:
        """Tells all processes how many examples could not be read here, and whether this one was asked to stop."""
        counts = np.bincount(replaced[self.own], minlength=len(bad_example.REASONS))[1:].tolist()
        failed = getattr(self.feed, "error", None) is not None
        self.cast.append((step, self.votes.cast([*self._signals(self.stop), int(failed), *counts])))
        if jax.process_count() == 1:
            self._settle(step)

    def _settle(self, step: int) -> None:
        """Reads what the processes told at steps up to this one; it is read at the same point in every process."""
        while self.cast and self.cast[0][0] <= step:
            at, vote = self.cast.popleft()
            heard = np.asarray(vote)
            self._read_signals(heard)
            failed, *counts = heard[len(process_agreement.SIGNALS) :].tolist()
            if failed:
                process_agreement.raise_error_on_all(self.feed.error)
            self.bad_examples.update(
                {reason: n for reason, n in zip(bad_example.REASONS[1:], counts, strict=True) if n}
            )
            self.bad_at.append((at, dict(self.bad_examples)))
            if any(counts):
                self._check_bad(at)

    def _check_bad(self, step: int) -> None:
        """Stops when too many examples could not be read."""
        seen, bad = step * self.config.batch_size, sum(self.bad_examples.values())
        allowed = self.config.data.max_bad_fraction
        if (seen >= _MIN_SEEN or not allowed) and bad > allowed * seen:
            raise GlobalUserError(
                f"data.train={self.config.data.train!r}: {self._tell_bad(step)}, more than"
                f" data.max_bad_fraction={allowed}; repair the data or allow more"
            )

    def _tell_bad(self, step: int) -> str:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in self.bad_examples.most_common())
        seen = step * self.config.batch_size
        return f"{sum(self.bad_examples.values())} of {seen} examples could not be read ({reasons})"

    def evaluate(self, state: Any, step: int) -> dict[str, float]:
        """Evaluates and logs; at the last step the report is written too."""
        params = state.params if state.ema_params is None else state.ema_params
        started = time.perf_counter()
        final = step == self.config.steps
        results = self.evaluator.run(params, keep_artifacts=final)
        if not results:
            return {}
        metrics = from_config.flat_metrics(results)
        self.logger.write(step, "eval", metrics | {"eval_seconds": time.perf_counter() - started})
        for result in results:
            told = "  ".join(f"{name} {value:.4f}" for name, value in result.metrics.items() if "rank" not in name)
            metrics_log.say(f"step {step}  {result.dataset}: {told}")
        if final and jax.process_index() == 0:
            history = self.logger.file.lines()
            page.write_report(self.workdir / "report.html", self.config, history, results, step=step)
        return metrics

    def save(self, state: Any, step: int) -> None:
        """Starts a checkpoint; all that was logged up to here is visible first."""
        self.logger.flush()
        meta = checkpoint.make_meta(
            self.config,
            step * self.config.batch_size,
            self.task.image_spec,
            self.tokenizer,
            data=self.data,
            facts=dataclasses.asdict(self.task.facts),
            bad_examples=dict(self.bad_examples),
            text_packing=None if self.packer is None else dataclasses.asdict(self.packer),
            remat={name: dataclasses.asdict(each) for name, each in self.setup.remat.items()},
            evaluated=self.evaluated is not None,
        )
        self.checkpoints.save(step, state, meta, self.evaluated)

    def finish(self) -> None:
        """Writes the summary line, once."""
        if jax.process_index() != 0:
            return
        lines, steps = self.logger.file.lines(), self.config.steps
        if any(line["kind"] == "summary" and line["step"] == steps for line in lines):
            return
        rates = [line["images_per_second"] for line in lines if line["kind"] == "train" and "images_per_second" in line]
        summary = {"examples_seen": steps * self.config.batch_size}
        if rates:
            summary["images_per_second"] = float(np.median(rates))
        # From the file: the evaluation may have been another process's, killed before it came to the summary.
        for line in lines:
            if line["kind"] == "eval" and line["step"] == steps:
                summary |= {name: value for name, value in line.items() if name not in ("step", "kind", "eval_seconds")}
        self.logger.write(steps, "summary", summary)
        if self.bad_examples:
            metrics_log.say(f"note: {self._tell_bad(steps)}; others took their places")


def _introduce(config: Any, task: Any, mesh: Any, setup: Any) -> None:
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    shape = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    told = f"{count(setup.state.params):,} parameters"
    told += f" ({count(setup.trainable):,} trained)" if config.optimizer.freeze else ""
    kind = jax.devices()[0].device_kind
    metrics_log.say(
        f"{config.name}: {config.variant}, {told}; mesh {shape} of {kind};"
        f" {config.steps} steps of {config.batch_size} pairs; attention by {task.describe_attention()}"
    )
    metrics_log.say(compiler.describe(config, mesh.devices.flat[0].platform))


def _diverged(step: int, latest: int | None) -> TrainingDiverged:
    kept = f"the checkpoint of step {latest} is intact" if latest is not None else "no checkpoint had been written yet"
    return TrainingDiverged(
        f"loss or gradient norm is not finite at step {step}; {kept}."
        " Lower optimizer.learning_rate, set optimizer.grad_clip, or look at the data of that step"
    )
