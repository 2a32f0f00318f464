"""A run from its config to its first step: checks, data, mesh, task, step, and the state that it starts from."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator
from typing import Any

import jax

from mmjax import plugin_calls, plugin_imports, registry, tasks
from mmjax.config import schema
from mmjax.config.field_origins import FieldOrigins
from mmjax.config.schema import ConfigDict, RunConfig
from mmjax.config.typed_groups import to_dict
from mmjax.data.loading import batches as batches_lib
from mmjax.data.loading.equal_captions import EqualCaptionsNote
from mmjax.data.loading.train_examples import TrainExamples
from mmjax.data.table_columns import TableColumns
from mmjax.data.text import tokenizer as tokenizer_lib
from mmjax.errors import UserError
from mmjax.evaluation import from_config
from mmjax.io import paths
from mmjax.parallel import log, partition, process_agreement
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel.make_mesh import check_batch, make_mesh
from mmjax.tasks import config_queries
from mmjax.training import (
    build_step,
    checkpoint,
    compiler,
    data_summary,
    device_specs,
    init_from,
    loop,
    lora,
    lora_base,
    metrics_log,
    packing,
    remat_plan,
    resumed_run,
    validate_run,
)
from mmjax.training import workdir as workdir_lib
from mmjax.training.hooks import RUN_AHEAD
from mmjax.training.run import Run
from mmjax.training.signals import ErrorDeferringBatches, StopSignal
from mmjax.training.step_agreement import AsyncAllReduce, BadExamples
from mmjax.training.workdir import Claim, Start


def train(config: ConfigDict, workdir: Any, flags: Collection[str] = (), start: Start | None = None) -> int | None:
    """Trains, resuming whatever the workdir holds.

    Several processes call it alike. What stops one of them (a signal, data that cannot be read) stops all, at the same
    step.

    Args:
      config: a recipe's config.
      workdir: a local folder, gs:// or any fsspec URL.
      flags: fields that the command line gives, by path, where they are not the recipe's.
      start: whether it may resume, or must.

    Returns:
      None when the run is complete, else the number of the signal that stopped it (after saving).

    Raises:
      UserError: a mistake in config, data or workdir.
      MachineError: the machine or its storage failed, or another process has taken the workdir over.
      TrainingDiverged: a non-finite loss or gradient.
    """
    with StopSignal() as stop, contextlib.closing(prepare(config, workdir, flags, start)) as run, run.claim.held():
        stopped = loop.run_steps(run, stop)
        if stopped is not None:
            process_agreement.raise_error_on_all(stop.fault)
        return stopped


def prepare(recipe: ConfigDict, workdir: Any, flags: Collection[str] = (), start: Start | None = None) -> Run:
    """Checks everything, opens the data and restores or initialises the state. All processes call it alike.

    Until the workdir is made no mistake has changed it.

    Args:
      recipe: its config, with what the command line gives.
      workdir: of the run; it may hold checkpoints.
      flags: fields that the command line gives, by path.
      start: whether it may resume, or must.

    Raises:
      UserError: a mistake in config, data or workdir.
    """
    workdir, start = paths.as_path(workdir), start or Start()
    process_agreement.run_on_process_0(lambda: workdir_lib.check_start(workdir, start))
    opened = open_run(recipe, None if start.overwrite else workdir, flags)
    pretrained = _read_pretrained(opened.config, workdir, opened.setup, begins=start.overwrite)
    claim = workdir_lib.claim(workdir, start.lease)
    try:
        if start.overwrite:
            process_agreement.run_on_process_0(lambda: workdir_lib.remove_run(workdir))
        with claim.held():
            return _prepare_in(claim, workdir, opened, pretrained)
    except BaseException:
        claim.undo()
        raise


def _prepare_in(claim: Claim, workdir: Any, opened: "OpenedRun", pretrained: init_from.Taken) -> Run:
    """`prepare` in a workdir that is this run's."""
    config, mesh = opened.config, opened.mesh
    task, examples, setup = opened.task, opened.examples, opened.setup
    data = examples.describe()
    with process_agreement.raise_on_all():
        logger = metrics_log.Logger(workdir, config.log, name=config.name, steps=config.steps, fields=to_dict(config))
    examples.traceback_folder = str(workdir)
    validate_run.check_same_data(data, config.data.train)

    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints", config.checkpoint)
    stored = lora_base.slim(setup.state, config.optimizer)
    start, meta, state = resumed_run.restore_latest(workdir, checkpoints, config.steps, stored)
    setup = setup.resumed(meta.get("remat", {}))
    if state is None:
        state = init_from.replace(setup.make_state(config.seed), pretrained.arrays)
        if pretrained.source and jax.process_index() == 0:
            paths.write_atomically(workdir / init_from.FILE, pretrained.to_json())
        base = lora_base.write(workdir, state, config.optimizer, pretrained.source)
    else:
        base = meta.get("base")
        state = lora_base.complete(state, workdir, meta, setup.state, config.optimizer)
        with process_agreement.raise_on_all():
            validate_run.check_scale(config, state.params.get("logit_scale"), f"--workdir={workdir}")
        log.info(f"resumed at step {start} of {config.steps}")
        changed = resumed_run.changed_data(data, meta, config.data.train)
        if changed:
            log.info(changed)
    _log_introduction(config, task, mesh, setup)
    log.info("; ".join(line.strip() for line in data_summary.describe_data(data, config.steps, config.batch_size)))
    for note in data_summary.note_large_batch(data, config.batch_size):
        log.info(note)
    log.info(data_summary.describe_host_memory(opened.host_bytes(), config.data.prefetch))
    packer = packing.choose_packer(config, mesh, examples, meta)
    if opened.frame_note:
        log.info(opened.frame_note)
    for note in _notes_on_frozen(config, setup, pretrained, start):
        log.info(note)
    for note in pretrained.notes_on_data(task.dataset_metadata):
        log.info(note)

    if jax.process_index() == 0:
        paths.write_atomically(workdir / "config.json", resumed_run.to_json(config, opened.origins))
    # An evaluation that the checkpoint does not know of is made again, and its line with it.
    logger.resume(start, evaluated=bool(start and meta.get("evaluated")))
    bad_examples = BadExamples(
        meta.get("bad_examples", {}),
        config.batch_size,
        config.data.train,
        config.data.max_bad_fraction,
        history=RUN_AHEAD + 2,
    )
    make_meta = functools.partial(
        checkpoint.make_meta,
        config,
        image_spec=task.image_spec,
        tokenizer=opened.tokenizer,
        data=data,
        facts=task.dataset_metadata.to_json(),
        bad_examples={},
        text_packing=packing.to_meta(packer),
        remat={tower: dataclasses.asdict(remat) for tower, remat in setup.remat.items()},
        **({} if base is None else {"base": base}),
    )
    peak = device_specs.peak_flops(jax.devices()[0].device_kind)
    return Run(
        config=config,
        workdir=workdir,
        claim=claim,
        mesh=mesh,
        step=setup.step if packer is None else packing.TextLayoutStep(setup.step, packer),
        open_batches=functools.partial(_open_batches, config, mesh, examples, packer, _finish(task, packer), start),
        evaluate=opened.evaluator.run,
        checkpoints=checkpoints,
        make_meta=make_meta,
        logger=logger,
        meter=metrics_log.Meter(
            config_queries.examples_name(config) + metrics_log.PER_SECOND,
            config.batch_size,
            task.flops_per_example(),
            mesh.size,
            peak,
        ),
        bad_examples=bad_examples,
        start=start,
        state=state,
        evaluation_missing=bool(start and not meta.get("evaluated")),
    )


