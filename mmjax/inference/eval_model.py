"""A model to evaluate or to search with: its task over a mesh, before its parameters are used."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, Sharding

from mmjax import tasks
from mmjax.config import overrides as overrides_lib
from mmjax.config import schema, serialize
from mmjax.config.schema import ConfigDict, RunConfig
from mmjax.config.typed_groups import to_dict
from mmjax.data.image.transforms import ImageSpec
from mmjax.data.text import tokenizer as tokenizer_lib
from mmjax.errors import UserError, did_you_mean
from mmjax.inference.checkpoint_source import OpenedCheckpoint, RunCheckpoint, open_checkpoint
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel import process_agreement
from mmjax.parallel.make_mesh import make_mesh

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
    "data.cache",
    "data.retry_seconds",
    "compilation_cache",
    "xla_flags",
)


def apply_overrides(config: RunConfig, overrides: Sequence[tuple[str, str]]) -> RunConfig:
    """A stored config with changes of fields that an evaluation may change.

    Raises:
      UserError: the field describes the trained model, or does not exist.
    """
    fields = serialize.flatten(config)
    for path, text in overrides:
        if path in fields and not path.startswith(_EVALUATION_FIELDS):
            known = ", ".join(field.rstrip(".") for field in _EVALUATION_FIELDS)
            raise UserError(
                f"--config.{path}={text}: this belongs to the trained model; an evaluation may change {known}"
                f"{did_you_mean(path, _EVALUATION_FIELDS)}"
            )
    changed = ConfigDict(to_dict(config))
    overrides_lib.apply(changed, overrides)
    return schema.parse(changed)


@dataclasses.dataclass(frozen=True)
class EvalModel:
    """A model to embed with; made by `open_workdir` or `open_model`.

    Attributes:
      checkpoint: of the model, its config as this evaluation changes it.
      task: over the mesh.
      mesh: of the config, the devices that embed.
      name: of the run or the file, for people.
      step: of the run; None for weights of another library.
      identity: differs between models whose results differ.
      restore: reads the parameters over the mesh.
    """

    checkpoint: OpenedCheckpoint
    task: tasks.Task
    mesh: Mesh
    name: str
    step: int | None
    identity: str
    restore: Callable[[], Any]

    @property
    def config(self) -> RunConfig:
        """Of the run, or made for weights of another library, with what this evaluation changes."""
        return self.checkpoint.config

    @property
    def tokenizer(self) -> tokenizer_lib.Tokenizer | None:
        """The model's tokenizer; None for a model without text."""
        return self.checkpoint.tokenizer

    @property
    def image_spec(self) -> ImageSpec | None:
        """How images are prepared."""
        return self.checkpoint.image_spec

    @property
    def pretrained(self) -> str:
        """What CLIP_benchmark's records call the weights."""
        return self.name if self.step is None else f"{self.name}@{self.step}"


def open_workdir(checkpoint: RunCheckpoint) -> EvalModel:
    """Prepares a run's model; every process calls it.

    Raises:
      UserError: the checkpoint is gone, or the devices do not fit the config.
    """
    process_agreement.check_same_plugins()
    checkpoint.log_notes()
    with process_agreement.raise_on_all():
        task, mesh, shardings = _make_task(checkpoint)
    checkpoint.agree_on_step()
    # Of the checkpoint's content alone, so that a run that was moved keeps its results.
    content = json.dumps([checkpoint.meta, checkpoint.step, checkpoint.config.precision], sort_keys=True, default=str)
    restore = functools.partial(checkpoint.read, shardings)
    return EvalModel(checkpoint, task, mesh, str(checkpoint.path), checkpoint.step, _short_hash(content), restore)


def open_model(
    path: Any,
    overrides: Sequence[tuple[str, str]] = (),
    *,
    tokenizer: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> EvalModel:
    """Prepares a model in any format that `mmjax.load` reads; every process calls it.

    Its parameters are read here, straight to their devices of the mesh.

    Args:
      path: see `mmjax.load`.
      overrides: of fields that an evaluation may change.
      tokenizer: as `data.tokenizer` has it; what lies beside the weights by default.
      settings: those that the file does not hold, see `interop.model_settings.apply_overrides`.

    Raises:
      UserError: as `mmjax.load`, or an override of a field that describes the model.
    """
    process_agreement.check_same_plugins()
    with process_agreement.raise_on_all():
        checkpoint = open_checkpoint(path, tokenizer=tokenizer, settings=settings, from_flags=True)
        checkpoint.log_notes()
        checkpoint.config = apply_overrides(checkpoint.config, overrides)
        task, mesh, shardings = _make_task(checkpoint)
        params = None if isinstance(checkpoint, RunCheckpoint) else checkpoint.read(shardings)
    if isinstance(checkpoint, RunCheckpoint):
        checkpoint.agree_on_step()
        params = checkpoint.read(shardings)  # Orbax lets the processes wait for each other
    identity = f"{digest(params)} {checkpoint.config.precision}"
    image_spec = checkpoint.image_spec
    if image_spec is not None and image_spec.image_rule != "mmjax":
        # Files of two libraries may hold the same weights; results from before there were rules are not these.
        identity += f" {_short_hash(json.dumps(image_spec.of_evaluation(), sort_keys=True))}"
    return EvalModel(checkpoint, task, mesh, str(path), None, identity, lambda: params)


def _make_task(checkpoint: OpenedCheckpoint) -> tuple[tasks.Task, Mesh, Mapping[str, Sharding]]:
    """The task over the mesh of the config, that mesh, and where the task's parameters belong."""
    mesh = make_mesh(checkpoint.config.mesh)
    return checkpoint.make_task(mesh, checkpoint.tokenizer), mesh, checkpoint.shardings(mesh)


def digest(params: Any) -> str:
    """A hash of all parameters, the same on any mesh."""
    state = hashlib.blake2b(digest_size=16)
    for path, leaf in sorted(jax.tree_util.tree_leaves_with_path(params), key=lambda item: str(item[0])):
        array = np.ascontiguousarray(mesh_lib.to_host(leaf))
        state.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        state.update(array.reshape(-1).view(np.uint8).data)
    return state.hexdigest()


def _short_hash(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
