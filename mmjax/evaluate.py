"""Evaluates a checkpoint by itself: everything but the evaluation data comes from the workdir."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from mmjax import config as config_lib
from mmjax import storage, tasks
from mmjax.data.images import ImageSpec
from mmjax.errors import UserError, did_you_mean
from mmjax.evaluation import embed, report, suite, tables
from mmjax.parallel import distributed, partition
from mmjax.parallel import mesh as mesh_lib
from mmjax.training import checkpoint, logs

# What an evaluation may change; the rest describes the model that was trained.
_FREE = (
    "data.eval",
    "eval.",
    "mesh.",
    "precision",
    "attention",
    "loss.",
    "deterministic",
    "compilation_cache",
    "xla_flags",
)


def open_checkpoints(workdir: Any) -> checkpoint.Checkpoints:
    """Opens a workdir's checkpoints for reading.

    Raises:
      UserError: there is no workdir, or no complete checkpoint in it.
    """
    folder = storage.as_path(workdir) / "checkpoints"
    if not folder.exists():
        raise UserError(f"--workdir={workdir}: there is no {folder}; give the --workdir of a training run")
    checkpoints = checkpoint.Checkpoints(folder, read_only=True)
    if checkpoints.latest() is None:
        raise UserError(f"--workdir={workdir}: no complete checkpoint in {folder}; train until one has been saved")
    return checkpoints


def choose_step(checkpoints: checkpoint.Checkpoints, step: int | None) -> int:
    """The step asked for, or the latest.

    Raises:
      UserError: there is no such checkpoint.
    """
    steps = checkpoints.all_steps()
    if step is not None and step not in steps:
        raise UserError(f"--step={step}: there is no such checkpoint; there are {', '.join(map(str, steps))}")
    return steps[-1] if step is None else step


def read_meta(workdir: Any, step: int | None = None) -> dict[str, Any]:
    """Reads what a checkpoint tells about itself: config, preprocessing, tokenizer, versions."""
    checkpoints = open_checkpoints(workdir)
    try:
        return checkpoints.read_meta(choose_step(checkpoints, step))
    finally:
        checkpoints.close()


def apply_overrides(config: ml_collections.ConfigDict, overrides: Sequence[tuple[str, str]]) -> None:
    """Changes fields of a stored config that an evaluation may change.

    Raises:
      UserError: the field describes the trained model, or does not exist.
    """
    for path, text in overrides:
        if path in config_lib.flatten(config) and not path.startswith(_FREE):
            known = ", ".join(field.rstrip(".") for field in _FREE)
            raise UserError(
                f"--config.{path}={text}: this belongs to the trained model; an evaluation may change {known}"
                f"{did_you_mean(path, _FREE)}"
            )
    config_lib.apply_overrides(config, overrides)


@dataclasses.dataclass(frozen=True)
class Model:
    """A model to embed with, before its parameters are there.

    Attributes:
      config: of the run, or made for weights of another library, with what this evaluation changes.
      mesh, task, tokenizer, image_spec: see `embed.Evaluator`.
      name: of the run or the file, for people.
      step: of the run; None for weights of another library.
      restore: reads the parameters over the mesh.
    """

    config: ml_collections.ConfigDict
    mesh: Any
    task: Any
    tokenizer: Any
    image_spec: ImageSpec
    name: str
    step: int | None
    restore: Callable[[], Any]

    @property
    def pretrained(self) -> str:
        """What CLIP_benchmark's records call the weights."""
        return self.name if self.step is None else f"{self.name}@{self.step}"


def open_workdir(
    config: ml_collections.ConfigDict, workdir: Any, meta: dict[str, Any], *, step: int | None = None
) -> Model:
    """Prepares a run's model; every process calls it.

    Args:
      config: the stored config, with what this evaluation changes.
      workdir: of the run.
      meta: the checkpoint's, as `read_meta` gives it.
      step: checkpoint; the latest by default.

    Raises:
      UserError: there is no such checkpoint, or the devices do not fit the config.
    """
    with distributed.together():
        workdir = storage.as_path(workdir)
        mesh = mesh_lib.make_mesh(config.mesh)
        image_spec = ImageSpec(**meta["preprocessing"])
        tokenizer = tasks.make_tokenizer(config, file=checkpoint.tokenizer_file(meta))
        task = tasks.ContrastiveTask(config, image_spec.mean, image_spec.std, mesh)
        abstract = jax.eval_shape(task.init, jax.random.key(0))
        target = partition.placed_shapes(abstract, _shardings(abstract, config, mesh))
        checkpoints = open_checkpoints(workdir)
    try:
        # A run that is still going may save another one between two hosts' looks.
        with distributed.together():
            step = choose_step(checkpoints, step)
        step = distributed.from_first(step)
    finally:
        checkpoints.close()

    def restore():
        checkpoints = open_checkpoints(workdir)
        try:
            return checkpoints.restore_params(step, target)
        finally:
            checkpoints.close()

    return Model(config, mesh, task, tokenizer, image_spec, str(workdir), step, restore)


