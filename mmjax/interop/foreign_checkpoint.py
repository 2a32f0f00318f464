"""Opening a checkpoint of another library: what it is, and everything needed to run it, before any number is read."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.errors import UserError
from mmjax.interop import (
    big_vision,
    huggingface,
    model_settings,
    openclip,
    openclip_bare,
    param_names,
    param_translation,
    published_towers,
    refusals,
    tokenizer_files,
)
from mmjax.interop import preprocessing as preprocessing_lib
from mmjax.interop.json_file import read_json
from mmjax.interop.param_names import Row
from mmjax.interop.tensor_files import WEIGHTS, Tensors, open_tensors
from mmjax.io import paths

HUB = "hf-hub:"
FORMATS = {
    "openclip": "OpenCLIP",
    "hf-clip": "Hugging Face's CLIPModel",
    "hf-siglip": "Hugging Face's SiglipModel",
    "big_vision": "big_vision",
}
# Where each library puts what; the first that is there is taken.
_OPENCLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors")
_HF_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_OPENCLIP_CONFIG, _HF_CONFIG = "open_clip_config.json", "config.json"
_HF_TOKENIZER = "tokenizer_config.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A checkpoint of another library, opened and checked; its arrays are read when asked for.

    Attributes:
      path: of the file with the arrays.
      name: what a person calls it: the model's on the Hub, its folder's or its file's.
      format: a key of `FORMATS`.
      settings: of the two-tower model, as in `mmjax.models.variants.two_tower`.
      preprocessing: fields of `transforms.ImageSpec`: `size`, `resize`, `interpolation`, `mean`, `std`, `image_rule`.
      tokenizer: as `data.tokenizer` has it; empty where none is known.
      config_file: where the settings come from; None where they come from shapes.
      tensors, rows, shapes: the arrays, the table's rows and our parameters' shapes.
    """

    path: Path
    name: str
    format: str
    settings: dict[str, Any]
    preprocessing: dict[str, Any]
    tokenizer: str
    config_file: Path | None
    tensors: Tensors
    rows: list[Row]
    shapes: dict[str, tuple[int, ...]]

    def read(
        self, place: Callable[[str, np.ndarray], Any], wanted: Callable[[str], bool] = lambda path: True
    ) -> dict[str, Any]:
        """Reads parameters one by one; see `param_translation.read`."""
        return param_translation.read(self.tensors, self.rows, self.shapes, place, wanted)


def open_source(path: Any, changes: Mapping[str, Any] | None = None) -> Source:
    """Opens a checkpoint in OpenCLIP's, Hugging Face's or big_vision's format.

    Args:
      path: a file, a folder, or `hf-hub:NAME`.
      changes: settings that a person gave, such as `{"activation": "quick_gelu"}`; see `model_settings.apply`.

    Raises:
      UserError: missing, damaged, unsafe, of another kind of model, or with settings that cannot be told.
    """
    given, path = str(path), fetch(path)
    weights = weights_in(path) if path.is_dir() else path
    tensors = _plain_names(open_tensors(weights))
    form = _recognise(tensors)
    if form == "big_vision":
        tensors = big_vision.normalised(tensors)
    folder = weights.parent
    config_file = folder / (_OPENCLIP_CONFIG if form == "openclip" else _HF_CONFIG)
    config = read_json(config_file) if form != "big_vision" and config_file.is_file() else None
    if form.startswith("hf-") and config is not None:
        form = f"hf-{huggingface.family_of(config, config_file)}"
    read = {"openclip": _openclip, "hf-clip": _hugging_face, "hf-siglip": _hugging_face, "big_vision": _big_vision}
    try:
        settings, table, prepared, tokenizer = read[form](tensors, form, config, config_file)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        told = f"{type(error).__name__}: {error}"
        raise UserError(f"{config_file}: not a config of {FORMATS[form]} ({told}); fetch it again") from error
    told_by = weights if config is None else config_file
    model_settings.apply(settings, changes or {}, None if config is None else config_file)
    model_settings.finish(settings, told_by)
    shapes = param_translation.param_shapes(settings)
    rows = param_translation.select(table, shapes, FORMATS[form])
    param_translation.check(tensors, rows, shapes)
    return Source(
        path=weights,
        name=given.removeprefix(HUB) if given.startswith(HUB) else path.resolve().name if path.is_dir() else path.stem,
        format=form,
        settings=settings,
        preprocessing=prepared | {"size": settings["image"]["image_size"]},
        tokenizer=tokenizer,
        config_file=config_file if config is not None else None,
        tensors=tensors,
        rows=rows,
        shapes=shapes,
    )


def fetch(path: Any) -> Path:
    """Makes a path local: `hf-hub:NAME` is fetched by huggingface_hub.

    Raises:
      UserError: no such path, or the package is not installed.
    """
    text = str(path)
    if text.startswith(HUB):
        return _fetch_from_hub(text.removeprefix(HUB))
    if paths.scheme(path):
        raise UserError(f"{path}: weights of other libraries are read from a local disk; copy them there first")
    local = Path(text).expanduser()
    if not local.exists():
        raise UserError(f"{path}: there is no such file or folder; give a path, or hf-hub:NAME for a model of the Hub")
    return local


