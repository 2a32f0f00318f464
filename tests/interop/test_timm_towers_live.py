"""CLIPA, layer scale, Perception Encoder, EVA and plain towers of timm's in OpenCLIP, tiny: read and written."""

import functools
import json
from unittest import mock

import numpy as np
import pytest

from mmjax.interop import export, foreign_checkpoint, timm_towers
from tests.helpers.towers import encode

pytestmark = pytest.mark.full
WIDTH, HEADS, DEPTH = 32, 4, 2
TEXT = dict(context_length=9, vocab_size=60, width=24, heads=3, layers=2)
VIT = dict(image_size=32, patch_size=8, width=WIDTH, head_width=8, layers=2)
OPENCLIP = {
    "clipa": (VIT | dict(no_ln_pre=True, pool_type="avg", final_ln_after_pool=True), dict(pool_type="last")),
    "average after the norm": (VIT | dict(pool_type="avg", final_ln_after_pool=False), {}),
    "layer scale": (VIT | dict(ls_init_value=0.1), dict(ls_init_value=0.2)),
}
TIMM = {
    "eva_giant_patch14_224": "token",
    "eva02_base_patch16_clip_224": "token",
    "eva02_enormous_patch14_clip_224": "token",
    "vit_pe_core_tiny_patch16_384": "map",
    "vit_pe_core_gigantic_patch14_448": "map",
    "vit_large_patch14_clip_224": "token",
    "vit_medium_patch16_gap_256": "",
}


def small_tower(name):
    """A tower of timm's with few numbers, under its name: its settings here, and what makes it there."""
    kind, settings = timm_towers.TOWERS[name]
    ratio = 4 * 2 / 3 if settings.get("activation") == "silu" else 2.0
    pixels = 4 * settings["patch_size"]
    small = dict(width=WIDTH, depth=DEPTH, heads=HEADS, mlp_dim=int(WIDTH * ratio), image_size=pixels)
    if settings["pool"] == "map":
        small["pool_mlp_dim"] = 4 * WIDTH
    options = dict(embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, mlp_ratio=ratio, img_size=pixels)
    return (kind, settings | small), options


def make(config, options):
    """open_clip's model of a config, with numbers so large that a wrong order or epsilon shows."""
    import timm
    import torch
    from open_clip import factory

    create = functools.partial(timm.create_model, **options)
    with mock.patch.dict(factory._MODEL_CONFIGS, {"tiny": config}), mock.patch.object(timm, "create_model", create):
        model = factory.create_model("tiny")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim:
                weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    return model.eval()


def compared(folder, config, options):
    """Reads a model of open_clip's, compares, writes it back and has it loaded strictly there."""
    import safetensors.torch as safetensors
    import torch

    model = make(config, options)
    (folder / "theirs").mkdir()
    (folder / "theirs" / "open_clip_config.json").write_text(json.dumps(dict(model_cfg=config, preprocess_cfg={})))
    tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
    safetensors.save_file(tensors, folder / "theirs" / "open_clip_model.safetensors")
    opened = foreign_checkpoint.open_checkpoint(folder / "theirs")
    rng, size = np.random.default_rng(0), opened.settings["image"]["image_size"]
    images = rng.standard_normal((3, size, size, 3)).astype(np.float32)
    ids = rng.integers(1, TEXT["vocab_size"] - 1, (3, TEXT["context_length"])).astype(np.int32)
    ids[:, 6] = TEXT["vocab_size"] - 1

    def theirs(model):
        with torch.no_grad():
            image = model.encode_image(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), normalize=True)
            return image.numpy(), model.encode_text(torch.from_numpy(ids).long(), normalize=True).numpy()

    expected = theirs(model)
    for ours, wanted in zip(encode(opened, images, ids), expected, strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-5)
    params = opened.read(lambda path, array: array)
    form = dict(settings=opened.settings, preprocessing=opened.preprocessing)
    export.write(folder / "ours", "openclip", **form, params=params)
    again = make(json.loads((folder / "ours" / "open_clip_config.json").read_text())["model_cfg"], options)
    again.load_state_dict(safetensors.load_file(folder / "ours" / "open_clip_model.safetensors"), strict=True)
    for ours, wanted in zip(theirs(again), expected, strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-6)
    return opened.settings


@pytest.mark.parametrize("name", OPENCLIP)
def test_towers_of_openclips(name, tmp_path):
    vision, text = OPENCLIP[name]
    settings = compared(tmp_path, dict(embed_dim=16, vision_cfg=vision, text_cfg=TEXT | text), {})
    assert settings["image"]["pool"] == ("cls" if name == "layer scale" else "mean")


@pytest.mark.parametrize("name", TIMM)
def test_towers_of_timms(name, tmp_path):
    tower, options = small_tower(name)
    vision = dict(timm_model_name=name, timm_pool=TIMM[name], image_size=options["img_size"])
    vision["timm_proj"] = None if TIMM[name] else "linear"
    with mock.patch.dict(timm_towers.TOWERS, {name: tower}):
        compared(tmp_path, dict(embed_dim=16, vision_cfg=vision, text_cfg=TEXT, custom_text=True), options)