def open_model(path: Any, overrides: Sequence[tuple[str, str]] = ()) -> Model:
    """Prepares a model in any format that `mmjax.load` reads; every process calls it.

    Raises:
      UserError: as `mmjax.load`, or an override of a field that describes the model.
    """
    from mmjax import hub

    with distributed.together():
        loaded = hub.load(path)
        apply_overrides(loaded.config, overrides)
        config, image_spec = loaded.config, loaded.image_spec
        mesh = mesh_lib.make_mesh(config.mesh)
        task = tasks.ContrastiveTask(config, image_spec.mean, image_spec.std, mesh)
        tokenizer = loaded.tokenizer
    shardings = _shardings(loaded.params, config, mesh)

    def restore():
        return jax.tree.map(lambda x, place: jax.device_put(np.asarray(x), place), loaded.params, shardings)

    return Model(config, mesh, task, tokenizer, image_spec, str(path), None, restore)


def _shardings(params: Any, config: ml_collections.ConfigDict, mesh: Any) -> Any:
    return partition.param_shardings(params, mesh, preset=config.mesh.sharding, rules=config.mesh.rules)[0]


def evaluate_workdir(
    config: ml_collections.ConfigDict,
    workdir: Any,
    meta: dict[str, Any],
    *,
    step: int | None = None,
    output: Any = None,
) -> list[dict[str, Any]]:
    """Restores a checkpoint over the mesh, evaluates it and writes the results.

    Args:
      config, workdir, meta, step: see `open_workdir`.
      output: JSON file; `WORKDIR/eval/STEP.json` by default. The report goes beside it, by default to the workdir.

    Returns:
      CLIP_benchmark's records, one per dataset.

    Raises:
      UserError: nothing to evaluate, or data that cannot be read.
    """
    return evaluate_model(open_workdir(config, workdir, meta, step=step), workdir=workdir, output=output)


def evaluate_model(model: Model, *, workdir: Any = None, output: Any = None) -> list[dict[str, Any]]:
    """Evaluates a model on `data.eval` and writes the results; see `evaluate_workdir`.

    Args:
      model: as `open_workdir` or `open_model` gives it.
      workdir: of its run, where there is one.
      output: JSON file.
    """
    config = model.config
    with distributed.together():
        if not config.data.eval:
            raise UserError("data.eval is empty; name the data, e.g. --config.data.eval=shapes/test+digits/test")
        evaluator = embed.Evaluator(config, model.task, model.mesh, model.tokenizer, model.image_spec)
        path, page = places(model, workdir, output)
    params = model.restore()
    told = model.name if model.step is None else f"step {model.step} of {model.name}"
    logs.say(f"evaluating {told} on {config.data.eval}")
    results = evaluator.run(params, keep_artifacts=True)
    records = suite.to_records(results, model=config.variant, pretrained=model.pretrained)
    if jax.process_index() == 0:
        storage.write_atomically(path, json.dumps(records, indent=2) + "\n")
        history = [] if workdir is None else logs.MetricsFile(storage.as_path(workdir) / "metrics.jsonl").lines()
        report.write_report(page, config, history, results, step=model.step)
        print(tables.format_table(records))
        print(f"\nresults: {path}\nreport:  {page}")
    return records


def places(model: Model, workdir: Any, output: Any) -> tuple[Any, Any]:
    """Where results and report go; their folder is made.

    Raises:
      UserError: no place is known, or it cannot be written to.
    """
    if output is None and workdir is None:
        raise UserError("--output is missing; a model that is no workdir has no place for results, so name a JSON file")
    path = storage.as_path(output) if output else storage.as_path(workdir) / "eval" / f"{model.step}.json"
    if jax.process_index() == 0:
        storage.make_folder(path.parent, "--output" if output else "--workdir")
    # The workdir's report is of its own data; results that go elsewhere take theirs along.
    return path, path.with_suffix(".html") if output else storage.as_path(workdir) / "report.html"
