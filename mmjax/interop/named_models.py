"""Models by OpenCLIP's names, such as ViT-B-32: their settings and how they see images, without weights.

The names and configs are those of open_clip 3.3; scripts/openclip_models.py writes the file.
"""

import dataclasses
import fnmatch
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.errors import UserError, did_you_mean

FILE = Path(__file__).parent / "openclip_models.json"


@dataclasses.dataclass(frozen=True)
class NamedModel:
    """A model of a name.

    Attributes:
      name: OpenCLIP's.
      settings: of the two-tower model, as in `mmjax.models.variants.two_tower`.
      preprocessing: fields of `transforms.ImageSpec`; CLIP's where the published weights of this name differ in it.
      tokenizer: as `data.tokenizer` has it; empty where it is a file of its own, as SigLIP's.
      text_length: tokens that texts are cut to, where they are fewer than the model has positions for; else 0.
    """

    name: str
    settings: dict[str, Any]
    preprocessing: dict[str, Any]
    tokenizer: str
    text_length: int = 0


def names(pattern: str = "*") -> list[str]:
    """The names that match a pattern such as `ViT-B*`, or hold a word such as `siglip`, whatever the case, sorted."""
    if not isinstance(pattern, str):
        raise UserError(f"pattern={pattern!r}: give text, such as 'ViT-B*'")
    lowered = pattern.lower() if any(letter in pattern for letter in "*?[") else f"*{pattern.lower()}*"
    known = sorted((name for name, config in configs().items() if not isinstance(config, str)), key=str.lower)
    return [name for name in known if fnmatch.fnmatch(name.lower(), lowered)]


def find(name: str) -> NamedModel:
    """The model of a name, whatever the case; OpenAI's `ViT-L/14@336px` stands for `ViT-L-14-336`.

    Raises:
      UserError: there is none.
    """
    from mmjax.interop import model_settings, openclip, preprocessing, tokenizer_files  # which import jax

    entries = configs()
    plain = lambda text: text.lower().replace("/", "-").replace("@", "-").removesuffix("px")
    known = {plain(key): key for key in entries}.get(plain(str(name)), "")
    if not known:
        raise UserError(
            f"name={name!r} is no model of open_clip{did_you_mean(str(name), entries)}; mmjax.list_models() (and mmjax"
            " list) has the names, and mmjax.load(PATH) reads checkpoints"
        )
    config, where = entries[known], f"the model {known}"
    if isinstance(config, str):
        raise UserError(f"name={name!r} is a model that mmjax does not build: {config}; mmjax list has those it builds")
    settings = openclip.from_config(config, where)
    if settings.get("kind", "two_tower") == "two_tower":
        model_settings.complete(settings, where)
    image_size, text = settings["image"]["image_size"], config["model_cfg"]["text_cfg"]
    prepared = preprocessing.from_openclip(config, image_size, where) | {"size": image_size}
    tokenizer = tokenizer_files.openclip_tokenizer(None, text, settings["text"]["vocab_size"])
    return NamedModel(known, settings, prepared, tokenizer, openclip.text_length(config, settings))


@functools.cache
def configs() -> Mapping[str, Any]:
    """By name the config, or why mmjax does not build the model."""
    return json.loads(FILE.read_text())