@dataclasses.dataclass(frozen=True)
class OpenedRun:
    """A run that was checked, with its data and its step; nothing is written, compiled or on the devices.

    Attributes:
      config: that the run has: a workdir may hold a run that began with older code.
      origins: which of its values are not the recipe's.
      mesh: the devices.
      task: what is trained.
      tokenizer: None for a model without text.
      examples: of `data.train`.
      evaluator: of `data.eval`.
      setup: the step, and the shapes of its state.
      frame_note: a line on where images are resized, where there is something to say.
    """

    config: RunConfig
    origins: FieldOrigins
    mesh: jax.sharding.Mesh
    task: tasks.Task
    tokenizer: tokenizer_lib.Tokenizer | None
    examples: TrainExamples
    evaluator: from_config.Evaluator
    setup: build_step.Setup
    frame_note: str | None

    def host_bytes(self) -> dict[str, int]:
        """Bytes of a batch's arrays on this process's host, see `data_summary.host_bytes`."""
        frame = 0 if self.task.image_spec is None else self.task.image_spec.frame
        shapes = tasks.batch_shapes(self.config, self.mesh, frame=frame, metadata=self.task.dataset_metadata)
        return data_summary.host_bytes(shapes, jax.process_count())


def open_run(recipe: ConfigDict, workdir: Any, flags: Collection[str] = ()) -> OpenedRun:
    """Checks everything, opens the data, and traces the step. All processes call it alike.

    Blocks under `raise_on_all` are what a process does by itself: a mistake that one of them meets is raised by all.

    Args:
      recipe: its config, with what the command line gives.
      workdir: of the run, a path; None for a run that is only looked at, and would begin anew.
      flags: fields that the command line gives, by path.

    Raises:
      UserError: a mistake in config, data or workdir.
    """
    process_agreement.check_same_plugins()
    with process_agreement.raise_on_all():
        if not isinstance(recipe, ConfigDict):
            raise UserError(f"config is a {type(recipe).__name__}; give a ConfigDict, such as base_config()")
        config, origins = schema.parse(recipe), FieldOrigins(tuple(flags))
        plugin_imports.check_imported(config.plugins)
        if workdir is not None:
            for note in resumed_run.compare_plugins(workdir):
                log.info(note)
            config, origins = resumed_run.keep(config, workdir, flags)
        validate_run.check_config(config, origins)
        validate_run.check_statistics(config)
        if workdir is not None:
            resumed_run.check_workdir(config, workdir)
        notes = *plugin_imports.notes(), validate_run.note_unread(config, origins), tasks.note_on_crop(config, origins)
        for note in notes:
            if note:
                log.info(note)
    stored_frame = process_agreement.run_on_process_0(
        lambda: None if workdir is None else checkpoint.stored_frame(workdir / "checkpoints")
    )
    with process_agreement.raise_on_all():
        mesh = make_mesh(config.mesh)
        check_batch("batch_size", config.batch_size, mesh, config.microbatch, loss=config.loss.impl)
        image_spec, tokenizer = tasks.make_image_spec(config), tasks.make_tokenizer(config)
        mixture = tasks.open_mixture(config)
    table = process_agreement.run_on_process_0(lambda: _read_table(config, mixture, workdir))
    with process_agreement.raise_on_all():
        columns = None if table is None else TableColumns.from_dict(table, where="data.table.columns")
        metadata = tasks.read_dataset_metadata(config, mixture, columns)
    platform = mesh.devices.flat[0].platform
    frame, frame_note = process_agreement.run_on_process_0(
        lambda: tasks.choose_frame(config, image_spec, mixture, platform, stored_frame)
    )
    memory = process_agreement.run_on_process_0(lambda: remat_plan.memory_limit(jax.local_devices()[0]))
    with process_agreement.raise_on_all():
        if frame and image_spec is not None:
            image_spec = dataclasses.replace(image_spec, frame=frame)
        task = tasks.Task(config, image_spec, tokenizer, mesh, metadata)
        examples = tasks.make_train_examples(config, mixture, task.example_transform)
        evaluator = from_config.Evaluator(config, task, mesh, tokenizer)
        validate_run.check_best_metric(config, evaluator.metric_groups)
        setup = build_step.make_setup(config, task, mesh, memory)  # shapes; nothing is on the devices yet
        for note in setup.notes:
            log.info(note)
        if workdir is not None:
            resumed_run.check_state(config, workdir, setup.state)
        # The compiled step takes over what is traced here.
        batch = tasks.batch_shapes(config, mesh, frame=frame, metadata=metadata)
        with plugin_calls.calling(registry.models, config.model.kind, type(task.model)):
            jax.eval_shape(setup.step, setup.state, batch)
            if lora.is_on(config.optimizer) and (registry.models.added() or registry.encoders.added()):
                build_step.check_adapters(task, config, mesh, setup.state, batch)
    return OpenedRun(config, origins, mesh, task, tokenizer, examples, evaluator, setup, frame_note)


