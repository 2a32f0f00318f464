"""timm's DINOv2 as the image tower of OpenCLIP's models, tiny: read, written, and loaded by open_clip."""

import functools
import json
from unittest import mock

import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.interop import export, foreign_checkpoint, openclip, param_translation, timm_dinov2, timm_towers
from mmjax.models.variants import two_tower
from tests.helpers.towers import encode

pytestmark = pytest.mark.full
WIDTH, HEADS, DEPTH = 32, 4, 2
TEXT = dict(context_length=9, vocab_size=60, width=24, heads=3, layers=2)
TEXT_ALONE = {"text.heads": 3, "text.norm_eps": 1e-5, "text.causal": True, "text.pool": "eos", "text.eos_id": -1}
CASES = [
    ("vit_small_patch14_dinov2", "none", 518),
    ("vit_base_patch14_dinov2", "linear", 56),
    ("vit_giant_patch14_dinov2", None, 518),
    ("vit_large_patch14_reg4_dinov2", "linear", 518),
    ("vit_giant_patch14_reg4_dinov2", "none", 224),
]


def make(name, size=None):
    """open_clip's model of a config or a folder, whose tower of timm's has few numbers."""
    import open_clip
    import timm

    create = functools.partial(timm.create_model, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS)
    with mock.patch.object(timm, "create_model", create):
        return open_clip.create_model(name, force_image_size=size).eval()


def theirs(model, images, ids):
    import torch

    with torch.no_grad():
        image = model.encode_image(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), normalize=True)
        return image.numpy(), model.encode_text(torch.from_numpy(ids).long(), normalize=True).numpy()


def small_towers():
    """The table of towers with few numbers."""
    small = {}
    for name, settings in timm_dinov2.TOWERS.items():
        mlp_dim = int(WIDTH * 2 * 2.66667) // 2 if settings["block"]["mlp_gate"] else 4 * WIDTH
        sizes = dict(width=WIDTH, depth=DEPTH, heads=HEADS, mlp_dim=mlp_dim)
        small[name] = (timm_dinov2.KIND, settings | sizes)
    return mock.patch.dict(timm_towers.TOWERS, small)


@pytest.mark.parametrize(("name", "projection", "size"), CASES)
def test_towers(name, projection, size, tmp_path):
    import safetensors.torch as safetensors
    import torch
    from open_clip import factory

    width = WIDTH if projection == "none" else 16
    vision = dict(timm_model_name=name, timm_pool="token", timm_proj=projection, image_size=size)
    config = dict(embed_dim=width, vision_cfg=vision, text_cfg=TEXT, custom_text=True)
    with mock.patch.dict(factory._MODEL_CONFIGS, {"tiny": config}):
        model = make("tiny", size)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim:
                weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(dict(model_cfg=config, preprocess_cfg={})))
    safetensors.save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, size, size, 3)).astype(np.float32)
    ids = rng.integers(1, TEXT["vocab_size"] - 1, (2, TEXT["context_length"])).astype(np.int32)
    ids[:, 6] = TEXT["vocab_size"] - 1
    expected = theirs(model, images, ids)
    with small_towers():
        # The positions are those for this size, and the folder that is written has those for 518 pixels.
        opened = foreign_checkpoint.open_checkpoint(folder)
        params = opened.read(lambda path, array: array)
        form = dict(settings=opened.settings, preprocessing=opened.preprocessing)
        export.write(tmp_path / "ours", "openclip", **form, params=params)
        again = foreign_checkpoint.open_checkpoint(tmp_path / "ours")
        assert again.settings == opened.settings
        if size == 518:  # a file without a config is of timm's size
            (tmp_path / "bare.safetensors").hardlink_to(tmp_path / "ours" / "open_clip_model.safetensors")
            read = foreign_checkpoint.open_checkpoint(tmp_path / "bare.safetensors", TEXT_ALONE)
            assert read.settings["image"] == opened.settings["image"]
    for one in (opened, again):
        for ours, wanted in zip(encode(one, images, ids), expected, strict=True):
            np.testing.assert_allclose(ours, wanted, atol=1e-5)
    written = make(f"local-dir:{tmp_path / 'ours'}", None if size == 518 else size)
    for ours, wanted in zip(theirs(written, images, ids), expected, strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-5)


@pytest.mark.parametrize("name", timm_dinov2.TOWERS)
def test_names_and_shapes_of_timms_sizes(name):
    """As LiT trains it: 224 pixels, and the class token as the embedding."""
    import timm
    import torch

    with torch.device("meta"):
        expected = timm.create_model(name, num_classes=0, global_pool="token").state_dict()
    settings = two_tower.variant("tiny")
    settings["image"] |= timm_dinov2.TOWERS[name] | dict(image_size=224)
    settings["embed_dim"] = settings["image"]["width"]
    shapes = param_translation.param_shapes(settings)
    table = openclip.naming_of_settings(settings).table(settings["image"])
    written = param_translation.their_shapes(param_translation.select_rows(table, shapes, "OpenCLIP"), shapes)
    trunk = {key.removeprefix("visual.trunk."): shape for key, shape in written.items() if key.startswith("visual.")}
    assert trunk == {key: tuple(value.shape) for key, value in expected.items()}
    config = timm_towers.to_config(timm_dinov2.KIND, settings["image"])
    assert (config["timm_model_name"], config["image_size"], config["timm_proj"]) == (name, 224, "none")


def test_what_is_refused():
    vision = dict(timm_model_name="vit_base_patch14_dinov2", timm_pool="token", timm_proj="none")
    for changes, message in (
        (dict(image_size=532), "image_size=532: timm's DINOv2 wants a multiple of 14 up to 518"),
        (dict(image_size=100), "image_size=100: timm's"),
        (dict(timm_proj="mlp"), "timm_proj='mlp' is not read; mmjax has linear, none and null"),
        (dict(timm_pool="avg"), "timm_pool='avg' is not read; mmjax has 'token' with vit_base_patch14_dinov2"),
    ):
        with pytest.raises(UserError, match=message):
            timm_towers.from_config(vision | changes, "FILE")
    settings = timm_towers.from_config(vision, "FILE")
    for changes, message in ((dict(image_size=532), "model.image.image_size=532"), (dict(width=96), "width=96")):
        with pytest.raises(UserError, match=message):
            timm_towers.to_config(timm_dinov2.KIND, settings | changes)
