"""Conversion of checkpoints between formats."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from mmjax import tasks
from mmjax.config import serialize
from mmjax.config.typed_groups import to_dict
from mmjax.errors import UserError, validate_choice
from mmjax.inference import checkpoint_source
from mmjax.interop import export, exported_tokenizers, run_config
from mmjax.io import paths
from mmjax.models.config import TwoTowerConfig
from mmjax.parallel import partition
from mmjax.training import checkpoint
from mmjax.training.config import CheckpointConfig, LoraConfig
from mmjax.training.state import TrainState
from mmjax.utils import terminal

FORMATS = ("mmjax", *export.FORMATS)


def convert(
    src: Any,
    dst: Any,
    *,
    to: str,
    step: int | None = None,
    tokenizer: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Reads a model and writes it in another format.

    Args:
      src: see `mmjax.load`.
      dst: a folder that is missing or empty.
      to: one of `FORMATS`.
      step: checkpoint of a workdir.
      tokenizer: as `data.tokenizer` has it; what `src` has by default.
      settings: those that the source does not hold, see `interop.model_settings.apply_overrides`.

    Raises:
      UserError: `src` cannot be read, or `to` has no such model.
    """
    validate_choice("--to", to, FORMATS)
    target = check_target(dst, is_local=to != "mmjax")
    opened = checkpoint_source.open_checkpoint(src, step=step, tokenizer=tokenizer, settings=settings, from_flags=True)
    opened.log_notes()
    preprocessing = _check_convertible(opened, to)
    if to == "mmjax":
        _write_workdir(target, opened)
        terminal.show(
            f"{dst}: a workdir; mmjax eval --workdir={dst} --config.data.eval=..., or --config.init_from={dst}"
        )
        return
    words = opened.tokenizer if opened.has_tokenizer else None
    files = export.write(
        Path(target),
        to,
        settings=to_dict(opened.config.model),
        preprocessing=preprocessing,
        params=partition.flattened(opened.read_unsharded()),
        tokenizer=words,
    )
    for file in files:
        terminal.show(f"{file}  {file.stat().st_size:,} bytes")
    if to != "big_vision" and not preprocessing.get("antialias", True):
        terminal.show(
            "note: images were resized without antialiasing; these files have bicubic with it, as Google's own do"
        )
    if words is not None and to != "big_vision":
        for note in exported_tokenizers.notes(words, to):
            terminal.show(f"note: {note}")


def check_target(dst: Any, *, is_local: bool) -> Any:
    """The path of a folder that files can be written to: it is missing or empty, and where asked for on a local disk.

    Raises:
      UserError: it is not.
    """
    target = paths.as_path(dst)
    if is_local and paths.scheme(dst):
        raise UserError(f"DST={dst}: files for other programs are written to a local disk; give a folder there")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"DST={dst} is there already; give a new folder")
    return target


def _check_convertible(opened: checkpoint_source.OpenedCheckpoint, to: str) -> Mapping[str, Any]:
    """How images are prepared for a model that the formats of other libraries, or a workdir, can hold.

    Raises:
      UserError: they cannot.
    """
    model, preprocessing = opened.config.model, opened.preprocessing
    if preprocessing is None or not isinstance(model, TwoTowerConfig):
        raise UserError(
            f"model.kind={model.kind!r}: the formats are for two towers; mmjax.load and config.init_from read this"
            " workdir"
        )
    if to == "mmjax" and isinstance(opened, checkpoint_source.ForeignWeights):
        run_config.check_named(opened.config, opened.foreign)
        if not opened.has_tokenizer:
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
