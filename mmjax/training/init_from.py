"""Pretrained parameters to start from: all of them, or those whose paths match (LiT: the image tower)."""

import contextlib
import dataclasses
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.config import schema, serialize
from mmjax.config.schema import RunConfig
from mmjax.config.typed_groups import to_dict
from mmjax.errors import UserError
from mmjax.interop import foreign_checkpoint, model_settings, param_translation, run_config, weights_path
from mmjax.io import paths
from mmjax.models.config import (
    CaptionerConfig,
    CoCaConfig,
    ImageTextConfig,
    LSTMCaptionerConfig,
    ModelConfig,
    PatchesConfig,
    PrefixLMConfig,
    StreamConfig,
    ViLTConfig,
)
from mmjax.nn import positions
from mmjax.parallel import log, partition
from mmjax.training import checkpoint, resumed_run, stored_meta, validate_run
from mmjax.training.state import TrainState

_POSITIONS = "image/position_embedding"
# What a tower computes with the same weights.
_FUNCTION = (
    *("activation", "norm_eps", "patch_size", "class_token", "pre_norm", "pool", "heads"),
    *("causal", "mask_padding", "eos_id", "norm"),
)
# Kinds of model whose text is always read from left to right.
_LEFT_TO_RIGHT = (CaptionerConfig, LSTMCaptionerConfig, CoCaConfig, PrefixLMConfig)


def read(params: Any, config: RunConfig) -> dict[str, jax.Array]:
    """Reads what `init_paths` names from `init_from`, straight to where it belongs.

    `init_from` is the workdir of a run, of whose latest checkpoint the moving average is taken where there is one, or a
    file, folder or `hf-hub:NAME` in OpenCLIP's, Hugging Face's or big_vision's format.

    Args:
      params: a tree of `jax.ShapeDtypeStruct`, to whose shardings the arrays are read.
      config: the run's config.

    Returns:
      Arrays by path.

    Raises:
      UserError: no checkpoint there, a pattern that matches nothing, a parameter that is missing or of another shape,
        or a scale of the logits above `model.max_logit_scale`.
    """
    flat = _by_path(params, config)
    names = list(flat)
    with contextlib.closing(_open(config.init_from, config.data.tokenizer)) as source:
        wanted = _choose(source, flat, config)
        arrays = source.read(wanted)
    remedy = " or leave the scale out of init_paths"
    validate_run.check_scale(config, arrays.get("logit_scale"), f"init_from={config.init_from!r}", remedy)
    log.info(f"took {len(wanted)} of {len(names)} parameter arrays from {source.description}")
    if _POSITIONS in arrays:
        old, new = (_patches(model) for model in (source.config.model, config.model))
        table = _for_resolution(arrays[_POSITIONS], old, new)
        arrays[_POSITIONS] = jax.device_put(table, flat[_POSITIONS].sharding)
    return arrays


def check(params: Any, config: RunConfig) -> None:
    """Checks that `read` would find what it takes; arguments and errors as there, but for values: none are read."""
    flat = _by_path(params, config)
    with contextlib.closing(_open(config.init_from, config.data.tokenizer)) as source:
        _choose(source, flat, config)


def _by_path(params: Any, config: RunConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """The parameters by path, of which every pattern in `init_paths` matches one."""
    flat = {partition.path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    for pattern in config.init_paths:
        if not any(re.fullmatch(pattern, name) for name in flat):
            raise UserError(f"init_paths={pattern!r} matches no parameter path, such as {next(iter(flat))!r}")
    return flat


def _choose(
    source: "_Source", flat: Mapping[str, jax.ShapeDtypeStruct], config: RunConfig
) -> dict[str, jax.ShapeDtypeStruct]:
    """What is read of a source, by path."""
    wanted = {}
    for name, leaf in flat.items():
        if not any(re.fullmatch(pattern, name) for pattern in config.init_paths):
            continue
        _check_same_function(source, config, name.split("/")[0])
        shape = source.shapes.get(name)
        if name == _POSITIONS and shape is not None and shape[1:] == leaf.shape[1:]:
            # A table for another resolution is read whole, and resampled by `read`.
            replicated = NamedSharding(leaf.sharding.mesh, PartitionSpec())
            wanted[name] = jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=replicated)
        elif shape == leaf.shape:
            wanted[name] = leaf
        else:
            reason = f"has shape {shape}" if shape is not None else "does not exist"
            raise UserError(
                f"init_from={config.init_from!r}: {name} {reason} there and has shape {leaf.shape} here;"
                " change the model, or leave it out with init_paths"
            )
    return wanted


@dataclasses.dataclass(frozen=True)
class _Source:
    """What parameters can be taken from.

    Attributes:
      description: its name in the log.
      config: what was trained there.
      shapes: of its parameters, by path.
      read: shapes with shardings by path -> arrays by path.
      close: releases it.
      tokenizer_file: reads the file of its tokenizer; None where the tokenizer has none.
    """

    description: str
    config: RunConfig
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[dict[str, jax.ShapeDtypeStruct]], dict[str, jax.Array]]
    close: Callable[[], None]
    tokenizer_file: Callable[[], bytes | None]


def _open(init_from: str, tokenizer: str) -> _Source:
    """Opens a workdir, or another library's checkpoint; a message's remedy names the run's tokenizer.

    Raises:
      UserError: it is neither, or holds no complete checkpoint.
    """
    if init_from.startswith(weights_path.HUB):
        return _open_other_library(init_from, tokenizer)
    path = paths.as_path(init_from)
    folder = path / "checkpoints"
    if folder.exists():
        return _open_workdir(init_from, folder)
    if not path.exists():
        raise UserError(
            f"init_from={init_from!r}: there is no {path}; give the workdir of a training run, or weights of OpenCLIP,"
            " Hugging Face or big_vision"
        )
    return _open_other_library(init_from, tokenizer)


