"""timm's vision transformers: read and computed as timm does, pictures prepared as timm does."""

import numpy as np
import pytest
from PIL import Image

import mmjax
from tests.helpers import timm_vits

pytestmark = pytest.mark.full


@pytest.mark.parametrize("case", timm_vits.CASES)
def test_a_random_tower_is_read(case, tmp_path):
    timm_vits.check(case, 0, tmp_path)


@pytest.mark.parametrize("mode", ["center", "squash"])
def test_a_picture_is_prepared_as_there(mode, tmp_path):
    import timm.data
    import torch

    rng = np.random.default_rng(1)
    model, args = timm_vits.make("plain", rng, 1)
    timm_vits.save(model, args, tmp_path, crop_pct=1.0, crop_mode=mode, interpolation="bicubic", mean=(0.4, 0.5, 0.6))
    picture = Image.fromarray(rng.integers(0, 256, (45, 31, 3), np.uint8))
    size = dict(input_size=(3, args["img_size"], args["img_size"]))
    transform = timm.data.create_transform(**timm.data.resolve_data_config(size, model=model))
    with torch.no_grad():
        want = model(transform(picture)[None]).numpy()
    got = mmjax.load(tmp_path).encode_image([picture])
    np.testing.assert_allclose(got, want / np.linalg.norm(want), atol=2e-5)
