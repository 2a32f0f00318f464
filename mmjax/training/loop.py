"""The training loop, top to bottom: mesh, input, model, restore, steps, evaluation, checkpoint."""

import collections
import json
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
from mmjax.errors import UserError
from mmjax.evaluation import embed, report
from mmjax.parallel import arrays
from mmjax.parallel import mesh as mesh_lib
from mmjax.training import checkpoint, logs, optimizer, throughput, warm_start
from mmjax.training import state as state_lib
from mmjax.training import step as step_lib

# Fields that decide what a checkpoint holds: a workdir with others belongs to another model.
_STRUCTURE = (
    "model.",
    "ema_decay",
    "optimizer.name",
    "optimizer.freeze",
    "optimizer.momentum_dtype",
    "optimizer.grad_clip",
    "optimizer.weight_decay",
)
# Rates may change in a resumed run as long as they stay on or off.
_ON_OFF = ("ema_decay", "optimizer.grad_clip", "optimizer.weight_decay")
# Steps dispatched ahead of the device: enough to hide Python, few enough to bound the batches held.
_RUN_AHEAD = 2
# Too few examples to say what share of a data set is bad.
_MIN_SEEN = 1000


class TrainingDiverged(RuntimeError):
    """The loss or the gradient became non-finite; the last checkpoint is from before that."""


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
        logs.say(f"{signal.Signals(number).name}: saving after this step, then stopping")


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
        check_config(config)
        check_workdir(config, workdir)

        # Mesh, input, task.
        mesh = mesh_lib.make_mesh(config.mesh)
        mesh_lib.check_batch("batch_size", config.batch_size, mesh, config.microbatch)
        image_spec, tokenizer = tasks.make_image_spec(config), tasks.make_tokenizer(config)
        task = tasks.ContrastiveTask(config, image_spec.mean, image_spec.std)
        source = examples.TrainExamples(
            specs.parse_mixture(config.data.train), seed=config.seed, image_spec=image_spec, tokenizer=tokenizer
        )
        evaluator = embed.Evaluator(config, task, mesh, tokenizer, image_spec)

        # Model and optimizer, as shapes; nothing is made on the devices yet.
        abstract_params = jax.eval_shape(task.init, jax.random.key(0))
        trainable, _ = optimizer.split_frozen(abstract_params, config.optimizer.freeze)
        tx, schedule = optimizer.make_optimizer(config, trainable)
        init = state_lib.make_init(task, config, tx)
        abstract = jax.eval_shape(init, jax.random.key(0))
        shardings, notes = state_lib.state_shardings(abstract, config, mesh)
        for note in notes:
            logs.say(note)

        # Restore, or initialise.
        settings = config.checkpoint
        checkpoints = checkpoint.Checkpoints(
            workdir / "checkpoints", keep=settings.keep, keep_best=settings.keep_best, best_metric=settings.best_metric
        )
        start = checkpoints.latest() or 0
        if start > config.steps:
            raise UserError(
                f"steps={config.steps}: the workdir is already at step {start}; give more steps or another workdir"
            )
        if jax.process_index() == 0:
            workdir.mkdir(parents=True, exist_ok=True)
            storage.write_atomically(workdir / "config.json", config_lib.to_json(config))
        logger = logs.Logger(workdir, config)
        logger.resume(start)
        bad_examples = collections.Counter()
        if start:
            meta = checkpoints.read_meta(start)
            bad_examples.update(meta["bad_examples"])
            target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
            state = checkpoints.restore(start, target)
            logs.say(f"resumed at step {start} of {config.steps}")
        else:
            state = jax.jit(init, out_shardings=shardings)(jax.random.key(config.seed))
            if config.init_from:
                state = warm_start.initialise(state, config)
        train_step = step_lib.make_train_step(task, config, tx, schedule, mesh, shardings)
        _introduce(config, mesh, abstract_params, trainable)

        run = _Run(config, workdir, task, mesh, evaluator, checkpoints, logger, bad_examples, image_spec, tokenizer)
        try:
            state = run.loop(state, start, train_step, source, stop)
            if stop.received is None:
                run.finish(state)
            checkpoints.wait()
        finally:
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
                self._profile(step)
                waiting = time.perf_counter()
                batch = next(batches)
                self.meter.add(time.perf_counter() - waiting)
                self._count_bad(batch.pop("replaced"), step)
                state, metrics = train_step(state, arrays.to_global(self.mesh, batch))
                running.append(metrics["loss"])
                if len(running) > _RUN_AHEAD:
                    running.popleft().block_until_ready()
                if unlogged is not None:
                    self._log(*unlogged)
                    unlogged = None
                if step == start + 1 or step % config.log.every == 0 or step == config.steps:
                    unlogged = (step, metrics, self.meter.read())
                self.logger.progress(step)

                last = step == config.steps or stop.received is not None
                evaluate = step == config.steps or (config.eval.every and step % config.eval.every == 0)
                save = last or step % config.checkpoint.every == 0
                if evaluate or save:
                    if unlogged is not None:
                        self._log(*unlogged)
                        unlogged = None
                    self._check_finite(state)
                    self.evaluated = self.evaluate(state, step) if evaluate and stop.received is None else None
                    if save:
                        self.save(state, step)
                    self.meter.reset()
                if stop.received is not None:
                    break
        return state

    def _log(self, step: int, metrics: Any, rates: dict[str, float]) -> None:
        values = {name: value.item() for name, value in arrays.to_host(metrics).items()}
        first_bad = values.pop("first_bad_step")
        if first_bad >= 0:
            raise _diverged(first_bad, self.checkpoints.latest())
        values |= rates
        values |= {f"bad_{reason}": count for reason, count in sorted(self.bad_examples.items())}
        self.logger.write(step, "train", values)

    def _check_finite(self, state: Any) -> None:
        first_bad = int(arrays.to_host(state.first_bad_step))
        if first_bad >= 0:
            raise _diverged(first_bad, self.checkpoints.latest())

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

    def _profile(self, step: int) -> None:
        window = self.config.log.profile
        if not window:
            return
        if step == window[0]:
            jax.profiler.start_trace(str(self.workdir / "profile"))
        elif step == window[1] + 1:
            jax.profiler.stop_trace()

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
            report.write_report(self.workdir, self.config, self.logger.file.lines(), results)
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
        )
        self.checkpoints.save(step, state, meta, self.evaluated)

    def finish(self, state: Any) -> None:
        """Writes the summary line, once."""
        if jax.process_index() != 0 or any(line["kind"] == "summary" for line in self.logger.file.lines()):
            return
        lines = self.logger.file.lines()
        rates = [line["images_per_second"] for line in lines if line["kind"] == "train" and "images_per_second" in line]
        summary = {"examples_seen": self.config.steps * self.config.batch_size}
        if rates:
            summary["images_per_second"] = float(np.median(rates))
        summary |= self.evaluated or {}
        self.logger.write(self.config.steps, "summary", summary)


