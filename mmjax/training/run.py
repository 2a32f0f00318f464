"""A run from its config to its first step: checks, data, mesh, task, step, and the state that it starts from."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import jax
import ml_collections

from mmjax import tasks
from mmjax.data.loading.packing import TextPacker
from mmjax.data.text.tokenizer import Tokenizer
from mmjax.errors import UserError
from mmjax.evaluation import from_config
from mmjax.io import paths
from mmjax.parallel import log, process_agreement
from mmjax.parallel import mesh as mesh_lib
from mmjax.training import (
    build_step,
    checkpoint,
    compiler,
    init_from,
    layer_memory,
    metrics_log,
    packing,
    resumed_config,
    unread_fields,
    validate_run,
)
from mmjax.training.bad_examples import BadExamples
from mmjax.training.state import TrainState

# Steps dispatched ahead of the device: enough to hide Python, few enough to bound the batches held.
RUN_AHEAD = 2


@dataclasses.dataclass
class Run:
    """A run that can begin to train.

    Attributes:
      config: what it goes by, see `resumed_config.keep`.
      workdir: its folder.
      mesh: the devices.
      task: what is trained.
      tokenizer: of its texts; None without any.
      examples: the training examples by position, and `data` their description.
      evaluator: of `data.eval`.
      setup: the train step and its shapes.
      checkpoints, logger: open; `close` closes them.
      bad_examples: counted up to `start`.
      packer: lays out texts; None where they are padded.
      start: the step that the run goes on from, 0 for a new one.
      state: the train state at `start`; the first step consumes it.
      evaluation_missing: the run was stopped at `start` before it could evaluate there.
    """

    config: ml_collections.ConfigDict
    workdir: Any
    mesh: jax.sharding.Mesh
    task: tasks.Task
    tokenizer: Tokenizer | None
    examples: Any
    data: Any
    evaluator: from_config.Evaluator
    setup: build_step.Setup
    checkpoints: checkpoint.Checkpoints
    logger: metrics_log.Logger
    bad_examples: BadExamples
    packer: TextPacker | None
    start: int
    state: TrainState
    evaluation_missing: bool

    def close(self) -> None:
        """Ends the checkpoint that is being written, and closes the logs."""
        self.logger.close()
        self.checkpoints.close()


def prepare(config: ml_collections.ConfigDict, workdir: Any, flags: Collection[str] = ()) -> Run:
    """Checks everything, opens the data and restores or initialises the state. All processes call it alike.

    Until the workdir is made no mistake has changed it. Blocks under `raise_on_all` are what a process does by itself:
    a mistake that one of them meets is raised by all.

    Args:
      config: the recipe's, with what the command line gives.
      workdir: of the run; it may hold checkpoints.
      flags: fields that the command line gives, by path.

    Raises:
      UserError: a mistake in config, data or workdir.
    """
    workdir = paths.as_path(workdir)
    with process_agreement.raise_on_all():
        config, origins = resumed_config.keep(config, workdir, flags)
        validate_run.check_config(config, origins)
        validate_run.check_workdir(config, workdir)
        for note in (unread_fields.note(config, origins), tasks.note_on_crop(config, origins)):
            if note:
                log.info(note)
    stored_frame = process_agreement.run_on_process_0(lambda: checkpoint.stored_frame(workdir / "checkpoints"))
    with process_agreement.raise_on_all():
        mesh = mesh_lib.make_mesh(config.mesh)
        mesh_lib.check_batch("batch_size", config.batch_size, mesh, config.microbatch, loss=config.loss.impl)
        image_spec, tokenizer = tasks.make_image_spec(config), tasks.make_tokenizer(config)
        mixture = tasks.open_mixture(config)
        facts = tasks.read_dataset_metadata(config, mixture)
    platform = mesh.devices.flat[0].platform
    frame, frame_note = process_agreement.run_on_process_0(
        lambda: tasks.choose_frame(config, image_spec, mixture, platform, stored_frame)
    )
    memory = process_agreement.run_on_process_0(lambda: layer_memory.memory_limit(jax.local_devices()[0]))
    with process_agreement.raise_on_all():
        if frame:
            image_spec = dataclasses.replace(image_spec, frame=frame)
        task = tasks.Task(config, image_spec, tokenizer, mesh, facts)
        examples = tasks.make_train_examples(config, mixture, task.example_transform)
        data = examples.describe()
        evaluator = from_config.Evaluator(config, task, mesh, tokenizer, image_spec)
        validate_run.check_best_metric(config, [source.name for source in evaluator.sources])
        setup = build_step.make_setup(config, task, mesh, memory)  # shapes; nothing is on the devices yet
        for note in setup.notes:
            log.info(note)
        paths.make_folder(workdir, "--workdir")
    process_agreement.check_shared(workdir, "--workdir")
    validate_run.check_same_data(data, config.data.train)

    checkpoints, start, meta = _open_checkpoints(config, workdir)
    setup = setup.resumed(meta.get("remat", {}))
    state = _restore(config, workdir, checkpoints, start, setup) if start else _initialise(config, setup)
    if start:
        log.info(f"resumed at step {start} of {config.steps}")
        changed = validate_run.changed_data(data, meta, config.data.train)
        if changed:
            log.info(changed)
    _log_introduction(config, task, mesh, setup)
    packer = packing.choose_packer(config, mesh, examples, meta)
    if frame_note:
        log.info(frame_note)
    if config.optimizer.freeze and not config.init_from and not start:
        log.info("note: init_from is empty, so what optimizer.freeze locks keeps its random initialisation")

    if jax.process_index() == 0:
        paths.write_atomically(workdir / "config.json", resumed_config.to_json(config, origins))
    logger = metrics_log.Logger(workdir, config)
    # An evaluation that the checkpoint does not know of is made again, and its line with it.
    logger.resume(start, evaluated=bool(start and meta["evaluated"]))
    bad_examples = BadExamples(
        meta.get("bad_examples", {}),
        config.batch_size,
        config.data.train,
        config.data.max_bad_fraction,
        history=RUN_AHEAD + 2,
    )
    return Run(
        config=config,
        workdir=workdir,
        mesh=mesh,
        task=task,
        tokenizer=tokenizer,
        examples=examples,
        data=data,
        evaluator=evaluator,
        setup=setup,
        checkpoints=checkpoints,
        logger=logger,
        bad_examples=bad_examples,
        packer=packer,
        start=start,
        state=state,
        evaluation_missing=bool(start and not meta["evaluated"]),
    )


def _open_checkpoints(
    config: ml_collections.ConfigDict, workdir: Any
) -> tuple[checkpoint.Checkpoints, int, Mapping[str, Any]]:
    """The checkpoints of a workdir, the latest one's step (0 without any) and its meta.

    All processes look at the same folder, and so meet the same mistakes.
    """
    settings = config.checkpoint
    checkpoints = checkpoint.Checkpoints(
        workdir / "checkpoints", keep=settings.keep, keep_best=settings.keep_best, best_metric=settings.best_metric
    )
    # The first host's look at a shared disk counts; another's may be older.
    start = process_agreement.broadcast_from_0(checkpoints.latest() or 0)
    if not start:
        return checkpoints, 0, {}
    with process_agreement.raise_on_all():
        process_agreement.wait_for(lambda: start in checkpoints.all_steps(), f"--workdir={workdir}: checkpoint {start}")
        meta = checkpoints.read_meta(start)
        if start > config.steps:
            raise UserError(
                f"steps={config.steps}: the workdir is already at step {start}; give more steps or another workdir"
            )
    return checkpoints, start, meta


def _restore(
    config: ml_collections.ConfigDict,
    workdir: Any,
    checkpoints: checkpoint.Checkpoints,
    start: int,
    setup: build_step.Setup,
) -> TrainState:
    state = checkpoints.restore(start, setup.state)
    with process_agreement.raise_on_all():
        validate_run.check_scale(config, state.params.get("logit_scale"), f"--workdir={workdir}")
    return state


def _initialise(config: ml_collections.ConfigDict, setup: build_step.Setup) -> TrainState:
    """A fresh state, with the parameters of `init_from` in place of fresh ones."""
    with process_agreement.raise_on_all():
        pretrained = init_from.read(setup.state.params, config) if config.init_from else {}
    return init_from.replace(setup.make_state(config.seed), pretrained)


def _log_introduction(
    config: ml_collections.ConfigDict, task: tasks.Task, mesh: jax.sharding.Mesh, setup: build_step.Setup
) -> None:
    """Logs what is trained, on what, and how."""
    device = mesh.devices.flat[0]
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    shape = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    parameters = f"{count(setup.state.params):,} parameters"
    parameters += f" ({count(setup.trainable):,} trained)" if config.optimizer.freeze else ""
    log.info(
        f"{config.name}: {config.variant}, {parameters}; mesh {shape} of {jax.devices()[0].device_kind};"
        f" {config.steps} steps of {config.batch_size} pairs; attention by {task.describe_attention()}"
    )
    log.info(compiler.describe(config, device.platform))
    if setup.planner is not None and device.platform != "cpu":
        log.info(setup.planner.describe(setup.remat))