def _read_table(config: RunConfig, mixture: Any, workdir: Any) -> dict[str, Any] | None:
    """Statistics of the columns of tables, as JSON: those that the run began with, or else of the training data."""
    stored = None if workdir is None else checkpoint.stored_table(workdir / "checkpoints")
    columns = tasks.read_table_columns(config, mixture) if stored is None else None
    return stored if columns is None else columns.to_dict()


def _read_pretrained(config: RunConfig, workdir: Any, setup: build_step.Setup, *, begins: bool) -> init_from.Taken:
    """The parameters of `init_from`, for a run that begins; none for one that goes on."""
    begins = begins or process_agreement.run_on_process_0(
        lambda: checkpoint.Checkpoints(workdir / "checkpoints", read_only=True).latest() is None
    )
    if not config.init_from or not begins:
        return init_from.Taken()
    with process_agreement.raise_on_all():
        return init_from.read(setup.state.params, config)


def _notes_on_frozen(
    config: RunConfig, setup: build_step.Setup, pretrained: init_from.Taken, start: int
) -> Iterator[str]:
    """Lines on what a run that begins does not train although nothing has trained it."""
    settings = config.optimizer
    field = "optimizer.lora" if lora.is_on(settings) else "optimizer.freeze" if settings.freeze else ""
    if not field or start:
        return
    if not config.init_from:
        yield f"note: init_from is empty, so what {field} locks keeps its random initialisation"
        return
    trained = lora_base.slim(setup.state, settings).params if lora.is_on(settings) else setup.trainable
    trained_paths = {partition.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(trained)}
    if lost := [path for path in pretrained.fresh if path not in trained_paths]:
        remedy = "; name them in optimizer.lora.full" if lora.is_on(settings) else ""
        yield f"note: {field} locks what init_from has not: {init_from.grouped(lost)}{remedy}"