def check_config(config: ml_collections.ConfigDict) -> None:
    """Checks plain numbers before anything is opened.

    Raises:
      UserError: naming the field.
    """
    for field in ("steps", "batch_size", "microbatch", "checkpoint.every", "eval.batch_size", "log.every"):
        value = config_lib.flatten(config)[field]
        if value < 1:
            raise UserError(f"{field}={value} must be at least 1")
    if not 0.0 <= config.ema_decay < 1.0:
        raise UserError(f"ema_decay={config.ema_decay} is not in [0, 1)")
    if not config.data.train:
        raise UserError("data.train is empty; name the training data, e.g. --config.data.train=pairs:captions.tsv")
    profile = config.log.profile
    if profile and (len(profile) != 2 or not 1 <= profile[0] <= profile[1]):
        raise UserError(f"log.profile={profile} wants (first step, last step)")
    tasks.check_model(config)


def check_workdir(config: ml_collections.ConfigDict, workdir: Any) -> None:
    """Checks that a workdir that has a run in it has this one; says what else changed.

    Raises:
      UserError: the run in it has another model or optimizer; the differing fields are listed.
    """
    path = workdir / "config.json"
    if not path.exists():
        return
    try:
        stored = config_lib.from_json(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"--workdir={workdir}: config.json is not JSON ({error}); give another workdir") from error
    changed = config_lib.differences(stored, config)
    old, new = config_lib.flatten(stored), config_lib.flatten(config)
    other = [
        line
        for line in changed
        if line.startswith(_STRUCTURE) and not any(line.startswith(f) and old[f] and new[f] for f in _ON_OFF)
    ]
    if other:
        raise UserError(
            f"--workdir={workdir} holds another model ({'; '.join(other)}); give another workdir or these values"
        )
    if old["batch_size"] != new["batch_size"]:
        raise UserError(
            f"batch_size={new['batch_size']}: the run in --workdir={workdir} has {old['batch_size']}, and its position"
            " in the data counts in such batches; give another workdir or that value"
        )
    for line in changed:
        logs.say(f"changed since the run in this workdir began: {line}")


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
