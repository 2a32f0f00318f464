"""LiT on DINOv2: a folder of transformers' becomes the locked tower of a run that is stopped, resumed and evaluated."""

import json
import shutil

import numpy as np
import pytest

import mmjax
from mmjax.config.recipe import load_recipe
from mmjax.errors import UserError
from tests.helpers import runs

pytestmark = pytest.mark.full
PROCESSOR = dict(image_processor_type="BitImageProcessor", crop_size=dict(height=28, width=28))
PROCESSOR |= dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225], size=dict(shortest_edge=32))


def recipe(arg, **changes):
    config = load_recipe(f"{runs.ROOT}/configs/lit.py:{arg}")
    with config.ignore_type():
        config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return config


@pytest.fixture
def tower(tmp_path):
    """A tiny DINOv2 of transformers, in its folder."""
    import transformers

    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14)
    transformers.Dinov2Model(transformers.Dinov2Config(**sizes)).save_pretrained(tmp_path / "dinov2")
    (tmp_path / "dinov2" / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return tmp_path / "dinov2"


def test_a_run_is_stopped_resumed_and_classifies(tower, tmp_path):
    settings = dict(steps=4, batch_size=16, precision="float32", init_from=str(tower), eval__every=4)
    settings |= dict(checkpoint__every=2, checkpoint__keep=9, data__train="shapes", data__tokenizer="bytes")
    settings |= dict(model__text__vocab_size=259, model__text__eos_id=258, data__workers=0, log__tensorboard=False)
    settings |= dict(schedule__warmup=1, eval__batch_size=8)
    config = recipe("variant=tiny,tower=dinov2-tiny,image_size=28", **settings)
    runs.train(config, tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "checkpoints" / "4")
    runs.train(config, tmp_path / "b")
    runs.assert_same_arrays(runs.arrays(tmp_path / "a", 4), runs.arrays(tmp_path / "b", 4))
    model = mmjax.load(tmp_path / "b")
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 3)).astype(np.uint8)
    # The locked tower is the file's, whose positions are resampled.
    alone = mmjax.load(tower, image_size=28)
    np.testing.assert_allclose(model.encode_image(images), alone.encode_image(images), atol=1e-5)
    probabilities = model.zero_shot(images, ["a red square", "a blue circle"])
    assert probabilities.shape == (2, 2)


def test_other_towers_are_refused():
    with pytest.raises(UserError, match="tower='dino': write dinov2-S/14"):
        recipe("tower=dino")
    with pytest.raises(UserError, match="tower='Q/3' is not known"):
        recipe("tower=dinov2-Q/3")
