"""Conversion of checkpoints between formats."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from mmjax import tasks
from mmjax.config import serialize
from mmjax.config.typed_groups import to_dict
from mmjax.errors import UserError, validate_choice
from mmjax.inference import checkpoint_source
from mmjax.interop import export, exported_tokenizers, openclip_image, openclip_text, run_config
from mmjax.io import paths
from mmjax.models.config import CoCaConfig, TwoTowerConfig
from mmjax.parallel import partition
from mmjax.tasks import config_queries
from mmjax.training import checkpoint
from mmjax.training.config import CheckpointConfig, LoraConfig
from mmjax.training.state import TrainState
from mmjax.utils import terminal

FORMATS = ("mmjax", *export.FORMATS)
_POSITIONS = "text/position_embedding"


def convert(
    src: Any,
    dst: Any,
    *,
    to: str,
    architecture: str = "",
    step: int | None = None,
    tokenizer: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Reads a model and writes it in another format.

    Args:
      src: see `mmjax.load`.
      dst: a folder that is missing or empty.
      to: one of `FORMATS`.
      architecture: the class of transformers that a part of the model is written for; "" for the model's own.
      step: checkpoint of a workdir.
      tokenizer: as `data.tokenizer` has it; what `src` has by default.
      settings: those that the source does not hold, see `interop.model_settings.apply_overrides`.

    Raises:
      UserError: `src` cannot be read, or `to` has no such model.
    """
    validate_choice("--to", to, FORMATS)
    if architecture and to != "hf":
        raise UserError(f"--architecture={architecture} is a class of transformers, and --to={to}; give --to=hf")
    if to == "mmjax":
        target = paths.as_path(dst)
        paths.check_empty(target, dst, "DST")
        opened = checkpoint_source.open_source(src, step=step, tokenizer=tokenizer, settings=settings)
        check_convertible(opened, to)
        _write_workdir(target, opened)
        terminal.show(
            f"{dst}: a workdir; mmjax eval --workdir={dst} --config.data.eval=..., or --config.init_from={dst}"
        )
        return
    with paths.new_folder(dst, "DST") as folder:
        opened = checkpoint_source.open_source(src, step=step, tokenizer=tokenizer, settings=settings)
        notes = write_files(opened, folder, to, architecture)
    show_files(dst, notes)


def write_files(opened: checkpoint_source.OpenedCheckpoint, folder: Path, to: str, architecture: str = "") -> list[str]:
    """Writes a model in another library's format; returns what is otherwise there, a line each.

    Raises:
      UserError: the format has no such model.
    """
    preprocessing = check_convertible(opened, to)
    words = opened.tokenizer if opened.has_tokenizer else None
    settings, params, notes = to_dict(opened.config.model), partition.flattened(opened.read_unsharded()), []
    has_text = config_queries.has_text(opened.config)
    length = config_queries.text_length(opened.config) if has_text else 0
    longest = settings["text"]["context_length"] if has_text else 0
    is_cut = isinstance(opened.config.model, TwoTowerConfig) and length < longest
    if is_cut and not openclip_text.writes_hugging_face(
        settings["text"]
    ):  # the run's texts are shorter than its table, which those libraries would fill
        settings["text"]["context_length"] = length
        params[_POSITIONS] = params[_POSITIONS][:length]
        notes.append(f"texts have the run's {length} tokens, not the {longest} that the model's table has")
    export.write(
        folder,
        to,
        settings=settings,
        preprocessing=preprocessing,
        params=params,
        tokenizer=words,
        answers=opened.metadata.answers or opened.metadata.class_names,
        text_length=length,
        architecture=architecture,
    )
    if to == "openclip" and isinstance(opened.config.model, TwoTowerConfig):
        notes += openclip_image.notes(settings["image"])
    if to != "big_vision" and not preprocessing.get("antialias", True):
        notes.append("images were resized without antialiasing; these files have bicubic with it, as Google's own do")
    return notes + (exported_tokenizers.notes(words, to) if words is not None and to != "big_vision" else [])


def show_files(dst: Any, notes: Sequence[str]) -> None:
    """Prints the files of a folder with their sizes, and notes."""
    for file in sorted(Path(paths.as_path(dst)).iterdir()):
        terminal.show(f"{file}  {file.stat().st_size:,} bytes")
    for note in notes:
        terminal.show(f"note: {note}")


def check_convertible(opened: checkpoint_source.OpenedCheckpoint, to: str) -> Mapping[str, Any]:
    """How images are prepared for a model that the formats of other libraries, or a workdir, can hold.

    Raises:
      UserError: they cannot.
    """
    model, preprocessing = opened.config.model, opened.preprocessing
    from_others = to == "mmjax" and isinstance(opened, checkpoint_source.ForeignWeights)
    is_coca = to == "openclip" and isinstance(model, CoCaConfig) and model.image is not None
    if preprocessing is None or (
        to != "hf" and not isinstance(model, TwoTowerConfig) and not from_others and not is_coca
    ):
        remedy = "mmjax.load and config.init_from read this workdir"
        raise UserError(f"model.kind={model.kind!r}: --to={to} is for two towers; --to=hf has others, and {remedy}")
    if to == "mmjax" and isinstance(opened, checkpoint_source.ForeignWeights):
        run_config.check_named(opened.config, opened.foreign)
        if not opened.has_tokenizer and config_queries.has_text(opened.config):
            raise UserError(
                f"{opened.foreign.path}: no tokenizer lies beside it, and a workdir has one; give"
                " --tokenizer=sentencepiece:FILE or json:FILE"
            )
    return preprocessing


def _write_workdir(target: Any, opened: checkpoint_source.OpenedCheckpoint) -> None:
    """Writes what a run would have left at step 0, without an optimizer's state."""
    # Nothing was trained; `training.validate_run` knows it by this.
    data = dataclasses.replace(opened.config.data, train="")
    optimizer = dataclasses.replace(opened.config.optimizer, lora=LoraConfig())  # merged
    config = dataclasses.replace(opened.config, steps=1, data=data, optimizer=optimizer)
    tokenizer = opened.tokenizer
    tasks.check_model(config)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=jax.tree.map(jnp.asarray, opened.read_unsharded()),
        opt_state=(),
        ema_params=None,
        rng=jax.random.key_data(jax.random.key(config.seed)),
        first_bad_step=jnp.full((), -1, jnp.int32),
    )
    paths.make_folder(target, "DST")
    paths.write_atomically(target / "config.json", serialize.to_json(config))
    checkpoints = checkpoint.Checkpoints(target / "checkpoints", CheckpointConfig(keep=1))
    try:
        meta = checkpoint.make_meta(config, 0, opened.image_spec, tokenizer, bad_examples={}, evaluated=False)
        checkpoints.save(0, state, meta)
        checkpoints.wait()
    finally:
        checkpoints.close()
