"""Opened checkpoints: of a run, or weights of another library, before a parameter has been read."""

import abc
import contextlib
import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, Sharding, SingleDeviceSharding

from mmjax import plugin_imports, tasks
from mmjax.config import schema
from mmjax.config.schema import RunConfig
from mmjax.config.typed_groups import to_dict
from mmjax.data.image import transforms
from mmjax.data.text import tokenizer as tokenizer_lib
from mmjax.errors import UserError
from mmjax.interop import foreign_checkpoint, model_settings, param_translation, run_config, weights_path
from mmjax.interop.named_models import NamedModel
from mmjax.io import paths
from mmjax.models.config import TwoTowerConfig
from mmjax.parallel import log, partition, process_agreement
from mmjax.parallel.config import MeshConfig
from mmjax.tasks import capabilities, config_queries, load_objective
from mmjax.training import checkpoint, lora_base, resumed_run, stored_meta


def _needs_tokenizer(config: RunConfig) -> bool:
    """Whether a task cannot be made without its tokenizer."""
    return "masked_words" in load_objective.taught(config) or config_queries.encoder_of_texts(config) is not None


class OpenedCheckpoint(abc.ABC):
    """A checkpoint of which no parameter has been read; made by `open_checkpoint`, which starts no device.

    Attributes:
      config: as of a run; may be exchanged before the task is made and the parameters are read.
      preprocessing: fields of `data.image.transforms.ImageSpec`; None for a model that sees no image.
      metadata: of the training data.
      shapes: of the parameters, by path.
      tokenizer: None for a model without text. Raises `UserError` where none is known, or it does not fit the model.
      notes: lines on what differs here from where the checkpoint was made, such as the version of a plugin.
    """

    config: RunConfig
    preprocessing: Mapping[str, Any] | None
    metadata: tasks.DatasetMetadata
    shapes: Mapping[str, tuple[int, ...]]
    tokenizer: tokenizer_lib.Tokenizer | None

    notes: Sequence[str] = ()

    def log_notes(self) -> None:
        """Logs `notes`; starts the devices."""
        for note in self.notes:
            log.info(note)

    @property
    def image_spec(self) -> transforms.ImageSpec | None:
        """How images are prepared."""
        return transforms.ImageSpec(**self.preprocessing) if self.preprocessing else None

    @property
    def has_tokenizer(self) -> bool:
        """Whether a tokenizer is known."""
        return self.config.data.tokenizer != run_config.NO_TOKENIZER

    def make_task(self, mesh: Mesh | None = None, tokenizer: tokenizer_lib.Tokenizer | None = None) -> tasks.Task:
        """The model's task, by the config as it is now."""
        # Without a tokenizer weights of another library are still good for token ids.
        if tokenizer is None and _needs_tokenizer(self.config):
            tokenizer = self.tokenizer
        return tasks.Task(self.config, self.image_spec, tokenizer, mesh, self.metadata)

    def shardings(self, mesh: Mesh | None) -> dict[str, Sharding]:
        """Shardings of the parameters; see `param_shardings`."""
        return param_shardings(self.shapes, self.config.mesh, mesh)

    @abc.abstractmethod
    def read(self, shardings: Mapping[str, Sharding]) -> Any:
        """Reads the parameters, each of them straight to the devices of its sharding (by path).

        Of a run's checkpoint all processes read together.
        """

    @abc.abstractmethod
    def read_unsharded(self) -> Any:
        """Reads the parameters onto one device, or into the host's memory."""


