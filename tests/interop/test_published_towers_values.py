"""Published models of OpenCLIP at full width and two layers, as files without a config: what they compute, and here."""

import copy
import functools

import numpy as np
import pytest

from mmjax.interop import foreign_checkpoint
from tests.helpers import campaign
from tests.helpers.published_models import build, settings_of
from tests.helpers.towers import encode

pytestmark = pytest.mark.full
BATCH = 2
LARGE = 5 * 10**7  # numbers of a token table, of which only the rows that are read get any
# A model of every width of image and text towers, rule of the end of text, activation, projection and pixel size.
CLIPS = {
    "ViT-S-16-alt": {},  # 384; texts 256
    "ViT-M-32-alt": {},  # 512; 384
    "ViT-B-32-quickgelu": {},  # 768; 512
    "ViT-B-16-plus-240": {},  # 896; 640
    "ViT-L-14-336": {},  # 1024; 768
    "ViT-H-14": {},  # 1280; 1024
    "ViT-g-14": {},  # 1408
    "ViT-bigG-14": {},  # 1664; 1280
    "ViT-e-14": {},  # 1792
    "ViT-L-14-worldwide": {},  # pooled at 1
    # Pooled at 2, of 901,629 ids; the image tower and the width of texts, which are others' above, are small ones.
    "ViT-H-14-worldwide": dict(vision=dict(width=384, head_width=64), text=dict(width=256, heads=4)),
}
SIGLIPS = {
    "ViT-B-16-SigLIP": {},  # 768
    "ViT-SO400M-14-SigLIP-384": {},  # 1152, and pixels beyond the last patch
    "ViT-B-32-SigLIP2-256": {},  # tanh in both towers
    "ViT-SO400M-16-SigLIP-i18n-256": {},  # tanh in one; no projection
    # 1536, and texts of another width: B/16's, whose tables are smaller.
    "ViT-gopt-16-SigLIP2-256": dict(text=dict(width=768, heads=12, mlp_ratio=4.0, vocab_size=32_000, act_kwargs=None)),
}
# One of every rule but for widths, whose shapes alone `test_published_towers.py` reads; all under `make campaign`.
CLIPS_OF_ALL_RULES = ("ViT-S-16-alt", "ViT-B-32-quickgelu", "ViT-L-14-336", "ViT-L-14-worldwide", "ViT-H-14-worldwide")
SIGLIPS_OF_ALL_RULES = ("ViT-SO400M-14-SigLIP-384", "ViT-B-32-SigLIP2-256", "ViT-SO400M-16-SigLIP-i18n-256")


@pytest.fixture
def two_layers(monkeypatch, tmp_path):
    """Makes a listed model with two layers a tower and weights with which heads and activations show."""
    import open_clip
    import timm
    import torch

    normal = torch.nn.init.normal_

    def but_for_large_ones(tensor, mean=0.0, std=1.0, generator=None):
        return tensor if tensor.numel() > LARGE else normal(tensor, mean, std, generator)

    monkeypatch.setattr(torch.nn.init, "normal_", but_for_large_ones)
    monkeypatch.setattr(timm, "create_model", functools.partial(timm.create_model, depth=2))

    def make(name, ids, vision=None, text=None):
        config = copy.deepcopy(open_clip.get_model_config(name))
        config["vision_cfg"] |= ({} if "timm_model_name" in config["vision_cfg"] else {"layers": 2}) | (vision or {})
        config["text_cfg"] |= {"layers": 2} | (text or {})
        torch.manual_seed(0)
        model = build(config, tmp_path, device="cpu").eval()
        with torch.no_grad():
            for key, weight in model.named_parameters():
                if "in_proj_weight" in key or "attn.qkv.weight" in key or "attn_pool.q.weight" in key:
                    weight.normal_(0, 2.0 * weight.shape[1] ** -0.5)  # attention that is not even
                elif weight.ndim == 1 and key.endswith(("bias", "weight")):
                    weight.add_(0.1 * torch.randn_like(weight))
                elif key.endswith("token_embedding.weight"):
                    rows = torch.from_numpy(np.unique(ids))
                    weight[rows] = torch.randn(len(rows), weight.shape[1])
        return model

    return make


