"""Lone towers of transformers of random configurations: read, computed, written back, loaded strictly there."""

import jax.numpy as jnp
import numpy as np
import pytest

import mmjax
from campaigns import hf_families
from campaigns.family_models import OF_TRAINING, open_folder, randomised
from mmjax.config.typed_groups import to_dict
from mmjax.models import make_model
from tests.helpers import lone_towers

pytestmark = pytest.mark.full


@pytest.mark.parametrize("name", lone_towers.CASES)
def test_a_random_tower_is_read_and_written_back(name, tmp_path):
    hf_families.check(lone_towers.CASES[name], 0, tmp_path)


@pytest.mark.parametrize("side", [12, 28, 44])
@pytest.mark.parametrize("name", ["ViTModel", "Dinov2Model", "Dinov2WithRegistersModel"])
def test_positions_for_another_size_are_those_of_transformers(name, side, tmp_path):
    import torch
    import transformers

    cls = getattr(transformers, name)
    sizes = dict(hidden_size=12, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=4)
    model = randomised(cls(cls.config_class(**sizes)), 0)
    model.save_pretrained(tmp_path)
    pixels = np.random.default_rng(0).standard_normal((2, side, side, 3)).astype(np.float32)
    more = dict(interpolate_pos_encoding=True) if name == "ViTModel" else {}
    with torch.no_grad():
        want = model(pixel_values=torch.tensor(pixels.transpose(0, 3, 1, 2)), **more).last_hidden_state[:, 0].numpy()
    present = jnp.ones((2, 1), bool)
    np.testing.assert_allclose(
        open_folder(tmp_path).module({"image": jnp.asarray(pixels)}, present), want, atol=1e-4, rtol=1e-4
    )
    resized = mmjax.load(tmp_path, image_size=side)
    table, grid = resized.params["encoder_image"]["position_embedding"], (side // 4) ** 2 + 1
    assert table.shape == (grid, 12) and resized.config.model.image.image_size == side
    settings = {name: x for name, x in to_dict(resized.config.model).items() if name not in OF_TRAINING}
    got = make_model.make_model(settings, jnp.float32, {}).apply(
        {"params": resized.params}, {"image": jnp.asarray(pixels)}, present
    )
    np.testing.assert_allclose(got, want, atol=1e-4, rtol=1e-4)
