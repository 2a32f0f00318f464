"""Files and folders of weights of other libraries, by what a person calls them."""

import json
from pathlib import Path
from typing import Any

from mmjax.errors import UserError
from mmjax.interop.tensor_files import WEIGHTS
from mmjax.io import paths

HUB = "hf-hub:"
# Where each library puts what; the first that is there is taken.
_OPENCLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors")
_HF_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
OPENCLIP_CONFIG, HF_CONFIG = "open_clip_config.json", "config.json"
_MODULES = "modules.json"  # of sentence-transformers
_DIFFUSERS = "model_index.json"
LOCAL = "local-dir:"  # OpenCLIP's name for folders
_OF_MODULES = ["*.json", "*CLIPModel/*.json", "*CLIPModel/*.txt", "*CLIPModel/*.safetensors", "*CLIPModel/*.bin"]
_CACHED = "models--"  # what the Hub's cache begins a model's folder with


def local_path(path: Any) -> Path:
    """Makes a path local: `hf-hub:NAME` is fetched by huggingface_hub.

    Raises:
      UserError: no such path, or the package is not installed.
    """
    text = str(path).removeprefix(LOCAL)
    if text.startswith(HUB):
        return _model_folder(_fetch_from_hub(text.removeprefix(HUB)))
    if paths.scheme(path):
        raise UserError(f"{path}: weights of other libraries are read from a local disk; copy them there first")
    local = Path(text).expanduser()
    if not local.exists():
        raise UserError(
            f"{path}: there is no such file or folder; give a path, or hf-hub:NAME for a model of the Hub (tags of"
            " pretrained weights have no meaning here)"
        )
    return _model_folder(local) if local.is_dir() else local


def _model_folder(folder: Path) -> Path:
    """The folder with a model's files, in a model's folder of the Hub's cache, or in one of sentence-transformers.

    Raises:
      UserError: it is the cache of several models or versions, or a sentence-transformers model without a CLIP.
    """
    if cached := sorted(child.name for child in folder.glob(f"{_CACHED}*") if child.is_dir()):
        names = ", ".join(cached[:5]) + (", ..." if len(cached) > 5 else "")
        raise UserError(f"{folder}: the Hub's cache, and no model; give one of its folders ({names})")
    if (folder / "snapshots").is_dir():
        return _snapshot(folder)
    if (folder / _DIFFUSERS).is_file():
        raise UserError(
            f"{folder}: a pipeline of diffusers, and no model; its text encoder is the folder text_encoder in it, which"
            " is a text tower alone"
        )
    if not (folder / _MODULES).is_file():
        return folder
    kinds = []
    for module in _modules(folder / _MODULES):
        kinds.append(str(module.get("type")).rpartition(".")[2])
        inner = folder / str(module.get("path"))
        if kinds[-1] == "CLIPModel":
            if not inner.is_dir() or not inner.resolve().is_relative_to(folder.resolve()):
                raise UserError(
                    f"{folder}: its folder {str(module.get('path'))!r} with the CLIP is missing; fetch it again"
                )
            return inner
    raise UserError(f"{folder}: a sentence-transformers model without a CLIP (its modules: {', '.join(kinds)})")


def _modules(path: Path) -> list[dict[str, Any]]:
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(modules, list) and all(isinstance(module, dict) for module in modules):
            return modules
    except (ValueError, RecursionError, OSError):
        pass
    raise UserError(f"{path}: not the modules of a sentence-transformers model; fetch it again")


def _snapshot(folder: Path) -> Path:
    """The version of a model in the Hub's cache: `main`, or the only one."""
    snapshots = {child.name: child for child in (folder / "snapshots").iterdir() if child.is_dir()}
    main = folder / "refs" / "main"
    name = main.read_text().strip() if main.is_file() else ""
    if name not in snapshots and len(snapshots) != 1:
        raise UserError(f"{folder}: the Hub's cache of {len(snapshots)} versions; give one, in {folder / 'snapshots'}")
    return snapshots[name] if name in snapshots else next(iter(snapshots.values()))


def _fetch_from_hub(name: str) -> Path:
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(f"{HUB}{name}: needs the package huggingface_hub; pip install huggingface_hub") from error
    try:
        files = huggingface_hub.list_repo_files(name)
        wanted = [file for file in files if "/" not in file and file.endswith((".json", ".model", ".txt"))]
        if _MODULES in files:  # of sentence-transformers, whose CLIP lies in a folder of its own
            return Path(huggingface_hub.snapshot_download(name, allow_patterns=_OF_MODULES))
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
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{HUB}{name}: could not be fetched ({type(error).__name__}: {reason})") from error


def find_weights(folder: Path) -> Path:
    """The file of weights in a folder.

    Raises:
      UserError: there is none, or one of several would have to be guessed.
    """
    if (folder / OPENCLIP_CONFIG).is_file():
        names = [name for name in _OPENCLIP_FILES if (folder / name).is_file()]
        # model.safetensors is Hugging Face's where its config lies there too.
        if names and not (names[0] == _HF_FILES[0] and (folder / HF_CONFIG).is_file()):
            return folder / names[0]
    for name in (*_HF_FILES, *_OPENCLIP_FILES):
        if (folder / name).is_file():
            return folder / name
    names = sorted(file.name for file in folder.iterdir() if file.suffix in WEIGHTS)
    if len(names) == 1:
        return folder / names[0]
    if not names:
        raise UserError(f"{folder}: holds neither a run's checkpoints nor a file of weights ({', '.join(WEIGHTS)})")
    raise UserError(f"{folder}: holds several files of weights ({', '.join(names)}); give the path of one of them")
