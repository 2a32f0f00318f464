"""LiT on DINOv2 of transformers': killed, resumed, evaluated, and loaded by open_clip."""

import functools
import json
from unittest import mock

import numpy as np
import pytest

import mmjax
from mmjax.config.recipe import load_recipe
from mmjax.errors import UserError
from mmjax.inference import convert
from mmjax.interop import timm_dinov2, timm_towers
from tests.helpers import finetune, runs

pytestmark = pytest.mark.full
TIMM = "vit_small_patch14_dinov2"
PROCESSOR = dict(image_processor_type="BitImageProcessor", crop_size=dict(height=28, width=28))
PROCESSOR |= dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225], size=dict(shortest_edge=32))


@pytest.fixture
def tower(tmp_path):
    """A tiny DINOv2 of transformers, in its folder."""
    import transformers

    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14)
    transformers.Dinov2Model(transformers.Dinov2Config(**sizes)).save_pretrained(tmp_path / "dinov2")
    (tmp_path / "dinov2" / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return tmp_path / "dinov2"


def arguments(tower, workdir):
    """The command line of a tiny run on a tower."""
    recipe = f"--config={runs.ROOT}/configs/lit.py:variant=tiny,tower=dinov2-tiny,image_size=28"
    settings = dict(steps=30, batch_size=8, precision="float32", init_from=tower)
    settings |= {"data.train": "shapes", "data.tokenizer": "bytes", "data.workers": 0, "log.tensorboard": False}
    settings |= {"model.text.vocab_size": 259, "model.text.eos_id": 258, "checkpoint.every": 5, "log.every": 1}
    settings |= {"schedule.warmup": 1, "eval.every": 0}
    return [recipe, f"--workdir={workdir}", *(f"--config.{name}={value}" for name, value in settings.items())]


def test_a_run_is_killed_resumed_classifies_and_becomes_openclips(tower, tmp_path):
    import open_clip
    import timm
    import torch

    workdir = finetune.killed_once(lambda workdir: arguments(tower, workdir), tmp_path, 30)
    model = mmjax.load(workdir)
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 3)).astype(np.uint8)
    # The locked tower is the file's, whose positions are resampled.
    alone = mmjax.load(tower, image_size=28)
    image = model.encode_image(images)
    np.testing.assert_allclose(image, alone.encode_image(images), atol=1e-5)
    texts = ["a red square", "a blue circle"]
    probabilities, text = model.zero_shot(images, texts), model.encode_text(texts)
    assert probabilities.shape == (2, 2)
    # timm has no DINOv2 as small as this one.
    sizes = dict(width=32, depth=2, heads=2, mlp_dim=128)
    small = (timm_dinov2.KIND, timm_dinov2.TOWERS[TIMM] | sizes)
    with mock.patch.dict(timm_towers.TOWERS, {TIMM: small}):
        convert.convert(workdir, tmp_path / "openclip", to="openclip")
        again = mmjax.load(tmp_path / "openclip")
    create = functools.partial(timm.create_model, embed_dim=32, depth=2, num_heads=2)
    with mock.patch.object(timm, "create_model", create):
        theirs = open_clip.create_model(f"local-dir:{tmp_path / 'openclip'}", force_image_size=28).eval()
    spec = open_clip.get_model_preprocess_cfg(theirs)
    pixels = (images / 255 - np.array(spec["mean"])) / np.array(spec["std"])
    ids = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'openclip'}")(texts)
    with torch.no_grad():
        their_image = theirs.encode_image(torch.from_numpy(pixels.transpose(0, 3, 1, 2)).float(), normalize=True)
        their_text = theirs.encode_text(ids, normalize=True)
        logits = theirs.logit_scale.exp() * their_image @ their_text.T + theirs.logit_bias
    np.testing.assert_allclose(their_image, image, atol=1e-5)
    np.testing.assert_allclose(their_text, text, atol=1e-5)
    np.testing.assert_allclose(again.encode_image(images), image, atol=1e-5)
    np.testing.assert_allclose(torch.sigmoid(logits), again.zero_shot(images, texts, templates=["{}"]), atol=1e-5)


def test_other_towers_are_refused():
    with pytest.raises(UserError, match="tower='dino': write dinov2-S/14"):
        load_recipe(f"{runs.ROOT}/configs/lit.py:tower=dino")
    with pytest.raises(UserError, match="tower='Q/3' is not known"):
        load_recipe(f"{runs.ROOT}/configs/lit.py:tower=dinov2-Q/3")
