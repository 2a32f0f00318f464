"""`mmjax convert`: checkpoints between formats."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from mmjax import cli, opened, storage, tasks
from mmjax import config as config_lib
from mmjax.data.images import ImageSpec
from mmjax.errors import UserError, choose
from mmjax.interop import configs, export, source, translate
from mmjax.interop import settings as settings_lib
from mmjax.training import checkpoint
from mmjax.training.state import TrainState

FORMATS = ("mmjax", *export.FORMATS)


def convert_main(argv: Sequence[str] | None = None) -> int:
    """`convert SRC DST --to={mmjax,openclip,hf,big_vision} [--step=N] [--tokenizer=SPEC] [--set FIELD=VALUE ...]`."""
    parser = cli.make_parser(
        "convert",
        "Writes a model in another format. SRC: a workdir, a file or folder of OpenCLIP (and OpenAI), Hugging Face or"
        " big_vision, or hf-hub:NAME. To mmjax: a workdir that `mmjax eval` and config.init_from read.",
    )
    parser.epilog = None
    parser.add_argument("src", metavar="SRC")
    parser.add_argument("dst", metavar="DST", help="folder, made here")
    parser.add_argument("--to", required=True, metavar="FORMAT", help=" | ".join(FORMATS))
    parser.add_argument("--step", type=int, help="checkpoint of a workdir; the latest by default")
    parser.add_argument("--tokenizer", metavar="SPEC", help="clip, bytes, sentencepiece:FILE, json:FILE; as SRC has it")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="what SRC does not tell, e.g. activation=quick_gelu or image.heads=16",
    )

    def command(options, overrides):
        no_overrides(overrides)
        convert(
            options.src,
            options.dst,
            to=options.to,
            step=options.step,
            tokenizer=options.tokenizer,
            changes=settings_lib.parse(options.set),
        )
        return 0

    return cli.run(parser, argv, command)


def no_overrides(overrides: Sequence[tuple[str, str]]) -> None:
    """Refuses `--config.FIELD=VALUE`."""
    if overrides:
        raise UserError(
            f"--config.{overrides[0][0]}: there is no config here; use --set for what the file does not tell"
        )


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
      changes: settings that the source does not tell, see `interop.settings.apply`.

    Raises:
      UserError: `src` cannot be read, or `to` has no such model.
    """
    choose("--to", to, FORMATS)
    target = storage.as_path(dst)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"DST={dst} is there already; give a new folder")
    if to != "mmjax" and storage.scheme(dst):
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
        params=translate.flattened(loaded.params),
        tokenizer=(loaded.tokenizer, loaded.tokenizer_file),
    )
    for file in files:
        print(f"{file}  {file.stat().st_size:,} bytes")
    if to != "big_vision" and not loaded.preprocessing.get("antialias", True):
        print("note: images were resized without antialiasing; these files say bicubic with it, as Google's own do")
    if loaded.tokenizer == "bytes" and loaded.tokenizer_file is None:
        print("note: neither library has the tokenizer 'bytes'; give the model token ids")


def _load(src, step, changes, tokenizer, *, needs_tokenizer) -> _Loaded:
    if opened.is_workdir(src):
        if changes:
            raise UserError(f"--set {next(iter(changes))}: the run in {src} has its own config")
        config, meta, params = opened.read_workdir(src, step, "--step", check=_check_kind)
        file = checkpoint.tokenizer_file(meta)
        if tokenizer is not None:
            config.data.tokenizer, file = tokenizer, None
        return _Loaded(config, params, meta["preprocessing"], config.data.tokenizer, file)
    if step is not None:
        raise UserError(f"--step={step}: {src} is not the workdir of a run")
    found = source.open_source(src, changes)
    config = configs.make_config(found)
    if tokenizer is not None:
        config.data.tokenizer = tokenizer
    if needs_tokenizer:
        configs.check_named(config, found)
        if config.data.tokenizer == configs.NO_TOKENIZER:
            raise UserError(
                f"{found.path}: no tokenizer lies beside it, and a workdir has one; give"
                " --tokenizer=sentencepiece:FILE or json:FILE"
            )
    named = "" if config.data.tokenizer == configs.NO_TOKENIZER else config.data.tokenizer
    file = tasks.make_tokenizer(config).file_bytes if named else None
    params = translate.nested(found.read(lambda _, array: array))
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
    config.steps, config.data.train = 1, ""  # nothing was trained; `training.checks` knows it by this
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
    storage.make_folder(target, "DST")
    storage.write_atomically(target / "config.json", config_lib.to_json(config))
    checkpoints = checkpoint.Checkpoints(target / "checkpoints", keep=1)
    try:
        meta = checkpoint.make_meta(config, 0, image_spec, tokenizer, bad_examples={}, evaluated=False)
        checkpoints.save(0, state, meta)
        checkpoints.wait()
    finally:
        checkpoints.close()
