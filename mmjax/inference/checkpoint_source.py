"""Models before a parameter has been read: a run's workdir, or weights of another library."""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh, Sharding, SingleDeviceSharding

from mmjax import tasks
from mmjax.config import serialize
from mmjax.data.image import transforms
from mmjax.data.text import tokenizer as tokenizer_lib
from mmjax.errors import UserError
from mmjax.interop import foreign_checkpoint, param_translation, run_config
from mmjax.io import paths
from mmjax.parallel import partition
from mmjax.training import checkpoint


@dataclasses.dataclass(frozen=True)
class Opened:
    """A model of which no parameter has been read.

    Attributes:
      config: as of a run; may be changed before the parameters are read.
      preprocessing: fields of `data.image.transforms.ImageSpec`; None for a model that sees no image.
      shapes: of the parameters, by path.
      make_tokenizer: makes the tokenizer, None for a model without text; raises `UserError` where there should be one.
      read: shardings by path -> parameters, each read straight to its place.
      facts: what is known of the training data.
    """

    config: ml_collections.ConfigDict
    preprocessing: Mapping[str, Any] | None
    shapes: Mapping[str, tuple[int, ...]]
    make_tokenizer: Callable[[], tokenizer_lib.Tokenizer | None]
    read: Callable[[Mapping[str, Sharding]], Any]
    facts: tasks.DatasetMetadata = tasks.DatasetMetadata()

    @property
    def image_spec(self) -> transforms.ImageSpec | None:
        """How images are prepared."""
        return transforms.ImageSpec(**self.preprocessing) if self.preprocessing else None

    def make_task(self, mesh: Mesh | None = None) -> tasks.Task:
        """The model's task, by the config as it is now."""
        # Without a tokenizer weights of another library are still good for token ids.
        tokenizer = self.make_tokenizer() if self.config.objectives.mlm else None
        return tasks.Task(self.config, self.image_spec, tokenizer, mesh, self.facts)


def open_path(
    path: Any, *, step: int | None = None, tokenizer: str | None = None, settings: Mapping[str, Any] | None = None
) -> Opened:
    """Opens what `mmjax.load` reads; arguments and errors as there."""
    if path is None or not isinstance(path, str | os.PathLike):
        raise UserError(f"path={path!r}: give a workdir, a file or folder of weights, or hf-hub:NAME")
    if is_workdir(path):
        if settings:
            raise UserError(f"{next(iter(settings))}: the run in {path} has its own config; load it without")
        return _open_workdir(path, step, tokenizer)
    if step is not None:
        raise UserError(f"step={step}: {path} is not the workdir of a run")
    opened = foreign_checkpoint.open_source(path, settings)
    config = run_config.make_config(opened)
    if tokenizer is not None:
        config.data.tokenizer = tokenizer

    def make_tokenizer():
        if config.data.tokenizer == run_config.NO_TOKENIZER:
            raise UserError(
                f"{opened.path}: no tokenizer lies beside it, so give token ids, or its file:"
                ' mmjax.load(path, tokenizer="sentencepiece:FILE") or "json:FILE", the flag --tokenizer=... of mmjax'
                " eval and search"
            )
        return tasks.make_tokenizer(config)

    def read(places):
        def place(name, array):
            # Each device takes its part; a file that is mapped into memory is read no further.
            return jax.make_array_from_callback(array.shape, places[name], lambda index: array[index])

        return param_translation.nested(opened.read(place))

    return Opened(config, opened.preprocessing, opened.shapes, make_tokenizer, read)


def shardings(
    shapes: Mapping[str, tuple[int, ...]], config: ml_collections.ConfigDict, mesh: Mesh | None
) -> dict[str, Sharding]:
    """Where parameters belong, by path: by the partition rules of `config.mesh`, or on one device without a mesh."""
    if mesh is None:
        return dict.fromkeys(shapes, SingleDeviceSharding(jax.local_devices()[0]))
    tree = param_translation.nested({name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()})
    placed, _ = partition.param_shardings(tree, mesh, preset=config.mesh.sharding, rules=config.mesh.rules)
    return param_translation.flattened(placed)


def is_workdir(path: Any) -> bool:
    """Whether there are a run's checkpoints."""
    return not str(path).startswith(foreign_checkpoint.HUB) and (paths.as_path(path) / "checkpoints").is_dir()


def open_step(path: Any, step: int | None, field: str = "step") -> tuple[checkpoint.Checkpoints, int, dict[str, Any]]:
    """Opens a workdir at a step, or at the latest; to be closed by the caller. Also returns what meta.json says.

    Raises:
      UserError: there is no such checkpoint, naming `field`.
    """
    checkpoints = checkpoint.Checkpoints(paths.as_path(path) / "checkpoints", read_only=True)
    steps = checkpoints.all_steps()
    if not steps:
        raise UserError(f"{path}: no complete checkpoint in {checkpoints.folder}; train until one has been saved")
    if step is not None and step not in steps:
        raise UserError(f"{field}={step}: there is no such checkpoint; there are {', '.join(map(str, steps))}")
    step = steps[-1] if step is None else step
    return checkpoints, step, checkpoints.read_meta(step)


def _open_workdir(path: Any, step: int | None, tokenizer: str | None) -> Opened:
    """Opens a run's parameters: the moving average, where there is one."""
    checkpoints, step, meta = open_step(path, step)
    checkpoints.close()
    config = serialize.from_json(json.dumps(meta["config"]))
    file = checkpoint.tokenizer_file(meta)
    if tokenizer is not None:
        config.data.tokenizer, file = tokenizer, None

    def read(places):
        target = {
            name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=places[name]) for name, shape in shapes.items()
        }
        again, _, _ = open_step(path, step)
        try:
            return again.restore_params(step, param_translation.nested(target))
        finally:
            again.close()

    make_tokenizer = functools.cache(lambda: tasks.make_tokenizer(config, file=file))
    facts = tasks.DatasetMetadata.from_json(meta.get("facts", {}))
    # Of any kernel, since the devices here may not have the run's, and `attention` may still be changed.
    abstract = config.copy_and_resolve_references()
    abstract.attention = "auto"
    opened = Opened(abstract, meta["preprocessing"], {}, make_tokenizer, read, facts)
    made = jax.eval_shape(opened.make_task().init, jax.random.key(0))
    shapes = {name: leaf.shape for name, leaf in param_translation.flattened(made).items()}
    return dataclasses.replace(opened, config=config, shapes=shapes)


def read_workdir(
    path: Any, step: int | None, field: str = "step", *, check: Callable[[ml_collections.ConfigDict], None]
) -> tuple[ml_collections.ConfigDict, dict[str, Any], Any]:
    """Reads config, meta.json and parameters (the moving average, where there is one) of a run, onto one device.

    Raises:
      UserError: there is no such checkpoint, naming `field`, or `check` refuses the config.
    """
    checkpoints, step, meta = open_step(path, step, field)
    checkpoints.close()
    check(serialize.from_json(json.dumps(meta["config"])))
    opened = _open_workdir(path, step, None)
    return opened.config, meta, opened.read(shardings(opened.shapes, opened.config, None))
