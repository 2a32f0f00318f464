"""The image and the text tower: resolutions, patch dropout, who sees which token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.encoders import TextTransformer, VisionTransformer, drop_patches
from mmjax.nn.positions import resample_positions

VISION = dict(image_size=12, patch_size=4, width=8, depth=2, heads=2, mlp_dim=16)
TEXT = dict(vocab_size=20, context_length=8, width=8, depth=2, heads=2, mlp_dim=16, eos_id=19)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).standard_normal((3, 12, 12, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def vision_params(random_params, images):
    return random_params(jax.eval_shape(VisionTransformer(**VISION).init, jax.random.key(0), images)["params"], std=0.3)


def see(params, images, keys=None, intermediates=False, **changes):
    module = VisionTransformer(**(VISION | changes))
    run = jax.jit(lambda params, *args: module.apply({"params": params}, *args, intermediates=intermediates))
    return run(params, images, keys)


def test_tokens_and_intermediates(vision_params, images):
    encoded = see(vision_params, images, intermediates=True)
    assert encoded.tokens.shape == (3, 10, 8)
    assert encoded.valid is None and encoded.eos is None
    assert encoded.layers.shape == (2, 3, 10, 8)
    # The tokens are the last block's output after the final norm.
    norm = vision_params["norm"]
    x = np.asarray(encoded.layers[-1], np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * norm["scale"] + norm["bias"]
    np.testing.assert_allclose(encoded.tokens, x, atol=1e-5)
    assert see(vision_params, images).layers is None


def test_another_resolution_is_a_model_with_resampled_positions(vision_params):
    larger = np.random.default_rng(1).standard_normal((2, 16, 20, 3)).astype(np.float32)
    tokens = see(vision_params, larger).tokens
    assert tokens.shape == (2, 1 + 4 * 5, 8)
    # On a constant image only positions tell patches apart: the table must have been resampled to 4 x 5, rows first.
    silent = jax.tree.map(lambda x: x, vision_params)
    silent["transformer"] = jax.tree.map(np.zeros_like, silent["transformer"])
    x = np.asarray(see(silent, np.zeros_like(larger), pre_norm=True).tokens[0, 1:])
    table = np.asarray(resample_positions(jnp.asarray(silent["position_embedding"]), (3, 3), (4, 5), prefix=1))[1:]
    for name in ("norm_pre", "norm"):
        table = (table - table.mean(-1, keepdims=True)) / np.sqrt(table.var(-1, keepdims=True) + 1e-5)
        table = table * silent[name]["scale"] + silent[name]["bias"]
    np.testing.assert_allclose(x, table, atol=1e-4)


def test_image_that_does_not_divide(vision_params):
    with pytest.raises(ValueError, match="13x12 pixels does not divide"):
        see(vision_params, np.zeros((1, 13, 12, 3), np.float32))


def test_patch_dropout_keeps_the_class_token_and_the_order(vision_params, images):
    # Layers that add nothing: each output token is then its own input token, and can be looked up.
    silent = vision_params | {"transformer": jax.tree.map(np.zeros_like, vision_params["transformer"])}
    baseline = np.asarray(see(silent, images).tokens)
    keys = jax.random.split(jax.random.key(0), 3)
    part = np.asarray(see(silent, images, keys, patch_dropout=0.5).tokens)
    assert part.shape == (3, 1 + round(9 * 0.5), 8)
    kept = []
    for b in range(3):
        distances = np.abs(part[b][:, None] - baseline[b][None]).max(axis=-1)
        assert (distances.min(axis=1) < 1e-5).all()
        kept.append(distances.argmin(axis=1).tolist())
        assert kept[-1][0] == 0 and kept[-1] == sorted(set(kept[-1]))
    assert len(set(map(tuple, kept))) > 1
    np.testing.assert_array_equal(see(silent, images, None, patch_dropout=0.5).tokens, baseline)


TEXTS = np.array([[18, 3, 4, 19, 0, 0, 0, 0], [18, 5, 6, 7, 8, 9, 2, 19], [18, 19, 19, 19, 3, 19, 0, 0]], np.int32)


@pytest.fixture(scope="module")
def text_params(random_params):
    return random_params(jax.eval_shape(TextTransformer(**TEXT).init, jax.random.key(0), TEXTS)["params"], std=0.3)


def read(params, text, mask=None, **changes):
    module = TextTransformer(**(TEXT | changes))
    return jax.jit(lambda params, *args: module.apply({"params": params}, *args))(params, text, mask)


def test_first_end_of_text(text_params):
    np.testing.assert_array_equal(read(text_params, TEXTS).eos, [3, 7, 1])


def test_causal_text_does_not_see_what_follows(text_params):
    changed = TEXTS.copy()
    changed[0, 4:] = [1, 19, 19, 7]
    a, b = read(text_params, TEXTS), read(text_params, changed)
    np.testing.assert_array_equal(a.tokens[0, :4], b.tokens[0, :4])
    assert a.eos[0] == b.eos[0] == 3
    assert not np.allclose(a.tokens[0, 4:], b.tokens[0, 4:])
    # A shorter array uses the first positions: the same tokens come out.
    np.testing.assert_allclose(read(text_params, TEXTS[:, :5]).tokens, a.tokens[:, :5], atol=1e-6)


def test_bidirectional_text_sees_padding_unless_masked(text_params):
    mask = np.arange(8) < np.array([4, 8, 6])[:, None]
    changed = np.where(mask, TEXTS, 11).astype(np.int32)
    a, b = (read(text_params, x, mask, causal=False) for x in (TEXTS, changed))
    assert a.valid is None
    assert not np.allclose(a.tokens[0, :4], b.tokens[0, :4])
    a, b = (read(text_params, x, mask, causal=False, mask_padding=True) for x in (TEXTS, changed))
    np.testing.assert_array_equal(a.valid, mask)
    np.testing.assert_array_equal(a.tokens[mask], b.tokens[mask])


def test_text_longer_than_the_context(text_params):
    with pytest.raises(ValueError, match="text of 9 tokens is longer than the model's context_length=8"):
        read(text_params, np.zeros((1, 9), np.int32))


def test_drop_patches_keeps_a_subset_in_order():
    tokens = np.broadcast_to(np.arange(10, dtype=np.float32)[None, :, None], (2000, 10, 1))
    keys = jax.random.split(jax.random.key(0), 2000)
    kept = np.asarray(jax.jit(lambda x, keys: drop_patches(x, 0.3, keys))(tokens, keys))[..., 0]
    assert kept.shape == (2000, 7)
    assert (np.diff(kept, axis=1) > 0).all()
    counts = np.bincount(kept.astype(int).ravel(), minlength=10) / 2000
    assert abs(counts - 0.7).max() < 5 * (0.21 / 2000) ** 0.5  # every patch is as likely


def test_drop_patches_keeps_at_least_one():
    assert drop_patches(jnp.ones((2, 4, 1)), 0.99, jax.random.split(jax.random.key(0), 2)).shape == (2, 1, 1)
