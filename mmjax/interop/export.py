"""Export of a model to another library's format: its config files, and the weights tensor by tensor."""

import itertools
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.data.text.tokenizer import Tokenizer
from mmjax.errors import validate_choice
from mmjax.interop import (
    bert_towers,
    big_vision,
    exported_tokenizers,
    huggingface,
    model_settings,
    openclip,
    openclip_coca,
    openclip_text,
    param_translation,
)
from mmjax.interop.families import clip
from mmjax.interop.families import table as families
from mmjax.interop.families.family import complete, written_files
from mmjax.interop.param_names import big_vision as big_vision_names
from mmjax.interop.weights_path import HF_CONFIG, OPENCLIP_CONFIG

FORMATS = ("openclip", "hf", "big_vision")
_OPENCLIP_WEIGHTS = "open_clip_model.safetensors"


def write(
    folder: Path,
    form: str,
    *,
    settings: Mapping[str, Any],
    preprocessing: Mapping[str, Any],
    params: Mapping[str, Any],
    tokenizer: Tokenizer | None = None,
    answers: Sequence[str] = (),
    text_length: int = 0,
    architecture: str = "",
) -> list[Path]:
    """Writes a folder that OpenCLIP (`local-dir:FOLDER`), Hugging Face's `from_pretrained` or big_vision loads.

    Args:
      folder: made where it is missing.
      form: `openclip`, `hf`, or `big_vision` (`FOLDER/model.npz`, layers one by one).
      settings: of the model, as `config.model` has them.
      preprocessing: `size`, `resize`, `interpolation`, `mean` and `std`.
      params: our arrays by path.
      tokenizer: written beside the weights as files that the library reads; None for none.
      answers: that the model chooses among, where it does.
      text_length: tokens that texts are cut to; 0 for as many as the model has positions for.
      architecture: the class of transformers that a part of the model is written for; "" for the model's own.

    Returns:
      The files written.

    Raises:
      UserError: the format has no such model; nothing has been written then.
    """
    shapes = {path: tuple(array.shape) for path, array in params.items()}
    blank: Mapping[str, tuple[int, ...]] = {}
    configs: dict[str, Any]
    if validate_choice("--to", form, FORMATS) == "big_vision":
        model_settings.require_plain(settings, "big_vision's model")
        configs, table, name, called = {}, big_vision_names.TABLE, "model.npz", "big_vision"
    elif form == "openclip" and settings.get("kind") == "coca":
        config = openclip_coca.to_config(settings, preprocessing)
        if tokenizer is not None:
            config["model_cfg"]["text_cfg"] |= exported_tokenizers.openclip_fields(tokenizer)
        configs, table, called = {OPENCLIP_CONFIG: config}, openclip_coca.table(settings), "OpenCLIP's CoCa"
        name = _OPENCLIP_WEIGHTS
    elif form == "openclip":
        config = openclip.to_config(settings, preprocessing, text_length)
        if tokenizer is not None:
            config["model_cfg"]["text_cfg"] |= exported_tokenizers.openclip_fields(tokenizer)
        configs = {OPENCLIP_CONFIG: config}
        if openclip_text.writes_hugging_face(settings["text"]):
            configs[HF_CONFIG] = bert_towers.to_config(settings["text"])
        table = openclip.naming_of_settings(settings).table(settings["image"])
        name, called = _OPENCLIP_WEIGHTS, "OpenCLIP"
    elif settings.get("kind", "two_tower") != "two_tower" or clip.is_other_clip(settings):
        family, full, params = families.select(complete(settings), params, architecture)
        shapes = {path: tuple(array.shape) for path, array in params.items()}
        configs, table = written_files(family, full, preprocessing, answers), family.table(full)
        blank = family.unused(full)
        name, called = "model.safetensors", family.name
    else:
        family = huggingface.family_of_settings(settings)
        configs = {
            "config.json": huggingface.to_config(settings),
            "preprocessor_config.json": huggingface.to_preprocessor(preprocessing, family),
        }
        table, name, called = huggingface.table(family), "model.safetensors", "Hugging Face's model"
    rows = param_translation.select_rows(table, shapes, called)
    if form == "big_vision":
        big_vision.check_roundtrip(dict(settings), param_translation.their_shapes(rows, shapes))
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for file, content in configs.items():
        (folder / file).write_text(json.dumps(content, indent=2) + "\n")
        written.append(folder / file)
    if form == "big_vision":
        write_npz(
            folder / name, ((f"params/{key}", array) for key, array in param_translation.export_params(params, rows))
        )
    else:
        zeros = ((name, np.zeros(shape, np.float32)) for name, shape in blank.items())
        arrays = itertools.chain(param_translation.export_params(params, rows), zeros)
        write_safetensors(folder / name, param_translation.their_shapes(rows, shapes) | {**blank}, arrays)
    written.append(folder / name)
    for file, content in (exported_tokenizers.files(tokenizer) if tokenizer is not None else {}).items():
        (folder / file).write_bytes(content)
        written.append(folder / file)
    return written


def write_safetensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]], arrays: Iterable[tuple[str, np.ndarray]]
) -> None:
    """Writes float32 arrays as they come, where the library would want all of them at once.

    The format: eight bytes of length, a JSON header with every array's type, shape and place, then the arrays' bytes.

    Args:
      path: of the file; it has this name once it is whole.
      shapes: of all arrays, in the order of `arrays`.
      arrays: names and contiguous float32 arrays.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for (name, array), wanted in zip(arrays, shapes.items(), strict=True):
            if (name, array.shape) != wanted:
                raise ValueError(f"{name} {array.shape} came where {wanted} was due")
            file.write(np.asarray(array, "<f4", order="C").tobytes())
    part.replace(path)


def write_npz(path: Path, arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """Writes float32 arrays to an .npz file as they come; it has its name once it is whole."""
    part = path.with_name(f".{path.name}.part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array, "<f4", order="C"), allow_pickle=False)
    part.replace(path)
