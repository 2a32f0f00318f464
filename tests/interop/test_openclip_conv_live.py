"""OpenCLIP's own models with convolutional towers: read, computed with gradients, written back, loaded there."""

import json

import jax
import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.interop import export, foreign_checkpoint, param_translation
from mmjax.models.two_tower import TwoTower
from mmjax.nn.config import STATISTICS
from mmjax.parallel import partition
from tests.helpers.towers import encode

pytestmark = pytest.mark.full
_TEXT = dict(context_length=8, vocab_size=20, width=16, heads=2, layers=1)
_CONVNEXT = dict(timm_model_name="test_convnext", timm_pool="", timm_drop=0.0, timm_drop_path=0.1, image_size=64)
VISION = {
    "resnet": dict(image_size=64, layers=[1, 3, 1, 2], width=8, patch_size=None),
    "resnet of other heads": dict(image_size=96, layers=[1, 1, 1, 1], width=6, head_width=32, patch_size=None),
    "convnext": _CONVNEXT | dict(timm_proj="linear"),
    "convnext, mlp": _CONVNEXT | dict(timm_proj="mlp"),
    "convnext, bias": _CONVNEXT | dict(timm_proj="linear", timm_proj_bias=True, timm_pool="avg", image_size=96),
}


def randomise(model):
    """Numbers so large that a wrong epsilon, activation or statistic shows, and none so large that they grow."""
    import torch

    generator = torch.Generator().manual_seed(0)
    draw = lambda shape: torch.randn(shape, generator=generator)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim:
                weight.copy_(draw(weight.shape) * (weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.3))
            if weight.ndim == 1 and name.endswith("weight"):
                weight.add_(1.0)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.3 * draw(buffer.shape))
            if name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model.eval()


def write(folder, model, config):
    import safetensors.torch

    folder.mkdir()
    safetensors.torch.save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    if config is not None:
        (folder / "open_clip_config.json").write_text(json.dumps(dict(model_cfg=config, preprocess_cfg={})))
    return folder


def build(config):
    import open_clip

    return open_clip.CLIP(**json.loads(json.dumps(config)))


def run(model, images, ids):
    import torch

    with torch.no_grad():
        pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        embeddings = model.encode_image(pixels, normalize=True), model.encode_text(torch.from_numpy(ids), True)
    return [x.numpy() for x in embeddings]


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", VISION)
def test_read_computed_and_written(name, quick, tmp_path):
    config = dict(embed_dim=24, quick_gelu=quick, vision_cfg=VISION[name], text_cfg=_TEXT)
    model = randomise(build(config))
    rng = np.random.default_rng(0)
    side = VISION[name]["image_size"]
    images, ids = rng.standard_normal((2, side, side, 3)).astype(np.float32), rng.integers(3, 20, (2, 8))
    want = run(model, images, ids)
    opened = foreign_checkpoint.open_checkpoint(write(tmp_path / "theirs", model, config))
    for result, wanted in zip(encode(opened, images, ids.astype(np.int32)), want, strict=True):
        np.testing.assert_allclose(result, wanted, atol=1e-5)

    params = opened.read(lambda _, array: array)
    written = tmp_path / "ours"
    export.write(written, "openclip", settings=opened.settings, preprocessing=opened.preprocessing, params=params)
    stored = json.loads((written / "open_clip_config.json").read_text())["model_cfg"]
    again = build(stored)
    import safetensors.torch

    again.load_state_dict(safetensors.torch.load_file(written / "open_clip_model.safetensors"), strict=True)
    for result, wanted in zip(run(again.eval(), images, ids), want, strict=True):
        np.testing.assert_array_equal(result, wanted)
    with pytest.raises(UserError, match=r"model.image.kind='(resnet|convnext)': .* --to=openclip writes it"):
        export.write(written, "hf", settings=opened.settings, preprocessing=opened.preprocessing, params=params)


@pytest.mark.parametrize("name", ["resnet", "convnext, mlp"])
def test_gradients(name, tmp_path):
    """Of every parameter and of the images, in training as in evaluation; statistics have none."""
    import torch

    config = dict(embed_dim=24, vision_cfg=VISION[name], text_cfg=_TEXT)
    model = randomise(build(config))
    rng = np.random.default_rng(0)
    images, weights = rng.standard_normal((2, 64, 64, 3)).astype(np.float32), rng.standard_normal((2, 24))
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).requires_grad_()
    (model.encode_image(pixels, normalize=True) * torch.from_numpy(weights)).sum().backward()

    opened = foreign_checkpoint.open_checkpoint(write(tmp_path / "theirs", model, config))
    module = TwoTower(**{key: value for key, value in opened.settings.items() if key != "max_logit_scale"})

    def score(params, images):
        embeddings = module.apply({"params": params}, images, method="image_embedding")
        return (embeddings * weights).sum()

    params = partition.nested(opened.read(lambda _, array: jax.numpy.asarray(array)))
    of_params, of_images = jax.grad(score, (0, 1))(params, jax.numpy.asarray(images))
    np.testing.assert_allclose(of_images.transpose(0, 3, 1, 2), pixels.grad.numpy(), atol=1e-5)
    ours = dict(param_translation.export_params(partition.flattened(of_params), opened.rows))
    theirs = {key: weight.grad for key, weight in model.named_parameters() if weight.grad is not None}
    assert len(theirs) > 30
    for key, gradient in theirs.items():
        np.testing.assert_allclose(ours[key], gradient.numpy(), atol=1e-5 * max(1, float(gradient.abs().max())))
    statistics = [array for key, array in ours.items() if key.endswith(STATISTICS)]
    assert len(statistics) == (56 if name == "resnet" else 0) and not any(array.any() for array in statistics)


def test_images_of_another_size_resample_the_pools_positions(tmp_path):
    config = dict(embed_dim=24, vision_cfg=VISION["resnet"], text_cfg=_TEXT)
    opened = foreign_checkpoint.open_checkpoint(write(tmp_path / "theirs", randomise(build(config)), config))
    ids = np.full((2, 8), 5, np.int32)
    image, _ = encode(opened, np.ones((2, 96, 96, 3), np.float32), ids)
    assert image.shape == (2, 24)


def test_a_file_without_a_config(tmp_path):
    """A ResNet's shapes tell all; those of a ConvNeXt all but the size of its images."""
    config = dict(embed_dim=24, vision_cfg=VISION["resnet"], text_cfg=_TEXT)
    folder = write(tmp_path / "resnet", randomise(build(config)), None)
    known = dict(activation="gelu", norm_eps=1e-5)
    text = {f"text.{key}": value for key, value in dict(heads=2, causal=True, pool="eos", eos_id=2, **known).items()}
    opened = foreign_checkpoint.open_checkpoint(folder, text)
    assert opened.settings["image"] | dict(remat="none") == opened.settings["image"]
    assert opened.settings["image"]["blocks"] == (1, 3, 1, 2) and opened.settings["image"]["pool_heads"] == 4
    config["vision_cfg"] = VISION["convnext"]
    folder = write(tmp_path / "convnext", randomise(build(config)), None)
    with pytest.raises(UserError, match=r"image.image_size \(a ConvNeXt reads images of any size\)"):
        foreign_checkpoint.open_checkpoint(folder, text)
    opened = foreign_checkpoint.open_checkpoint(folder, text | {"image.image_size": 64})
    assert opened.settings["image"]["widths"] == (24, 32, 48, 64)
