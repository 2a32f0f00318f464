"""All model configs of the installed open_clip, at reduced depth and vocabulary: read here, compared, written back.

open_clip makes each model with random weights and its own code. What mmjax reads must embed images and texts alike
within 1e-5 and, written in OpenCLIP's format, be loaded there strictly with the same embeddings; what it does not read
it must refuse in one line. timm's towers get their depth by a patched `timm.create_model`, texts of Hugging Face's
models a config made here: nothing is fetched.

python -m campaigns.openclip_configs --count=144
"""

import collections
import contextlib
import copy
import dataclasses
import functools
import importlib
import json
import random
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np

from campaigns import command
from mmjax.errors import UserError

# Without torch's C++ operators torchvision imports only where this module is there already.
sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))

FINE = ("equal", "refused")
TOLERANCE = 1e-5
_DEPTH, _VOCABULARY, _STD = 2, 1000, 0.02
# Stages of timm's convolutional networks, of which each must be there.
_STAGES = (1, 1, 2, 1)
_OWN = ("vit", "resnet")  # kinds of image towers that are OpenCLIP's own, of which a config has the depth
_SHALLOW = {"depth": _DEPTH, "blocks": _STAGES}


def reduced_config(name: str) -> dict[str, Any]:
    """open_clip's config of a model, with few layers and a small vocabulary."""
    config = copy.deepcopy(importlib.import_module("open_clip").get_model_config(name))
    vision, text = config["vision_cfg"], config["text_cfg"]
    if isinstance(vision.get("layers", 12), int):
        vision |= {} if "timm_model_name" in vision else {"layers": _DEPTH}
    else:
        vision["layers"] = [1, 1, 1, 1]
    if "hf_model_name" not in text:
        text |= {"layers": _DEPTH, "vocab_size": min(_VOCABULARY, text.get("vocab_size", 49408))}
    if "multimodal_cfg" in config:
        config["multimodal_cfg"] |= {"layers": _DEPTH, "vocab_size": _VOCABULARY}
    return config


