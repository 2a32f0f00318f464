"""What a run can start from: another run's workdir, weights of other libraries, one of their towers."""

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from mmjax.config import schema, serialize
from mmjax.config.schema import RunConfig
from mmjax.data.audio import log_mel
from mmjax.errors import UserError
from mmjax.interop import (
    foreign_checkpoint,
    lone_bert,
    media_configs,
    media_preparation,
    media_towers,
    param_translation,
    run_config,
    weights_path,
)
from mmjax.io import paths
from mmjax.training import checkpoint, init_towers, lora_base, resumed_run, stored_meta
from mmjax.training.init_towers import Tower

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Source:
    """What parameters can be taken from.

    Attributes:
      description: its name in the log.
      towers: its encoders.
      data: how its inputs were prepared, by field of the config; of what is not known, nothing.
      shapes: of its parameters, by path.
      read: shapes with shardings by path -> arrays by path.
      close: releases it.
      tokenizer_file: reads the file of its tokenizer; None where the tokenizer has none.
      lacks: patterns of parameters within a model's tower that no such source has: they stay fresh.
      unread: what messages say is left there beside parameters.
      heads: paths of parameters that are a classifier's, and taken by `init_map` alone.
      facts: of the data that it was trained on, as a checkpoint has them; empty where they are not known.
    """

    description: str
    towers: Sequence[Tower]
    data: Mapping[str, Any]
    shapes: Shapes
    read: Callable[[dict[str, jax.ShapeDtypeStruct]], dict[str, jax.Array]]
    close: Callable[[], None]
    tokenizer_file: Callable[[], bytes | None]
    lacks: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def open_source(new: RunConfig) -> Source:
    """Opens what a run's `init_from` names: a workdir, or weights of another library.

    Raises:
      UserError: it is neither, or holds no complete checkpoint.
    """
    init_from = new.init_from
    if init_from.startswith(weights_path.HUB):
        return _open_other_library(new)
    path = paths.as_path(init_from)
    folder = path / "checkpoints"
    if folder.exists():
        return _open_workdir(init_from, folder)
    if not path.exists():
        raise UserError(
            f"init_from={init_from!r}: there is no {path}; give the workdir of a training run, or weights of OpenCLIP,"
            " Hugging Face or big_vision"
        )
    return _open_other_library(new)


def data_of(config: RunConfig) -> dict[str, Any]:
    """How a run prepares the inputs of its towers, by field."""
    flat = serialize.flatten(config)
    result = {name: flat[name] for name in ("data.mean_std", "data.tokenizer")}
    kinds = [tower.kind for tower in init_towers.towers(config.model)]
    preset = flat["data.audio.preset"] or ("whisper" if "whisper" in kinds else "ast")
    rate = flat["data.audio.sample_rate"] or log_mel.preset(preset).sample_rate
    return result | {"data.audio.preset": preset, "data.audio.sample_rate": rate}


def _open_workdir(init_from: str, folder: Any) -> Source:
    stored = checkpoint.Checkpoints(folder, read_only=True)
    try:
        step = stored.latest()
        if step is None:
            raise UserError(f"init_from={init_from!r}: no complete checkpoint in {folder}")
        meta = stored.read_meta(step)
        where = f"init_from={init_from!r}: {folder.name}/{step}"
        stored_meta.check(meta, where)
        origin = f"init_from={init_from!r}: the config of checkpoint {step}"
        config = schema.parse(resumed_run.read_config(meta, origin))
        stored_meta.check_sizes(config, origin)
        return Source(
            description=f"step {step} of {init_from}",
            towers=init_towers.towers(config.model),
            data=data_of(config),
            shapes=lora_base.param_shapes(init_from, stored, step, meta, config.optimizer),
            read=lambda wanted: lora_base.read_params(init_from, stored, step, meta, config.optimizer, wanted),
            close=stored.close,
            tokenizer_file=lambda: stored_meta.read_tokenizer_file(meta, config, where),
            facts=meta.get("facts", {}),
        )
    except BaseException:
        stored.close()
        raise


def _open_other_library(new: RunConfig) -> Source:
    init_from, tokenizer = new.init_from, new.data.tokenizer
    try:
        if media_towers.is_tower(init_from):
            return _open_tower(init_from)
        if lone_bert.is_bert(init_from):
            return _open_bert(new)
        opened = foreign_checkpoint.open_checkpoint(init_from)
    except UserError as error:
        # A workdir has a tokenizer, and no flag --model-config is read here: what it makes can be started from.
        message = str(error).replace(" --to=mmjax ", f" --to=mmjax --tokenizer={shlex.quote(tokenizer)} ")
        more = "; then --config.init_from=DST" if message != str(error) else ""
        raise UserError(f"init_from: {message}{more}") from error
    config = run_config.make_config(opened)
    return Source(
        description=f"{init_from} ({foreign_checkpoint.FORMATS[opened.format]})",
        towers=init_towers.towers(config.model),
        data=data_of(config),
        shapes=opened.shapes,
        read=_reader(opened),
        close=lambda: None,
        tokenizer_file=lambda: file_of(opened.tokenizer),
    )


def _open_tower(init_from: str) -> Source:
    """Opens a folder of transformers with a tower of videos or sounds."""
    opened = media_towers.open_tower(init_from)
    return Source(
        description=f"{init_from} ({media_configs.FORMATS[opened.format].name})",
        towers=[
            Tower(slot, settings.get("kind", "words"), slot, {"causal": True, "norm": "pre"} | settings)
            for slot, settings in opened.settings.items()
        ],
        data=media_preparation.read_preparation(opened.path.parent, opened.format, opened.settings),
        shapes=opened.shapes,
        read=_reader(opened),
        close=lambda: None,
        tokenizer_file=lambda: None,
        heads=tuple(path for path in opened.shapes if path.startswith(("head/", "head_norm/"))),
    )


def _open_bert(new: RunConfig) -> Source:
    """Opens a folder of transformers with a BERT alone."""
    opened = lone_bert.open_bert(new.init_from, new.model)
    return Source(
        description=f"{new.init_from} ({lone_bert.NAME})",
        towers=[Tower("text", "text", "text", opened.settings)],
        data={"data.tokenizer": opened.tokenizer or run_config.NO_TOKENIZER},
        shapes=opened.shapes,
        read=_reader(opened),
        close=lambda: None,
        tokenizer_file=lambda: file_of(opened.tokenizer),
        lacks=opened.fresh,
        unread=opened.unread,
    )


def _reader(opened: param_translation.TranslatedTensors):
    def read(wanted):
        def put(name, array):
            return jax.make_array_from_callback(array.shape, wanted[name].sharding, lambda index: array[index])

        return opened.read(put, wanted.__contains__)

    return read


def file_of(tokenizer: str) -> bytes | None:
    """The content of the file that `data.tokenizer` names, if it names one."""
    _, _, path = tokenizer.partition(":")
    return paths.as_path(path).read_bytes() if path and paths.as_path(path).exists() else None