class RunCheckpoint(OpenedCheckpoint):
    """A checkpoint in the workdir of a run; its parameters are the moving average, where there is one.

    Args:
      workdir: of the run.
      step: of the checkpoint; None: the latest.
      tokenizer: in place of the run's own, as `data.tokenizer` has it.
      workdir_name, step_field: what messages call the two.

    Attributes:
      step: of the checkpoint.
      all_steps: of the run's complete checkpoints.
      meta: config, preprocessing, tokenizer, versions: what was stored beside the state.
      plugins: that the run had.

    Raises:
      UserError: there is no such checkpoint, or it is damaged.
    """

    def __init__(
        self,
        workdir: Any,
        step: int | None = None,
        tokenizer: str | None = None,
        *,
        workdir_name: str = "",
        step_field: str = "step",
    ):
        self.path = paths.as_path(workdir)
        self._folder = self.path / "checkpoints"
        self._workdir_name, self._step_field = workdir_name or str(workdir), step_field
        self._requested_step = step
        if not self._folder.exists():
            raise UserError(f"{self._workdir_name}: there is no {self._folder}; give the --workdir of a training run")
        with self._open_folder() as checkpoints:
            self.all_steps: list[int] = checkpoints.all_steps()
            self.step: int = self._choose_step(self.all_steps, step)
            self.meta: dict[str, Any] = checkpoints.read_meta(self.step)
        where = f"{self._workdir_name}: {self._folder.name}/{self.step}"
        stored_meta.check(self.meta, where)
        origin = f"checkpoint {self.step} of {self.path}"
        self.plugins = plugin_imports.read_stored(self.meta.get("plugins", []), origin)
        self.notes = plugin_imports.compare_stored(self.plugins, origin)
        origin = f"{self._workdir_name}: the config of checkpoint {self.step}"
        self.config = schema.parse(resumed_run.read_config(self.meta, origin))
        stored_meta.check_sizes(self.config, origin)
        self.preprocessing = stored_meta.read_preprocessing(self.meta, self.config, where)
        self.metadata = tasks.DatasetMetadata.from_json(self.meta.get("facts", {}))
        stored_meta.check_columns(self.metadata.columns, self.config, where)
        if tokenizer is None:
            self._tokenizer_file = stored_meta.read_tokenizer_file(self.meta, self.config, where)
        else:
            self.config, self._tokenizer_file = _with_tokenizer(self.config, tokenizer), None

    def _open_folder(self) -> contextlib.closing:
        return contextlib.closing(checkpoint.Checkpoints(self._folder, read_only=True))

    def _choose_step(self, steps: list[int], step: int | None) -> int:
        if not steps:
            raise UserError(
                f"{self._workdir_name}: no complete checkpoint in {self._folder}; train until one has been saved"
            )
        if step is not None and step not in steps:
            known = ", ".join(map(str, steps))
            raise UserError(f"{self._step_field}={step}: there is no such checkpoint; there are {known}")
        return steps[-1] if step is None else step

    def agree_on_step(self) -> None:
        """Makes every process read process 0's step: a run that goes on may save one between two hosts' looks.

        Every process calls it at the same point; a host whose network disk lags waits until it sees the step.

        Raises:
          UserError: a host sees no checkpoint, or not this one.
        """
        with process_agreement.raise_on_all(), self._open_folder() as checkpoints:
            step = self._choose_step(checkpoints.all_steps(), self._requested_step)
        self.step = process_agreement.broadcast_from_0(step)
        with process_agreement.raise_on_all(), self._open_folder() as checkpoints:
            name = f"{self._workdir_name}: checkpoint {self.step}"
            process_agreement.wait_for(lambda: self.step in checkpoints.all_steps(), name)
            self.meta = checkpoints.read_meta(self.step)

    @functools.cached_property
    def tokenizer(self) -> tokenizer_lib.Tokenizer | None:
        return tasks.make_tokenizer(self.config, file=self._tokenizer_file)

    def make_portable_task(self) -> tasks.Task:
        """The task with attention kernels that any device has: the devices here may not have the run's."""
        config = dataclasses.replace(self.config, attention="auto")
        tokenizer = self.tokenizer if _needs_tokenizer(config) else None
        return tasks.Task(config, self.image_spec, tokenizer, None, self.metadata)

    @functools.cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        params = jax.eval_shape(self.make_portable_task().init, jax.random.key(0))
        return {name: leaf.shape for name, leaf in partition.flattened(params).items()}

    def stored_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the stored parameters, by path; of adapters those of what they are merged into."""
        with self._open_folder() as checkpoints:
            return self._stored_shapes(checkpoints)

    def _stored_shapes(self, checkpoints: checkpoint.Checkpoints) -> dict[str, tuple[int, ...]]:
        return lora_base.param_shapes(self.path, checkpoints, self.step, self.meta, self.config.optimizer)

    def _check_shapes(self, stored: Mapping[str, tuple[int, ...]]) -> None:
        """Checks that the stored parameters are those of the model.

        Raises:
          DamagedCheckpoint: one is missing, or has another shape.
        """
        for name, shape in self.shapes.items():
            if stored.get(name) != shape:
                problem = f"has the shape {list(stored[name])}" if name in stored else "is missing"
                raise checkpoint.DamagedCheckpoint(
                    f"{self._workdir_name}: {self._folder.name}/{self.step} is no whole checkpoint: its parameter"
                    f" {name} {problem}, and by its config has the shape {list(shape)}; move it away to use another"
                )

    def read(self, shardings: Mapping[str, Sharding]) -> Any:
        target = {
            name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=shardings[name])
            for name, shape in self.shapes.items()
        }
        with self._open_folder() as checkpoints:
            with process_agreement.raise_on_all():  # a host that raised alone would leave the others waiting in Orbax
                self._choose_step(checkpoints.all_steps(), self.step)  # which a run that goes on may have removed
                self._check_shapes(self._stored_shapes(checkpoints))
            settings = self.config.optimizer
            arrays = lora_base.read_params(self.path, checkpoints, self.step, self.meta, settings, target)
            return partition.nested(arrays)

    def read_unsharded(self) -> Any:
        return self.read(self.shardings(None))


class ForeignWeights(OpenedCheckpoint):
    """Weights of another library.

    Args:
      foreign: the file or folder, opened and checked.
      tokenizer: as `data.tokenizer` has it; None: the one that lies beside the weights.
    """

    def __init__(self, foreign: foreign_checkpoint.ForeignCheckpoint, tokenizer: str | None = None):
        self.foreign = foreign
        self.config = run_config.make_config(foreign)
        if tokenizer is not None:
            self.config = _with_tokenizer(self.config, tokenizer)
        self.preprocessing = foreign.preprocessing
        self.metadata = tasks.DatasetMetadata(answers=foreign.purpose.answers, class_names=foreign.purpose.classes)
        self.shapes = foreign.shapes
        self.notes = foreign.notes

    def make_task(self, mesh: Mesh | None = None, tokenizer: tokenizer_lib.Tokenizer | None = None) -> tasks.Task:
        if not self.foreign.purpose.objectives and not capabilities.is_lone_image_tower(self.config.model):
            name = foreign_checkpoint.FORMATS[self.foreign.format]
            raise UserError(f"{self.foreign.path}: {name}, which can do nothing by itself; config.init_from takes it")
        return super().make_task(mesh, tokenizer)

    @functools.cached_property
    def tokenizer(self) -> tokenizer_lib.Tokenizer | None:
        if not self.has_tokenizer and not config_queries.has_text(self.config):
            return None
        if not self.has_tokenizer:
            raise UserError(
                f"{self.foreign.path}: no tokenizer lies beside it, so give token ids, or its file:"
                ' mmjax.load(path, tokenizer="sentencepiece:FILE") or "json:FILE", the flag --tokenizer=... of mmjax'
                " eval and search"
            )
        return run_config.with_right_end(tasks.make_tokenizer(self.config), self.config)

    def read(self, shardings: Mapping[str, Sharding]) -> Any:
        def to_devices(name, array):
            # Each device takes its part; a file that is mapped into memory is read no further.
            return jax.make_array_from_callback(array.shape, shardings[name], lambda index: array[index])

        return partition.nested(self.foreign.read(to_devices))

    def read_unsharded(self) -> Any:
        return partition.nested(self.foreign.read(lambda _, array: array))


class UntrainedModel(OpenedCheckpoint):
    """A model of a name with fresh parameters, as training starts from them.

    Args:
      named: the model.
      seed: of the parameters.
      tokenizer: as `data.tokenizer` has it; None: the one that belongs to the name.
    """

    def __init__(self, named: NamedModel, seed: int, tokenizer: str | None = None):
        self.named, self._seed = named, seed
        self.config = run_config.make_config(named)
        if named.settings["logit_bias_init"] is None:  # CLIP's parameters start as open_clip's
            model = dataclasses.replace(self.config.model, init="open_clip")
            self.config = dataclasses.replace(self.config, model=model)
        if tokenizer is not None:
            self.config = _with_tokenizer(self.config, tokenizer)
        self.preprocessing = named.preprocessing
        self.metadata = tasks.DatasetMetadata()
        self.shapes = param_translation.param_shapes(named.settings)

    @functools.cached_property
    def tokenizer(self) -> tokenizer_lib.Tokenizer | None:
        if not self.has_tokenizer:
            raise UserError(
                f"{self.named.name}: its tokenizer is a file of its own, so give token ids, or"
                ' mmjax.create_model(name, tokenizer="sentencepiece:FILE") or "json:FILE"'
            )
        return tasks.make_tokenizer(self.config)

    def read(self, shardings: Mapping[str, Sharding]) -> Any:
        init = jax.jit(self.make_task().init, out_shardings=partition.nested(dict(shardings)))
        return init(jax.random.key(self._seed))

    def read_unsharded(self) -> Any:
        return self.read(self.shardings(None))


def open_checkpoint(
    path: Any,
    *,
    step: int | None = None,
    tokenizer: str | None = None,
    settings: Mapping[str, Any] | None = None,
    named: NamedModel | None = None,
    from_flags: bool = False,
) -> RunCheckpoint | ForeignWeights:
    """Opens what `mmjax.load` reads; arguments and errors as there.

    Args:
      path, step, tokenizer: see `mmjax.load`.
      settings: those that the files of another library do not hold.
      named: the model that it must be.
      from_flags: messages name the flags of the command line.
    """
    if path is None or not isinstance(path, str | os.PathLike):
        raise UserError(f"path={path!r}: give a workdir, a file or folder of weights, or hf-hub:NAME")
    step_field = "--step" if from_flags else "step"
    if step is not None and type(step) is not int:
        raise UserError(f"{step_field}={step!r}: give the number of a checkpoint, an integer")
    if is_workdir(path):
        if settings:
            field = f"{'--model-config ' if from_flags else ''}{next(iter(settings))}"
            raise UserError(f"{field}: the run in {path} has its own config; load it without")
        run = RunCheckpoint(path, step, tokenizer, step_field=step_field)
        if named is not None:
            _check_named(run, named)
        return run
    if step is not None:
        raise UserError(f"{step_field}={step}: {path} is not the workdir of a run")
    return ForeignWeights(foreign_checkpoint.open_checkpoint(path, settings, named=named), tokenizer)


def open_source(src: Any, **options: Any) -> RunCheckpoint | ForeignWeights:
    """Opens what a command reads and logs its notes; `options` are those of `open_checkpoint`, errors as there."""
    opened = open_checkpoint(src, from_flags=True, **options)
    opened.log_notes()
    return opened


def _check_named(run: RunCheckpoint, named: NamedModel) -> None:
    """Checks that a run has trained the model of a name.

    Raises:
      UserError: it has trained another one.
    """
    settings = to_dict(run.config.model)
    if not isinstance(run.config.model, TwoTowerConfig):
        raise UserError(
            f"weights={str(run.path)!r}: a run of model.kind={settings['kind']!r}, and {named.name} has two towers;"
            " read it by mmjax.load"
        )
    model_settings.check_equal(settings, named.settings, run.path, named.name)


def _with_tokenizer(config: RunConfig, tokenizer: str) -> RunConfig:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, tokenizer=tokenizer))


def is_workdir(path: Any) -> bool:
    """Whether a path holds a run's checkpoints."""
    if str(path).startswith((weights_path.HUB, weights_path.LOCAL)):
        return False
    try:
        return (paths.as_path(path) / "checkpoints").is_dir()
    except UserError:
        raise
    except Exception as error:  # stores have errors of their own
        if not paths.scheme(path):
            raise
        raise UserError(f"{path}: cannot be looked at ({type(error).__name__}: {error})") from error


def param_shardings(
    shapes: Mapping[str, tuple[int, ...]], settings: MeshConfig, mesh: Mesh | None
) -> dict[str, Sharding]:
    """Shardings by path: by the partition rules of the mesh's `settings`, or one device without a mesh."""
    if mesh is None:
        return dict.fromkeys(shapes, SingleDeviceSharding(jax.local_devices()[0]))
    tree = partition.nested({name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()})
    shardings, _ = partition.param_shardings(tree, mesh, settings)
    return partition.flattened(shardings)