def _open_workdir(init_from: str, folder: Any) -> _Source:
    source = checkpoint.Checkpoints(folder, read_only=True)
    try:
        step = source.latest()
        if step is None:
            raise UserError(f"init_from={init_from!r}: no complete checkpoint in {folder}")
        meta = source.read_meta(step)
        where = f"init_from={init_from!r}: {folder.name}/{step}"
        stored_meta.check(meta, where)
        origin = f"init_from={init_from!r}: the config of checkpoint {step}"
        config = schema.parse(resumed_run.read_config(meta, origin))
        stored_meta.check_sizes(config, origin)
        return _Source(
            description=f"step {step} of {init_from}",
            config=config,
            shapes=source.param_shapes(step),
            read=lambda wanted: param_translation.flattened(
                source.restore_params(step, param_translation.nested(wanted))
            ),
            close=source.close,
            tokenizer_file=lambda: stored_meta.read_tokenizer_file(meta, config, where),
        )
    except BaseException:
        source.close()
        raise


def _open_other_library(init_from: str, tokenizer: str) -> _Source:
    try:
        opened = foreign_checkpoint.open_checkpoint(init_from)
    except UserError as error:
        # A workdir has a tokenizer, and no flag --model-config is read here: what it makes can be started from.
        message = str(error).replace(" --to=mmjax ", f" --to=mmjax --tokenizer={shlex.quote(tokenizer)} ")
        more = "; then --config.init_from=DST" if message != str(error) else ""
        raise UserError(f"init_from: {message}{more}") from error

    def read(wanted):
        def put(name, array):
            return jax.make_array_from_callback(array.shape, wanted[name].sharding, lambda index: array[index])

        return opened.read(put, wanted.__contains__)

    return _Source(
        description=f"{init_from} ({foreign_checkpoint.FORMATS[opened.format]})",
        config=run_config.make_config(opened),
        shapes=opened.shapes,
        read=read,
        close=lambda: None,
        tokenizer_file=lambda: _file_of(opened.tokenizer),
    )


def _file_of(tokenizer: str) -> bytes | None:
    """The content of the file that `data.tokenizer` names, if it names one."""
    _, _, path = tokenizer.partition(":")
    return paths.as_path(path).read_bytes() if path and paths.as_path(path).exists() else None


def _patches(model: ModelConfig) -> PatchesConfig | StreamConfig:
    """The image tower of a model that has a position table for patches."""
    if isinstance(model, ImageTextConfig) and isinstance(model.image, (PatchesConfig, StreamConfig)):
        return model.image
    raise TypeError(f"model.kind={model.kind!r} has no table {_POSITIONS}")


def _for_resolution(
    table: jax.Array, old: PatchesConfig | StreamConfig, new: PatchesConfig | StreamConfig
) -> jax.Array:
    """Resamples an image tower's position table from one input size to another."""
    before, after = (tower.image_size // tower.patch_size for tower in (old, new))
    if before != after:
        log.info(f"resampled {_POSITIONS} from {before} x {before} to {after} x {after} patches")
    return positions.resample_positions(table, (before, before), (after, after), prefix=int(new.class_token))


def _check_same_function(source: _Source, new: RunConfig, part: str) -> None:
    """Checks that a tower's weights would compute here what they computed there.

    Raises:
      UserError: a field that no shape shows differs.
    """
    old, tower = source.config, part.removesuffix("_head")
    fields = ["data.mean_std"] if tower == "image" else []
    if tower == "text" and not _same_tokenizer(source, new):
        fields.append("data.tokenizer")
    different = [line for line in serialize.differences(old, new) if line.split(":")[0] in fields]
    if tower in ("image", "text") and all(isinstance(run.model, ImageTextConfig) for run in (old, new)):
        before, after = (_function(config.model, tower) for config in (old, new))
        shared = [field for field in _FUNCTION if field in before and field in after]
        different += [
            f"model.{tower}.{field}: {before[field]} -> {after[field]}"
            for field in shared
            if before[field] != after[field]
        ]
    if different:
        raise UserError(
            f"init_from={new.init_from!r} was trained with another setting ({'; '.join(different)}), with which its"
            " weights compute something else; use its value, or leave the tower out with init_paths"
        )


def _function(model: ModelConfig, tower: str) -> dict[str, Any]:
    """What a tower computes with its weights: its settings, and what it means where one of them is not there.

    A head's settings mean nothing where there is no such head.
    """
    if tower == "image":
        meant = {"pre_norm": not isinstance(model, ViLTConfig)}
    else:
        meant = {"causal": isinstance(model, _LEFT_TO_RIGHT), "norm": "pre"}
    settings = model_settings.resolve_eos_id(to_dict(getattr(model, tower)))
    return meant | {name: value for name, value in settings.items() if value is not None}


def _same_tokenizer(source: _Source, new: RunConfig) -> bool:
    """Whether two runs tokenize alike, whatever their files are called; weights may come without a tokenizer."""
    old, kind = source.config.data.tokenizer, new.data.tokenizer.partition(":")[0]
    if old in (run_config.NO_TOKENIZER, new.data.tokenizer):
        return True
    if old.partition(":")[0] != kind:
        return False
    files = source.tokenizer_file(), _file_of(new.data.tokenizer)
    return files[0] is not None and files[0] == files[1]


def replace(state: TrainState, taken: dict[str, jax.Array]) -> TrainState:
    """Puts arrays, by path, in the places of the parameters and of their moving average."""
    if not taken:
        return state
    params = partition.map_with_path(lambda path, x: taken.get(path, x), state.params)
    average = None if state.ema_params is None else jax.tree.map(jnp.copy, params)
    return state.replace(params=params, ema_params=average)
