"""What is written for OpenCLIP, against OpenCLIP: the files that it wrote itself, and the library where it imports."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from mmjax.interop import export, timm_siglip
from mmjax.interop.tensor_files import open_tensors
from tests.interop.test_foreign_checkpoint import GOLDEN, expected, opened

# The golden tower of timm's has a size that timm does not register, under a name that it does not have.
TOWER = "vit_golden_siglip"


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a golden model again: the arrays in the file, and its config."""
    monkeypatch.setattr(timm_siglip, "timm_name", lambda image: TOWER)

    def write(name):
        checkpoint = opened(name)
        params = checkpoint.read(lambda _, array: array)
        prepared = checkpoint.preprocessing
        export.write(tmp_path, "openclip", settings=checkpoint.settings, preprocessing=prepared, params=params)
        config = json.loads((tmp_path / "open_clip_config.json").read_text())
        return load_file(tmp_path / "open_clip_model.safetensors"), config

    return write


def theirs(name):
    """The arrays of a golden file by OpenCLIP's names, without what a trainer puts around them."""
    (file,) = (file for file in (GOLDEN / name).iterdir() if file.suffix in (".safetensors", ".pt"))
    if file.suffix == ".safetensors":
        return load_file(file)
    tensors, around = open_tensors(file), "state_dict.module._orig_mod."
    return {key.removeprefix(around): tensors.read(key) for key in tensors if key.startswith(around)}


def plain(name):
    """A CustomTextCLIP whose image tower is OpenCLIP's own is written as a CLIP, which has no `text.` before names."""
    return name.removeprefix("text.")


TEXT = dict(context_length=7, vocab_size=40, width=16, heads=2, layers=2, mlp_ratio=1.5)
VISION = dict(image_size=16, layers=2, width=16, head_width=8, patch_size=8, mlp_ratio=1.5)
# As make_interop.py gave them to OpenCLIP.
CONFIGS = {
    "openclip-quickgelu": dict(embed_dim=12, vision_cfg=VISION, text_cfg=TEXT, quick_gelu=True),
    "openclip-custom": dict(
        embed_dim=12, vision_cfg=VISION, text_cfg=TEXT | dict(proj_bias=True), init_logit_bias=-10.0
    ),
    "openclip-siglip": dict(
        embed_dim=16,
        vision_cfg=dict(
            image_size=16, timm_model_name=TOWER, timm_model_pretrained=False, timm_pool="map", timm_proj="none"
        ),
        text_cfg=TEXT
        | dict(no_causal_mask=True, proj_bias=True, pool_type="last")
        | dict(norm_kwargs=dict(eps=1e-6), act_kwargs=dict(approximate="tanh")),
        init_logit_bias=-10.0,
        custom_text=True,
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_arrays_are_those_that_openclip_wrote(name, written):
    """Every name, shape and bit."""
    ours, _ = written(name)
    golden = theirs(name)
    if name == "openclip-custom":
        golden = {plain(key): array for key, array in golden.items()}
    assert set(ours) == set(golden) and len(ours) > 30
    for key, array in golden.items():
        result = ours[key]
        assert (result.shape, result.dtype) == (array.shape, array.dtype), key
        assert result.tobytes() == np.ascontiguousarray(array).tobytes(), key


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_are_those_that_openclip_was_given(name, written):
    _, config = written(name)
    assert config["model_cfg"] == CONFIGS[name]
    assert set(config["preprocess_cfg"]) <= {"size", "mean", "std", "interpolation", "resize_mode"}


def test_the_config_in_the_golden_folder_is_written_again(written):
    golden = json.loads((GOLDEN / "openclip-quickgelu" / "open_clip_config.json").read_text())
    _, config = written("openclip-quickgelu")
    assert config["model_cfg"] == golden["model_cfg"]
    assert config["preprocess_cfg"] | golden["preprocess_cfg"] == config["preprocess_cfg"]


@pytest.mark.full
@pytest.mark.parametrize("name", CONFIGS)
def test_openclip_itself_computes_the_same(name, written, tmp_path):
    """Files of these libraries stand for them in the tests above."""
    import open_clip
    import torch

    if name == "openclip-siglip":
        from tests.golden.make_interop import register_tower

        register_tower()
    written(name)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    want = expected(name)
    images = torch.from_numpy(want["images"].transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        image = model.eval().encode_image(images, normalize=True).numpy()
        text = model.encode_text(torch.from_numpy(want["ids"].astype(np.int64)), normalize=True).numpy()
        logits = model.logit_scale.exp().item() * image @ text.T
        logits += model.logit_bias.item() if model.logit_bias is not None else 0.0
    for result, key in ((image, "image"), (text, "text"), (logits, "logits")):
        np.testing.assert_allclose(result, want[key], atol=1e-5, err_msg=key)
    from PIL import Image

    from mmjax.data.image.transforms import ImageSpec, eval_transform

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype=np.uint8))
    spec = ImageSpec(**opened(name).preprocessing)
    ours = (eval_transform(picture, spec) / 255 - spec.mean) / spec.std
    np.testing.assert_allclose(preprocess(picture).numpy().transpose(1, 2, 0), ours, atol=1e-6)