def hugging_face_config(name: str, **options: Any) -> Any:
    """The config of a text model of Hugging Face's, with few layers and a small vocabulary."""
    del options
    transformers = importlib.import_module("transformers")
    large = "large" in name
    sizes = dict(
        vocab_size=_VOCABULARY,
        hidden_size=1024 if large else 768,
        num_attention_heads=16 if large else 12,
        intermediate_size=4096 if large else 3072,
        num_hidden_layers=_DEPTH,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    kind = transformers.XLMRobertaConfig if name.startswith("xlm") else transformers.RobertaConfig
    return kind(**sizes, bos_token_id=0, pad_token_id=1, eos_token_id=2)


@contextlib.contextmanager
def few_layers() -> Iterator[None]:
    """Context in which open_clip makes towers of timm's and of Hugging Face's with few layers, and fetches nothing."""
    timm, hf_model = map(importlib.import_module, ("timm", "open_clip.hf_model"))
    create = timm.create_model

    def create_model(name: str, *args: Any, **options: Any) -> Any:
        stages = name.startswith(("convnext", "swin", "fastvit", "vitamin"))
        return create(name, *args, **options, **({"depths": _STAGES} if stages else {"depth": _DEPTH}))

    auto = mock.Mock(from_pretrained=hugging_face_config)
    with mock.patch.object(timm, "create_model", create_model), mock.patch.object(hf_model, "AutoConfig", auto):
        yield


@contextlib.contextmanager
def few_layers_here() -> Iterator[None]:
    """Context in which mmjax takes towers that go by timm's names for as deep as `few_layers` makes them."""
    from mmjax.interop import openclip_image

    def shallow(tower: Any) -> Any:
        full: dict[str, Any] = {}

        def from_config(*args: Any) -> dict[str, Any]:
            settings = tower.from_config(*args)
            full.update({field: settings[field] for field in _SHALLOW if field in settings})
            return settings | {field: _SHALLOW[field] for field in full}

        return dataclasses.replace(
            tower, from_config=from_config, to_config=lambda image: tower.to_config(image | full)
        )

    towers = {kind: shallow(tower) if kind not in _OWN else tower for kind, tower in openclip_image.TOWERS.items()}
    with mock.patch.dict(openclip_image.TOWERS, towers):
        yield


def make_theirs(config: dict[str, Any], seed: int) -> Any:
    """open_clip's model of a config, with random weights."""
    torch, factory = map(importlib.import_module, ("torch", "open_clip.factory"))
    name = "reduced"
    with mock.patch.dict(factory._MODEL_CONFIGS, {name: config}), few_layers():
        model = factory.create_model(name, pretrained_hf=False, pretrained_image=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim:
                parameter.add_(_STD * torch.randn(parameter.shape, generator=generator))
        for key, buffer in model.named_buffers():  # of batch norm
            if key.endswith("running_mean"):
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
            if key.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model.eval()


def write_folder(folder: Path, config: dict[str, Any], model: Any) -> None:
    """A folder as OpenCLIP has it on the Hub; beside it the config of a text model of Hugging Face's."""
    safetensors = importlib.import_module("safetensors.torch")
    prepared = dict(mean=[0.5] * 3, std=[0.5] * 3, interpolation="bicubic", resize_mode="shortest")
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(dict(model_cfg=config, preprocess_cfg=prepared)))
    tensors = {key: value.clone() for key, value in model.state_dict().items()}
    safetensors.save_file(tensors, str(folder / "open_clip_model.safetensors"))
    if "hf_model_name" in config["text_cfg"]:
        text = hugging_face_config(config["text_cfg"]["hf_model_name"])
        (folder / "config.json").write_text(text.to_json_string())


def make_inputs(model: Any, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Normalised images [2, H, W, 3] and token ids of two texts of different lengths."""
    size = model.visual.image_size
    side = size[0] if isinstance(size, tuple) else size
    images = rng.standard_normal((2, side, side, 3)).astype(np.float32)
    text = getattr(model, "text", model)
    hugging_face = getattr(getattr(text, "transformer", None), "config", None)  # which has positions for 512 tokens
    ids = rng.integers(3, _VOCABULARY - 1, (2, min(model.context_length or 24, 77)))
    ids[0, 7:] = hugging_face.pad_token_id if hugging_face else getattr(text, "pad_id", None) or 0
    ids[:, 6] = ids.shape[1] > 0 and _VOCABULARY - 1  # the largest id, where texts end
    return images, ids


def embed_theirs(model: Any, images: np.ndarray, ids: np.ndarray) -> list[np.ndarray]:
    """Embeddings of images and of texts by open_clip, of unit length."""
    torch = importlib.import_module("torch")
    with torch.no_grad():
        image = model.encode_image(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), normalize=True)
        text = model.encode_text(torch.from_numpy(ids), normalize=True)
    return [image.numpy(), text.numpy()]


def embed_ours(opened: Any, images: np.ndarray, ids: np.ndarray) -> list[np.ndarray]:
    """The same by mmjax, of an opened checkpoint."""
    from mmjax.inference import checkpoint_source

    source = checkpoint_source.ForeignWeights(opened)
    params, task = source.read_unsharded(), source.make_task()
    mask = _real_tokens(source.config.model, ids)

    @jax.jit
    def embed(params, images, ids, mask):
        apply = functools.partial(task.model.apply, {"params": params})
        return apply(images, method="image_embedding"), apply(ids, mask, method="text_embedding")

    image, text = embed(params, images, ids.astype(np.int32), mask)
    return [np.asarray(image[:, 0] if image.ndim == 3 else image), np.asarray(text)]


def _real_tokens(model: Any, ids: np.ndarray) -> np.ndarray:
    pad = getattr(model.text, "pad_id", None) or 0
    return ids != pad


def compare(name: str, folder: Path, seed: int) -> str:
    """Reads a reduced model, compares it, writes it back and compares that; returns what came of it.

    Raises:
      UserError: mmjax does not read the model.
    """
    from mmjax.interop import export, foreign_checkpoint, openclip

    openclip.from_config(importlib.import_module("open_clip").get_model_config(name), name)  # refuses by its name
    config = reduced_config(name)
    theirs = make_theirs(config, seed)
    write_folder(folder / "theirs", config, theirs)
    images, ids = make_inputs(theirs, np.random.default_rng(seed))
    expected = embed_theirs(theirs, images, ids)
    with few_layers_here():
        opened = foreign_checkpoint.open_checkpoint(folder / "theirs")
        params = opened.read(lambda path, array: array)
        form = dict(settings=opened.settings, preprocessing=opened.preprocessing)
        export.write(folder / "ours", "openclip", **form, params=params)
    for part, ours, wanted in zip(("image", "text"), embed_ours(opened, images, ids), expected, strict=True):
        if (error := np.abs(ours - wanted).max()) > TOLERANCE or not np.isfinite(ours).all():
            return f"{name}: the {part} embedding is off by {error:.1e}"
    again = json.loads((folder / "ours" / "open_clip_config.json").read_text())["model_cfg"]
    if "hf_model_name" in config["text_cfg"]:  # which is "." of a tower of no published size
        again["text_cfg"]["hf_model_name"] = config["text_cfg"]["hf_model_name"]
    copied = make_theirs(again, seed + 1)
    safetensors = importlib.import_module("safetensors.torch")
    copied.load_state_dict(safetensors.load_file(folder / "ours" / "open_clip_model.safetensors"), strict=True)
    for part, ours, wanted in zip(("image", "text"), embed_theirs(copied, images, ids), expected, strict=True):
        if (error := np.abs(ours - wanted).max()) > TOLERANCE:
            return f"{name}: written back, the {part} embedding is off by {error:.1e}"
    return "equal"


def run(names: list[str], seed: int) -> dict[str, str]:
    """What came of models, by name: `equal`, `refused`, or what is wrong."""
    outcomes = {}
    for name in names:
        with tempfile.TemporaryDirectory(prefix="mmjax-openclip-") as folder:
            try:
                outcomes[name] = compare(name, Path(folder), seed)
            except UserError as error:
                outcomes[name] = "refused" if "\n" not in str(error) else f"{name}: {error}"
            except Exception as error:
                outcomes[name] = f"{name}: {type(error).__name__}: {str(error)[:200]}"
        jax.clear_caches()
    return outcomes


def main() -> int:
    options = command.make_parser(__doc__, 144).parse_args()
    names = sorted(importlib.import_module("open_clip").list_models())
    if options.count < len(names):
        names = sorted(random.Random(options.seed).sample(names, options.count))
    outcomes = run(names, options.seed)
    return command.show(collections.Counter(outcomes.values()), lambda outcome: outcome in FINE)


if __name__ == "__main__":
    sys.exit(main())
