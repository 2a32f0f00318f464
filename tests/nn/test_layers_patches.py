"""Patch embeddings against explicit loops."""

import jax
import numpy as np
import pytest

from mmjax.nn.layers import PatchEmbed


@pytest.mark.parametrize("bias", [True, False])
def test_patches(random_params, bias):
    module = PatchEmbed(width=5, patch_size=2, use_bias=bias)
    images = np.random.default_rng(0).standard_normal((2, 4, 6, 3)).astype(np.float32)
    params = random_params(jax.eval_shape(module.init, jax.random.key(0), images)["params"])
    assert set(params) == ({"kernel", "bias"} if bias else {"kernel"})
    assert params["kernel"].shape == (2, 2, 3, 5)
    out = jax.jit(module.apply)({"params": params}, images)
    assert out.shape == (2, 6, 5)
    for b, row, column in np.ndindex(2, 2, 3):
        patch = images[b, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        expected = np.tensordot(patch, params["kernel"], axes=3) + params.get("bias", 0)
        np.testing.assert_allclose(out[b, 3 * row + column], expected, atol=1e-6)


def test_image_that_does_not_divide():
    with pytest.raises(ValueError, match="4x5 pixels does not divide into patches of 2"):
        jax.eval_shape(PatchEmbed(3, 2, False).init, jax.random.key(0), np.zeros((1, 4, 5, 3), np.float32))
