"""`mmjax convert`: checkpoints between formats."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from mmjax import tasks
from mmjax.config import serialize
from mmjax.data.image.transforms import ImageSpec
from mmjax.errors import UserError, validate_choice
from mmjax.inference import checkpoint_source
from mmjax.interop import export, foreign_checkpoint, param_translation, run_config
from mmjax.io import paths
from mmjax.training import checkpoint
from mmjax.training.state import TrainState

FORMATS = ("mmjax", *export.FORMATS)


# -- convert -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Loaded:
    """A model on its way from one format to another: what a checkpoint holds."""

    config: Any
    params: Any
    preprocessing: Mapping[str, Any]
    tokenizer: str
    tokenizer_file: bytes | None


def convert(
    src: Any,
    dst: Any,
    *,
    to: str,
    step: int | None = None,
    tokenizer: str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> None:
    """Reads a model and writes it in another format.

    Args:
      src: see `mmjax.load`.
      dst: a folder that is missing or empty.
      to: one of `FORMATS`.
      step: checkpoint of a workdir.
      tokenizer: as `data.tokenizer` has it; what `src` has by default.
      changes: settings that the source does not tell, see `interop.model_settings.apply`.

    Raises:
      UserError: `src` cannot be read, or `to` has no such model.
    """
    validate_choice("--to", to, FORMATS)
    target = paths.as_path(dst)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"DST={dst} is there already; give a new folder")
    if to != "mmjax" and paths.scheme(dst):
        raise UserError(f"DST={dst}: the files of other libraries are written to a local disk")
    loaded = _load(src, step, changes or {}, tokenizer, needs_tokenizer=to == "mmjax")
    if to == "mmjax":
        _write_workdir(target, loaded)
        print(f"{dst}: a workdir; mmjax eval --workdir={dst} --config.data.eval=..., or --config.init_from={dst}")
        return
    files = export.write(
        Path(target),
        to,
        settings=loaded.config.model.to_dict(),
        preprocessing=loaded.preprocessing,
        params=param_translation.flattened(loaded.params),
        tokenizer=(loaded.tokenizer, loaded.tokenizer_file),
    )
    for file in files:
        print(f"{file}  {file.stat().st_size:,} bytes")
    if to != "big_vision" and not loaded.preprocessing.get("antialias", True):
        print("note: images were resized without antialiasing; these files say bicubic with it, as Google's own do")
    if loaded.tokenizer == "bytes" and loaded.tokenizer_file is None:
        print("note: neither library has the tokenizer 'bytes'; give the model token ids")


def _load(src, step, changes, tokenizer, *, needs_tokenizer) -> _Loaded:
    if checkpoint_source.is_workdir(src):
        if changes:
            raise UserError(f"--set {next(iter(changes))}: the run in {src} has its own config")
        config, meta, params = checkpoint_source.read_workdir(src, step, "--step", check=_check_kind)
        file = checkpoint.tokenizer_file(meta)
        if tokenizer is not None:
            config.data.tokenizer, file = tokenizer, None
        return _Loaded(config, params, meta["preprocessing"], config.data.tokenizer, file)
    if step is not None:
        raise UserError(f"--step={step}: {src} is not the workdir of a run")
    found = foreign_checkpoint.open_source(src, changes)
    config = run_config.make_config(found)
    if tokenizer is not None:
        config.data.tokenizer = tokenizer
    if needs_tokenizer:
        run_config.check_named(config, found)
        if config.data.tokenizer == run_config.NO_TOKENIZER:
            raise UserError(
                f"{found.path}: no tokenizer lies beside it, and a workdir has one; give"
                " --tokenizer=sentencepiece:FILE or json:FILE"
            )
    named = "" if config.data.tokenizer == run_config.NO_TOKENIZER else config.data.tokenizer
    file = tasks.make_tokenizer(config).file_bytes if named else None
    params = param_translation.nested(found.read(lambda _, array: array))
    return _Loaded(config, params, found.preprocessing, named, file)


def _check_kind(config: Any) -> None:
    """Checks that other libraries' formats have such a model.

    Raises:
      UserError: they have not.
    """
    kind = config.model.get("kind", "two_tower")
    if kind != "two_tower":
        raise UserError(
            f"model.kind={kind!r}: the formats are for two towers; mmjax.load and config.init_from read this workdir"
        )


def _write_workdir(target: Any, loaded: _Loaded) -> None:
    """Writes what a run would have left at step 0, without an optimizer's state."""
    config = loaded.config
    config.steps, config.data.train = 1, ""  # nothing was trained; `training.validate_run` knows it by this
    image_spec = ImageSpec(**loaded.preprocessing)
    tokenizer = tasks.make_tokenizer(config, file=loaded.tokenizer_file)
    tasks.check_model(config)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=jax.tree.map(jnp.asarray, loaded.params),
        opt_state=(),
        ema_params=None,
        rng=jax.random.key_data(jax.random.key(config.seed)),
        first_bad_step=jnp.full((), -1, jnp.int32),
    )
    paths.make_folder(target, "DST")
    paths.write_atomically(target / "config.json", serialize.to_json(config))
    checkpoints = checkpoint.Checkpoints(target / "checkpoints", keep=1)
    try:
        meta = checkpoint.make_meta(config, 0, image_spec, tokenizer, bad_examples={}, evaluated=False)
        checkpoints.save(0, state, meta)
        checkpoints.wait()
    finally:
        checkpoints.close()