def _fetch_from_hub(name: str) -> Path:
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(f"{HUB}{name}: needs the package huggingface_hub; pip install huggingface_hub") from error
    try:
        files = huggingface_hub.list_repo_files(name)
        wanted = [file for file in files if "/" not in file and file.endswith((".json", ".model", ".txt"))]
        weights = [file for file in (*_OPENCLIP_FILES[:1], *_HF_FILES, *_OPENCLIP_FILES) if file in files]
        weights += [file for file in files if "/" not in file and file.endswith(WEIGHTS)]
        if not weights:
            raise UserError(f"{HUB}{name}: holds no weights in a format that mmjax reads ({', '.join(WEIGHTS)})")
        shards = [file for file in files if weights[0].endswith(".index.json") and file.endswith(WEIGHTS)]
        patterns = [*wanted, weights[0], *shards]
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns))
    except UserError:
        raise
    except Exception as error:  # the package raises its own, the network's and the operating system's
        told = (str(error).splitlines() or [""])[0]
        raise UserError(f"{HUB}{name}: could not be fetched ({type(error).__name__}: {told})") from error


def weights_in(folder: Path) -> Path:
    """The file of weights in a folder.

    Raises:
      UserError: there is none, or one of several would have to be guessed.
    """
    if (folder / _OPENCLIP_CONFIG).is_file():
        names = [name for name in _OPENCLIP_FILES if (folder / name).is_file()]
        # model.safetensors is Hugging Face's where its config lies there too.
        if names and not (names[0] == _HF_FILES[0] and (folder / _HF_CONFIG).is_file()):
            return folder / names[0]
    for name in (*_HF_FILES, *_OPENCLIP_FILES):
        if (folder / name).is_file():
            return folder / name
    found = sorted(file.name for file in folder.iterdir() if file.suffix in WEIGHTS)
    if len(found) == 1:
        return folder / found[0]
    if not found:
        raise UserError(f"{folder}: holds neither a run's checkpoints nor a file of weights ({', '.join(WEIGHTS)})")
    raise UserError(f"{folder}: holds several files of weights ({', '.join(found)}); give the path of one of them")


_NESTED = ("state_dict.", "model_state_dict.", "model.")  # the first that is there holds the model


def _plain_names(tensors: Tensors) -> Tensors:
    """Without what trainers put around the names: where the model lies, `module.` (DDP), `_orig_mod.` (compiled)."""
    around = next((part for part in _NESTED if any(name.startswith(part) for name in tensors)), "")

    def rename(name):
        if not name.startswith(around):
            return None  # the optimizer's
        return name.removeprefix(around).replace("_orig_mod.", "").removeprefix("module.")

    return tensors.renamed(rename)


# What a file's names say about its format: all of these are there.
_SIGNS = {
    "hf-siglip": ("vision_model.head.probe", "text_model.head.weight"),
    "hf-clip": ("vision_model.embeddings.class_embedding", "visual_projection.weight", "text_projection.weight"),
    "openclip": ("visual.conv1.weight", "visual.positional_embedding"),
}


def _recognise(tensors: Tensors) -> str:
    refusals.check(tensors)
    for form, names in _SIGNS.items():
        if all(name in tensors for name in names):
            return form
    if "visual.trunk.patch_embed.proj.weight" in tensors:
        return "openclip"
    if any(name.removeprefix("params/").startswith("img/embedding/") for name in tensors):
        return "big_vision"
    if (tensors.path.parent / f"{tensors.path.name.split('-')[0]}.safetensors.index.json").is_file():
        raise UserError(f"{tensors.path}: one of several files of a model; give their folder, {tensors.path.parent}")
    shown = ", ".join(list(tensors)[:3]) or "none at all"
    raise UserError(
        f"{tensors.path}: not a CLIP or SigLIP of OpenCLIP, Hugging Face or big_vision; its parameters are {shown} ..."
    )


# -- each format -------------------------------------------------------------------------------------------------------


def _openclip(tensors, form, config, config_file):
    naming = openclip.naming_of(tensors)
    if config is None:
        settings = openclip_bare.from_shapes(tensors, naming)
        text = published_towers.tokenizer(settings["text"]["vocab_size"])
        prepared = preprocessing_lib.defaults(not naming.timm, "open_clip")
    else:
        settings = openclip.from_config(config, config_file)
        prepared = preprocessing_lib.from_openclip(config, settings["image"]["image_size"], config_file)
        text = config.get("model_cfg", config)["text_cfg"]
    vocab = settings["text"]["vocab_size"]
    return settings, naming.table, prepared, tokenizer_files.openclip_tokenizer(config_file.parent, text, vocab)


def _hugging_face(tensors, form, config, config_file):
    family = form.removeprefix("hf-")
    if config is None:
        settings, size = huggingface.from_shapes(tensors, family), None
    else:
        settings = huggingface.from_config(config, config_file)
        size = settings["image"]["image_size"]
    prepared = preprocessing_lib.defaults(family == "clip", "huggingface")
    told = preprocessing_lib.hf_file(config_file.parent)
    if told is not None:
        prepared = preprocessing_lib.from_hf(told[1], family, size, told[0])
    if family == "clip" and settings["text"]["vocab_size"] == tokenizer_files.CLIP_VOCAB:
        return settings, huggingface.table(family), prepared, "clip"
    told = config_file.parent / _HF_TOKENIZER
    called = (read_json(told) if told.is_file() else {}).get("tokenizer_class", "")
    tokenizer = tokenizer_files.tokenizer(config_file.parent, called, settings["text"]["vocab_size"])
    return settings, huggingface.table(family), prepared, tokenizer


def _big_vision(tensors, form, config, config_file):
    settings = big_vision.from_shapes(tensors)
    tokenizer = tokenizer_files.tokenizer(config_file.parent, "", settings["text"]["vocab_size"])
    return settings, param_names.BIG_VISION, preprocessing_lib.defaults(False, "big_vision"), tokenizer