def inputs(name, vocab_size, context, pixels, end):
    """Two images and texts, whose ends are neither at the first nor at the last position, beside rarer endings."""
    rng = np.random.default_rng(len(name))
    images = rng.standard_normal((BATCH, 3, pixels, pixels)).astype(np.float32)
    ids = rng.integers(3, vocab_size - 1, (BATCH, context))
    ids[0, 5:], ids[1, context // 2 :] = (0 if end != 1 else 3), 3
    ids[0, 4], ids[1, context // 2] = end, end
    return images, ids


def expected(model, images, ids):
    import torch

    with torch.no_grad():
        image = model.encode_image(torch.from_numpy(images), normalize=True)
        text = model.encode_text(torch.from_numpy(ids), normalize=True)
    return image.numpy(), text.numpy()


def compare(model, images, ids, file, settings):
    """Writes the weights alone, and reads them with what a person gives."""
    from safetensors.torch import save_file

    save_file({key: x.contiguous() for key, x in model.state_dict().items()}, file)
    opened = foreign_checkpoint.open_checkpoint(file, settings)
    ours = encode(opened, images.transpose(0, 2, 3, 1), ids.astype(np.int32))
    file.unlink()
    return [float(abs(x - y).max()) for x, y in zip(ours, expected(model, images, ids), strict=True)]


@pytest.mark.parametrize("name", campaign.some(list(CLIPS), CLIPS_OF_ALL_RULES))
def test_clips(name, two_layers, tmp_path):
    import open_clip

    text, pixels = open_clip.get_model_config(name)["text_cfg"], open_clip.get_model_config(name)["vision_cfg"]
    end = text.get("eos_id", text["vocab_size"] - 1)
    images, ids = inputs(name, text["vocab_size"], text["context_length"], pixels["image_size"], end)
    model = two_layers(name, ids, **CLIPS[name])
    settings = {"activation": settings_of(model)["text"]["activation"]}
    assert max(compare(model, images, ids, tmp_path / "a.safetensors", settings)) < 1e-5


@pytest.mark.parametrize("name", campaign.some(list(SIGLIPS), SIGLIPS_OF_ALL_RULES))
def test_siglips(name, two_layers, tmp_path):
    import open_clip

    text, pixels = open_clip.get_model_config(name)["text_cfg"], open_clip.get_model_config(name)["vision_cfg"]
    vocab_size = SIGLIPS[name].get("text", text).get("vocab_size", text["vocab_size"])
    images, ids = inputs(name, vocab_size, text["context_length"], pixels["image_size"], 1)
    model = two_layers(name, ids, **SIGLIPS[name])
    settings = {"image.image_size": 384} if name.endswith("-384") else {}
    assert max(compare(model, images, ids, tmp_path / "a.safetensors", settings)) < 1e-5


def test_wrong_settings_would_show(two_layers, tmp_path):
    """Width / 64 heads, another activation, and an end of text that is another's."""
    name = "ViT-H-14-worldwide"
    images, ids = inputs(name, 901_629, 77, 224, 2)
    small = dict(width=640, head_width=80), dict(width=384, heads=6, vocab_size=49_408)
    ids = np.minimum(ids, 49_000)
    model = two_layers(name, ids, vision=small[0], text=small[1])
    right = {"activation": "gelu", "image.heads": 8, "norm_eps": 1e-5, "text.eos_id": 2}
    file = tmp_path / "a.safetensors"
    assert max(compare(model, images, ids, file, right)) < 1e-5
    image, text = compare(model, images, ids, file, right | {"image.heads": 10})
    assert image > 1e-3 and text < 1e-5
    assert min(compare(model, images, ids, file, right | {"activation": "quick_gelu"})) > 1e-4
    image, text = compare(model, images, ids, file, right | {"text.eos_id": -1})
    assert image < 1e-5 and text > 1e-2