def _log_introduction(config: RunConfig, task: tasks.Task, mesh: jax.sharding.Mesh, setup: build_step.Setup) -> None:
    """Logs what is trained, on what, and how."""
    device = mesh.devices.flat[0]
    shape = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    parameters = f"{partition.count_parameters(setup.state.params):,} parameters"
    is_partly = bool(config.optimizer.freeze) or lora.is_on(config.optimizer)
    parameters += f" ({partition.count_parameters(setup.trainable):,} trained)" if is_partly else ""
    examples = "pairs" if task.is_contrastive or config_queries.has_text(config) else "examples"
    log.info(
        f"{config.name}: {config.variant}, {parameters}; mesh {shape} of {jax.devices()[0].device_kind};"
        f" {config.steps} steps of {config.batch_size} {examples}; attention by {task.describe_attention()}"
    )
    if plugins := plugin_imports.imported():
        log.info(f"plugins: {', '.join(map(str, plugins))}")
    log.info(compiler.describe(config, device.platform))
    if setup.planner is not None and device.platform != "cpu":
        log.info(setup.planner.describe(setup.remat))


def _finish(task: tasks.Task, packer: tasks.Packer | None) -> Callable[[batches_lib.Batch], batches_lib.Batch] | None:
    """What is applied to batches: their texts are laid out, and equal ones that count as negatives noted."""
    contrasts = any(one.contrast for one in task.objectives.values())
    is_noted = contrasts and task.config.data.positives == "id" and jax.process_index() == 0
    return EqualCaptionsNote(packer) if is_noted else packer


def _open_batches(
    config: RunConfig,
    mesh: jax.sharding.Mesh,
    examples: Any,
    packer: tasks.Packer | None,
    finish: Callable[[batches_lib.Batch], batches_lib.Batch] | None,
    start: int,
    stop: StopSignal,
) -> Any:
    """The batches of this process after step `start`; `finish` lays out their texts by `packer`, where there is one."""
    rows = mesh_lib.local_rows(mesh, config.batch_size)

    def make_batches(step: int, workers: int = config.data.workers) -> batches_lib.BatchIterator:
        return batches_lib.train_batches(
            examples,
            start_step=step,
            stop_step=config.steps,
            global_batch=config.batch_size,
            rows=rows,
            workers=workers,
            threads=config.data.threads or None,
            prefetch=config.data.prefetch,
            finish=finish,
        )

    several = jax.process_count() > 1 and start < config.steps
    batches = ErrorDeferringBatches(make_batches, start, stop) if several else make_batches(start)
    if packer is None:
        return batches
    votes = AsyncAllReduce(mesh) if several else None
    return packing.TextLayoutBatches(batches, packer, votes, config.steps - start)
