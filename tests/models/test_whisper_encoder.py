"""Whisper's encoder: its convolutions, what counts as beyond the end, and what stays fixed."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.fusion import classifier
from mmjax.models.variants import two_tower
from mmjax.nn.positions import side_by_side_sinusoids

SETTINGS = dict(kind="whisper", width=8, depth=1, heads=2, mlp_dim=12, frames=12, mel_bins=6)
SOUNDS = np.random.default_rng(0).standard_normal((2, 12, 6)).astype(np.float32)


def make(dtype=jnp.float32, **changes):
    return classifier.make_encoder("x", SETTINGS | changes, dtype=dtype)


@pytest.fixture(scope="module")
def params(random_params):
    return random_params(jax.eval_shape(make().init, jax.random.key(0), SOUNDS)["params"], std=0.3)


@pytest.fixture(scope="module")
def run():
    return jax.jit(lambda params, *args: make().apply({"params": params}, *args).tokens)


def convolved(x, params, stride):
    """A frame at a time in float64."""
    x = np.pad(np.asarray(x, np.float64), ((1, 1), (0, 0)))
    windows = [x[start : start + 3] for start in range(0, len(x) - 2, stride)]
    y = np.stack([np.einsum("tc,tcd->d", window, params["kernel"]) for window in windows]) + params["bias"]
    return y * 0.5 * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))


@pytest.mark.parametrize("frames", [12, 7])
def test_the_stem(params, frames):
    """With layers that add nothing the tokens are the final norm of the stem and its positions."""
    module = make(depth=0)
    stem = {name: value for name, value in params.items() if name != "transformer"}
    tokens = jax.jit(lambda params, x: module.apply({"params": params}, x).tokens)(stem, SOUNDS[:, :frames])
    for x, result in zip(SOUNDS[:, :frames], tokens, strict=True):
        x = convolved(convolved(x, params["conv1"], 1), params["conv2"], 2)
        x = x + params["position_embedding"][: len(x)]
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        np.testing.assert_allclose(result, x * params["norm"]["scale"] + params["norm"]["bias"], atol=2e-5)


def test_a_shorter_spectrogram_is_a_longer_one_masked(params, run):
    """Frames that are not valid are beyond the end for both convolutions, and for attention."""
    short = run(params, SOUNDS[:, :7])
    longer = run(params, SOUNDS, np.broadcast_to(np.arange(12) < 7, (2, 12)))
    np.testing.assert_allclose(longer[:, :4], short, atol=1e-6)
    silence = run(params, np.where(np.arange(12)[:, None] < 7, SOUNDS, 0))
    assert np.abs(silence[:, :4] - short).max() > 1e-2  # which is heard, where nothing says otherwise


def test_positions_are_sines_and_cosines_and_stay(params):
    made = jax.jit(make().init)(jax.random.key(0), SOUNDS)["params"]["position_embedding"]
    np.testing.assert_array_equal(made, side_by_side_sinusoids(6, 8))
    module = make(jnp.bfloat16, depth=0)
    stem = {name: value for name, value in params.items() if name != "transformer"}

    def loss(params):
        return module.apply({"params": params}, jnp.asarray(SOUNDS)).tokens.astype(jnp.float32).std()

    gradient = jax.jit(jax.grad(loss))(stem)
    assert not gradient.pop("position_embedding").any()
    rounded = lambda x: np.asarray(x.astype(jnp.bfloat16).astype(jnp.float32))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert leaf.dtype == jnp.float32 and (rounded(leaf) != np.asarray(leaf)).mean() > 0.5, path


def test_published_parameter_count():
    """The encoder of Whisper's small: 88.2 million, the table of positions among them."""
    settings = two_tower.encoder("whisper", "base")
    shapes = jax.eval_shape(classifier.make_encoder("x", settings | dict(kind="whisper")).init, jax.random.key(0),
                            jax.ShapeDtypeStruct((1, 3000, 80), np.float32))["params"]  # fmt: skip
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 88_154_112
