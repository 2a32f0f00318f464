"""The training loop, top to bottom: mesh, input, model, restore, steps, evaluation, checkpoint."""

import collections
import os
import signal
import threading
import time
from typing import Any

import jax
import ml_collections
import numpy as np

from mmjax import config as config_lib
from mmjax import storage, tasks
from mmjax.data import examples, pipeline, specs
from mmjax.errors import TrainingDiverged, UserError
from mmjax.evaluation import embed, report
from mmjax.parallel import arrays
from mmjax.parallel import mesh as mesh_lib
from mmjax.training import checkpoint, checks, logs, optimizer, profiler, throughput, warm_start
from mmjax.training import state as state_lib
from mmjax.training import step as step_lib

# Steps dispatched ahead of the device: enough to hide Python, few enough to bound the batches held.
_RUN_AHEAD = 2
# Too few examples to say what share of a data set is bad.
_MIN_SEEN = 1000


class StopSignal:
    """Remembers SIGTERM and SIGINT, so that the loop can save first. A second Ctrl-C interrupts at once."""

    def __init__(self):
        self.received: int | None = None
        self._previous = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number, frame) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        # Not print: the handler may interrupt one, and buffered files are not re-entrant.
        os.write(2, f"\n{signal.Signals(number).name}: saving after this step, then stopping\n".encode())


def train(config: ml_collections.ConfigDict, workdir: Any) -> int | None:
    """Trains, resuming whatever the workdir holds.

    Args:
      config: a recipe's config.
      workdir: a local folder, gs:// or any fsspec URL.

    Returns:
      None when the run is complete, else the number of the signal that stopped it (after saving).

    Raises:
      UserError: a mistake in config, data or workdir.
      TrainingDiverged: a non-finite loss or gradient.
    """
    with StopSignal() as stop:
        workdir = storage.as_path(workdir)
        checks.check_config(config)
        checks.check_workdir(config, workdir)

        # Mesh, input, task.
        mesh = mesh_lib.make_mesh(config.mesh)
        mesh_lib.check_batch("batch_size", config.batch_size, mesh, config.microbatch)
        image_spec, tokenizer = tasks.make_image_spec(config), tasks.make_tokenizer(config)
        task = tasks.ContrastiveTask(config, image_spec.mean, image_spec.std)
        source = examples.TrainExamples(
            specs.parse_mixture(config.data.train), seed=config.seed, image_spec=image_spec, tokenizer=tokenizer
        )
        evaluator = embed.Evaluator(config, task, mesh, tokenizer, image_spec)
        checks.check_best_metric(config, [source.name for source in evaluator.sources])

        # Model and optimizer, as shapes; nothing is made on the devices yet.
        abstract_params = jax.eval_shape(task.init, jax.random.key(0))
        trainable, _ = optimizer.split_frozen(abstract_params, config.optimizer.freeze)
        tx, schedule = optimizer.make_optimizer(config, trainable)
        init = state_lib.make_init(task, config, tx)
        abstract = jax.eval_shape(init, jax.random.key(0))
        shardings, notes = state_lib.state_shardings(abstract, config, mesh)
        for note in notes:
            logs.say(note)

        # Restore, or initialise. Until here, and until a warm start has been read, no mistake has changed the workdir.
        settings = config.checkpoint
        storage.make_folder(workdir, "--workdir")
        checkpoints = checkpoint.Checkpoints(
            workdir / "checkpoints", keep=settings.keep, keep_best=settings.keep_best, best_metric=settings.best_metric
        )
        bad_examples = collections.Counter()
        start = checkpoints.latest() or 0
        meta = checkpoints.read_meta(start) if start else {}
        if start > config.steps:
            raise UserError(
                f"steps={config.steps}: the workdir is already at step {start}; give more steps or another workdir"
            )
        target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
        if start:
            bad_examples.update(meta["bad_examples"])
            state = checkpoints.restore(start, target)
            logs.say(f"resumed at step {start} of {config.steps}")
        else:
            taken = warm_start.read(target.params, config) if config.init_from else {}
            state = jax.jit(init, out_shardings=shardings)(jax.random.key(config.seed))
            state = warm_start.replace(state, taken)
        train_step = step_lib.make_train_step(task, config, tx, schedule, mesh, shardings)
        _introduce(config, mesh, abstract_params, trainable)
        if config.optimizer.freeze and not config.init_from and not start:
            logs.say("note: init_from is empty, so what optimizer.freeze locks keeps its random initialisation")

        if jax.process_index() == 0:
            storage.write_atomically(workdir / "config.json", config_lib.to_json(config))
        logger = logs.Logger(workdir, config)
        # An evaluation that the checkpoint does not know of is made again below, and its line with it.
        logger.resume(start, evaluated=bool(start and meta["evaluated"]))
        run = _Run(config, workdir, task, mesh, evaluator, checkpoints, logger, bad_examples, image_spec, tokenizer)
        try:
            if start and not meta["evaluated"] and run.evaluation_due(start):
                run.evaluate(state, start)  # the run was stopped before it could
            state = run.loop(state, start, train_step, source, stop)
            if stop.received is None:
                run.finish()
            checkpoints.wait()
        finally:
            run.profiler.close()
            logger.close()
            checkpoints.close()
        return stop.received


