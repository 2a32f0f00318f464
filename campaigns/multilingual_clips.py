"""CLIPs with BERT, RoBERTa or XLM-RoBERTa for texts, drawn by a seed: of open_clip, read, written back.

python -m campaigns.multilingual_clips --count=24 --seed=0

Needs the extra `full`. Compares embeddings of images and of texts of several lengths, padding among them.
"""

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

from campaigns.command import compare_seeds

# Without torch's C++ operators torchvision imports only where this module is there already.
sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))

TOLERANCE = 1e-5
TEXTS = 5


def draw(seed: int, folder: Path) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """A model of open_clip's with random numbers, its config, and that of its text tower, which lies in the folder."""
    import open_clip
    import torch

    rng = np.random.default_rng(seed)
    pick = lambda *values: values[rng.integers(len(values))]
    family, heads, image_heads = pick("bert", "roberta", "xlm-roberta"), pick(1, 2, 3), pick(1, 2)
    pad = 0 if family == "bert" else int(rng.integers(0, 3))
    width, vocab, context = heads * pick(4, 8), int(rng.integers(20, 90)), int(rng.integers(3, 12))
    tower = dict(
        model_type=family,
        vocab_size=vocab,
        hidden_size=width,
        num_hidden_layers=pick(1, 2, 3),
        num_attention_heads=heads,
        intermediate_size=int(rng.integers(5, 40)),
        hidden_act=pick("gelu", "gelu", "relu", "gelu_new"),
        layer_norm_eps=pick(1e-12, 1e-5, 1e-3),
        max_position_embeddings=context + pad + 1 + int(rng.integers(0, 4)),
        type_vocab_size=pick(1, 2),
        pad_token_id=pad,
    )
    projection = pick("mlp", "mlp", "linear", None)
    text = dict(hf_model_name=str(folder), hf_model_pretrained=False, context_length=context, hf_proj_type=projection)
    text["hf_pooler_type"] = pick("mean_pooler", "mean_pooler", "cls_pooler", "cls_last_hidden_state_pooler", None)
    if pick(False, True) and text["hf_proj_type"] == "mlp":
        del text["hf_proj_type"]  # its default
    vision = dict(image_size=16, patch_size=8, layers=pick(1, 2), width=image_heads * 8, head_width=8)
    embed_dim = width if projection is None else int(rng.integers(4, 24))
    config = dict(embed_dim=embed_dim, quick_gelu=pick(False, True), vision_cfg=vision, text_cfg=text)
    (folder / "config.json").write_text(json.dumps(tower))
    generator = torch.Generator().manual_seed(seed)
    model = open_clip.CustomTextCLIP(**config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
            if "norm" in name.lower() and name.endswith("weight"):
                weight.add_(1.0)
        model.logit_scale.fill_(2.0)
    return model, config, tower


def inputs(seed: int, config: dict[str, Any], tower: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Images [B, 3, H, W] and ids [B, L] of several lengths; one of the texts holds the id of padding within."""
    rng = np.random.default_rng(seed + 1)
    images = rng.standard_normal((TEXTS, 3, 16, 16)).astype(np.float32)
    length, pad = config["text_cfg"]["context_length"], tower["pad_token_id"]
    ids = rng.integers(3, tower["vocab_size"], (TEXTS, length))
    for row, words in enumerate(rng.integers(1, length + 1, TEXTS)):
        ids[row, words:] = pad
    ids[-1], ids[-1, 1] = rng.integers(3, tower["vocab_size"], length), pad
    return images, ids


def embeddings(model: Any, images: np.ndarray, ids: np.ndarray) -> list[np.ndarray]:
    """What open_clip's model makes of them."""
    import torch

    with torch.no_grad():
        image = model.encode_image(torch.from_numpy(images), normalize=True)
        return [image.numpy(), model.encode_text(torch.from_numpy(ids), normalize=True).numpy()]


def differences(seed: int, folder: Path) -> dict[str, float]:
    """How far mmjax is from open_clip: what it reads, with the config beside and from shapes, and what it writes."""
    import open_clip
    from safetensors.torch import load_file, save_file

    import mmjax
    from mmjax.inference import checkpoint_source, convert

    theirs, ours = folder / "theirs", folder / "ours"
    theirs.mkdir()
    ours.mkdir()
    model, config, tower = draw(seed, theirs)
    images, ids = inputs(seed, config, tower)
    wanted = embeddings(model, images, ids)
    file = theirs / "open_clip_model.safetensors"
    save_file({key: x.contiguous() for key, x in model.state_dict().items()}, file)
    named = config | {"text_cfg": config["text_cfg"] | {"hf_model_name": "somebody/a-tower"}}
    (theirs / "open_clip_config.json").write_text(json.dumps(dict(model_cfg=named)))

    read = mmjax.load(theirs)
    result = {"read": _largest([read.encode_image(_as_images(images)), read.encode_text(ids)], wanted)}
    convert.write_files(checkpoint_source.open_source(theirs), ours, "openclip")
    written = json.loads((ours / "open_clip_config.json").read_text())["model_cfg"]
    written["text_cfg"]["hf_model_name"] = str(ours)
    again = open_clip.CustomTextCLIP(**{key: value for key, value in written.items() if key != "custom_text"}).eval()
    again.load_state_dict(load_file(ours / "open_clip_model.safetensors"), strict=True)
    return result | {"written": _largest(embeddings(again, images, ids), wanted)}


def _as_images(images: np.ndarray) -> np.ndarray:
    """Normalised arrays as `encode_image` takes them."""
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


def _largest(results: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    return max(float(abs(x - y).max()) for x, y in zip(results, wanted, strict=True))


def main() -> int:
    return compare_seeds(__doc__, 24, differences, TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
