"""Models to evaluate, from the workdir of a run or from weights of another library."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from mmjax import tasks
from mmjax.config import overrides as overrides_lib
from mmjax.config import serialize
from mmjax.data.image.transforms import ImageSpec
from mmjax.errors import UserError, did_you_mean
from mmjax.inference import checkpoint_source
from mmjax.io import paths
from mmjax.parallel import global_arrays, partition, process_agreement
from mmjax.parallel import mesh as mesh_lib
from mmjax.training import checkpoint

# What an evaluation may change; the rest describes the model that was trained.
_EVALUATION_FIELDS = (
    "data.eval",
    "eval.",
    "mesh.",
    "precision",
    "attention",
    "loss.",
    "decoding.",
    "deterministic",
    "compilation_cache",
    "xla_flags",
)


def open_checkpoints(workdir: Any) -> checkpoint.Checkpoints:
    """Opens a workdir's checkpoints for reading.

    Raises:
      UserError: there is no workdir, or no complete checkpoint in it.
    """
    folder = paths.as_path(workdir) / "checkpoints"
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
        if path in serialize.flatten(config) and not path.startswith(_EVALUATION_FIELDS):
            known = ", ".join(field.rstrip(".") for field in _EVALUATION_FIELDS)
            raise UserError(
                f"--config.{path}={text}: this belongs to the trained model; an evaluation may change {known}"
                f"{did_you_mean(path, _EVALUATION_FIELDS)}"
            )
    overrides_lib.apply(config, overrides)


@dataclasses.dataclass(frozen=True)
class Model:
    """A model to embed with, before its parameters are there.

    Attributes:
      config: of the run, or made for weights of another library, with what this evaluation changes.
      mesh, task, tokenizer, image_spec: see `evaluator_lib.Evaluator`.
      name: of the run or the file, for people.
      step: of the run; None for weights of another library.
      identity: differs between models whose results differ.
      restore: reads the parameters over the mesh.
    """

    config: ml_collections.ConfigDict
    mesh: Any
    task: Any
    tokenizer: Any
    image_spec: ImageSpec
    name: str
    step: int | None
    identity: str
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
    with process_agreement.raise_on_all():
        workdir = paths.as_path(workdir)
        mesh = mesh_lib.make_mesh(config.mesh)
        image_spec = ImageSpec(**meta["preprocessing"]) if meta["preprocessing"] else None
        tokenizer = tasks.make_tokenizer(config, file=checkpoint.tokenizer_file(meta))
        facts = tasks.DatasetMetadata.from_json(meta.get("facts", {}))
        task = tasks.Task(config, image_spec, tokenizer, mesh, facts)
        abstract = jax.eval_shape(task.init, jax.random.key(0))
        target = partition.placed_shapes(abstract, _shardings(abstract, config, mesh))
        checkpoints = open_checkpoints(workdir)
    try:
        # A run that is still going may save another one between two hosts' looks.
        with process_agreement.raise_on_all():
            step = choose_step(checkpoints, step)
        step = process_agreement.broadcast_from_0(step)
    finally:
        checkpoints.close()

    def restore():
        checkpoints = open_checkpoints(workdir)
        try:
            return checkpoints.restore_params(step, target)
        finally:
            checkpoints.close()

    # Of the checkpoint's own words alone, so that a run that was moved keeps its results.
    told = json.dumps([meta, step, config.precision], sort_keys=True, default=str)
    identity = hashlib.blake2b(told.encode(), digest_size=8).hexdigest()
    return Model(config, mesh, task, tokenizer, image_spec, str(workdir), step, identity, restore)


def open_model(
    path: Any,
    overrides: Sequence[tuple[str, str]] = (),
    *,
    tokenizer: str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Model:
    """Prepares a model in any format that `mmjax.load` reads; every process calls it.

    Its parameters are read here, straight to their places on the mesh.

    Args:
      path: see `mmjax.load`.
      overrides: of fields that an evaluation may change.
      tokenizer: as `data.tokenizer` has it; what lies beside the weights by default.
      changes: settings that the file does not tell, see `interop.model_settings.apply`.

    Raises:
      UserError: as `mmjax.load`, or an override of a field that describes the model.
    """
    with process_agreement.raise_on_all():
        opened = checkpoint_source.open_path(path, tokenizer=tokenizer, settings=changes)
        config = opened.config
        apply_overrides(config, overrides)
        image_spec = opened.image_spec
        mesh = mesh_lib.make_mesh(config.mesh)
        task = opened.make_task(mesh)
        made = opened.make_tokenizer()
        places = checkpoint_source.shardings(opened.shapes, config, mesh)
        is_run = checkpoint_source.is_workdir(path)
        params = None if is_run else opened.read(places)
    if is_run:
        params = opened.read(places)  # Orbax lets the processes wait for each other
    identity = f"{digest(params)} {config.precision}"
    if image_spec is not None and image_spec.image_rule != "mmjax":
        # Files of two libraries may hold the same weights; results from before there were rules are not these.
        told = json.dumps(image_spec.of_evaluation(), sort_keys=True)
        identity += f" {hashlib.blake2b(told.encode(), digest_size=8).hexdigest()}"
    return Model(config, mesh, task, made, image_spec, str(path), None, identity, lambda: params)


def digest(params: Any) -> str:
    """A hash of all parameters, the same on any mesh."""
    state = hashlib.blake2b(digest_size=16)
    for path, leaf in sorted(jax.tree_util.tree_leaves_with_path(params), key=lambda item: str(item[0])):
        array = np.ascontiguousarray(global_arrays.to_host(leaf))
        state.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        state.update(array.reshape(-1).view(np.uint8).data)
    return state.hexdigest()


def _shardings(params: Any, config: ml_collections.ConfigDict, mesh: Any) -> Any:
    return partition.param_shardings(params, mesh, preset=config.mesh.sharding, rules=config.mesh.rules)[0]