class _Run:
    """A started run: what the loop needs at every step, and what it does now and then."""

    def __init__(
        self, config, workdir, task, mesh, evaluator, checkpoints, logger, bad_examples, image_spec, tokenizer
    ):
        self.config, self.workdir, self.task, self.mesh = config, workdir, task, mesh
        self.evaluator, self.checkpoints, self.logger = evaluator, checkpoints, logger
        self.image_spec, self.tokenizer = image_spec, tokenizer
        self.bad_examples = bad_examples
        kind = jax.devices()[0].device_kind
        self.meter = throughput.Meter(
            config.batch_size, task.flops_per_example(), mesh.size, throughput.peak_flops(kind)
        )
        self.profiler = profiler.Profiler(workdir, config.log.profile)
        self.evaluated: dict[str, float] | None = None  # metrics of the current step's evaluation

    def loop(self, state, start, train_step, source, stop):
        """Runs steps start + 1 to `steps`, or until a signal."""
        config = self.config
        batches = pipeline.train_batches(
            source,
            start_step=start,
            stop_step=config.steps,
            global_batch=config.batch_size,
            rows=mesh_lib.local_rows(self.mesh, config.batch_size),
            workers=config.data.workers,
            prefetch=config.data.prefetch,
        )
        running = collections.deque()  # results of the last steps, to bound how far Python runs ahead
        unlogged = None  # a step whose numbers are read once the next one is on its way
        self.meter.reset()
        with batches:
            for step in range(start + 1, config.steps + 1):
                self.profiler.before(step, state)
                waiting = time.perf_counter()
                try:
                    batch = next(batches)
                except Exception:
                    if stop.received is None:
                        raise
                    # The signal went to the workers as well (SLURM does that), and there are no more batches.
                    if step > start + 1:
                        self._stop_at(step - 1, state, unlogged)
                    break
                self.meter.add(time.perf_counter() - waiting)
                self._count_bad(batch.pop("replaced"), step)
                state, metrics = train_step(state, arrays.to_global(self.mesh, batch))
                running.append(metrics["loss"])
                if len(running) > _RUN_AHEAD:
                    running.popleft().block_until_ready()
                if unlogged is not None:
                    self._log(*unlogged)
                    unlogged = None
                if step == 1 or step % config.log.every == 0 or step == config.steps:
                    unlogged = (step, metrics, self.meter.read() | self._bad_counts())
                self.logger.progress(step)

                stopping = stop.received is not None
                evaluate = self.evaluation_due(step) and not stopping
                save = step == config.steps or step % config.checkpoint.every == 0
                if evaluate or save or stopping:
                    if unlogged is not None:
                        self._log(*unlogged)
                        unlogged = None
                    self._check_finite(state)
                    self.evaluated = self._evaluate_or_save(state, step) if evaluate else None
                    stopping = stop.received is not None  # a signal may have come during the evaluation
                    if save or stopping:
                        self.save(state, step)
                    self.meter.reset()
                if stopping:
                    break
        return state

    def _stop_at(self, step: int, state: Any, unlogged: Any) -> None:
        """Logs and saves a step that is over, and evaluated where that was due."""
        if unlogged is not None:
            self._log(*unlogged)
        self._check_finite(state)
        self.evaluated = self.evaluated if self.evaluation_due(step) else None
        self.save(state, step)

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
        values = {name: value.item() for name, value in arrays.to_host(metrics).items()}
        self._stop_if_bad(values.pop("first_bad_step"))
        self.logger.write(step, "train", values | others)

    def _check_finite(self, state: Any) -> None:
        self._stop_if_bad(int(arrays.to_host(state.first_bad_step)))

    def _stop_if_bad(self, first_bad_step: int) -> None:
        if first_bad_step >= 0:
            self.checkpoints.wait()  # so that the message tells what there is
            raise _diverged(first_bad_step, self.checkpoints.latest())

    def _bad_counts(self) -> dict[str, int]:
        return {f"bad_{reason}": count for reason, count in sorted(self.bad_examples.items())}

    def _count_bad(self, replaced: np.ndarray, step: int) -> None:
        """Counts examples that could not be read, and stops when they are too many."""
        reasons = replaced[replaced > 0]
        if not len(reasons):
            return
        self.bad_examples.update(examples.REASONS[code] for code in reasons)
        seen, bad = step * self.config.batch_size, sum(self.bad_examples.values()) * jax.process_count()
        if seen >= _MIN_SEEN and bad > self.config.data.max_bad_fraction * seen:
            told = ", ".join(f"{reason}: {count}" for reason, count in self.bad_examples.most_common())
            raise UserError(
                f"data.train={self.config.data.train!r}: {bad} of {seen} examples could not be read ({told}), more than"
                f" data.max_bad_fraction={self.config.data.max_bad_fraction}; repair the data or allow more"
            )

    def evaluate(self, state: Any, step: int) -> dict[str, float]:
        """Evaluates and logs; at the last step the report is written too."""
        params = state.params if state.ema_params is None else state.ema_params
        started = time.perf_counter()
        final = step == self.config.steps
        results = self.evaluator.run(params, keep_artifacts=final)
        if not results:
            return {}
        metrics = embed.flat_metrics(results)
        self.logger.write(step, "eval", metrics | {"eval_seconds": time.perf_counter() - started})
        for result in results:
            told = "  ".join(f"{name} {value:.4f}" for name, value in result.metrics.items() if "rank" not in name)
            logs.say(f"step {step}  {result.dataset}: {told}")
        if final and jax.process_index() == 0:
            history = self.logger.file.lines()
            report.write_report(self.workdir / "report.html", self.config, history, results, step=step)
        return metrics

    def save(self, state: Any, step: int) -> None:
        """Starts a checkpoint; all that was logged up to here is visible first."""
        self.logger.flush()
        meta = checkpoint.make_meta(
            self.config,
            step * self.config.batch_size,
            self.image_spec,
            self.tokenizer,
            bad_examples=dict(self.bad_examples),
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


def _introduce(config: Any, mesh: Any, params: Any, trainable: Any) -> None:
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    shape = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    told = f"{count(params):,} parameters" + (f" ({count(trainable):,} trained)" if config.optimizer.freeze else "")
    kind = jax.devices()[0].device_kind
    logs.say(
        f"{config.name}: {config.variant}, {told}; mesh {shape} of {kind};"
        f" {config.steps} steps of {config.batch_size} pairs"
    )


def _diverged(step: int, latest: int | None) -> TrainingDiverged:
    kept = f"the checkpoint of step {latest} is intact" if latest is not None else "no checkpoint had been written yet"
    return TrainingDiverged(
        f"loss or gradient norm is not finite at step {step}; {kept}."
        " Lower optimizer.learning_rate, set optimizer.grad_clip, or look at the data of that step"
    )
