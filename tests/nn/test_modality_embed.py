"""Embeddings of windows, tubelets and columns: what loops find, and where they start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.nn.modality_embed import FeatureTokenizer, inflate_patches, inflated, map_windows


@pytest.mark.parametrize(
    "size, window, stride",
    [
        ((7,), (2,), (2,)),
        ((7,), (3,), (2,)),
        ((5, 7), (2, 3), (2, 3)),
        ((5, 7), (3, 2), (1, 3)),
        ((4, 3, 5), (2, 1, 2), (2, 1, 2)),
    ],
)
def test_windows_are_what_loops_find(size, window, stride):
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, *size, 3)), rng.standard_normal((*window, 3, 4))
    out = np.asarray(map_windows(jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32), stride))
    grid = tuple((length - w) // s + 1 for length, w, s in zip(size, window, stride, strict=True))
    assert out.shape == (2, *grid, 4)
    for cell in np.ndindex(grid):
        part = tuple(slice(i * s, i * s + w) for i, s, w in zip(cell, stride, window, strict=True))
        expected = np.tensordot(x[(slice(None), *part)], kernel, axes=len(window) + 1)
        np.testing.assert_allclose(out[(slice(None), *cell)], expected, atol=1e-5)


def test_inflated_kernels():
    kernel = jnp.asarray(np.random.default_rng(0).standard_normal((2, 2, 3, 4)), jnp.float32)
    for frames in (1, 2, 3):
        central = np.asarray(inflate_patches(kernel, frames))
        np.testing.assert_array_equal(central[frames // 2], kernel)
        assert np.count_nonzero(np.abs(central).sum(axis=(1, 2, 3, 4))) == 1
        np.testing.assert_allclose(inflate_patches(kernel, frames, "average").sum(axis=0), kernel, atol=1e-6)
    # The initialiser draws the image patch's own numbers.
    init = np.asarray(inflated("central_frame")(jax.random.key(0), (3, 8, 8, 3, 32)))
    assert not init[[0, 2]].any()
    assert init[1].std() == pytest.approx(192**-0.5, rel=0.05)


def test_columns_are_what_loops_find(random_params):
    module = FeatureTokenizer(width=4, categories=(3, 1, 2))
    numeric = np.array([[0.5, -2.0], [np.nan, np.inf]], np.float32)
    categorical = np.array([[2, 0, 1], [-1, 1, 0]], np.int32)
    params = random_params(jax.eval_shape(module.init, jax.random.key(0), numeric, categorical)["params"])
    assert jax.tree.map(np.shape, params) == {"weight": (2, 4), "bias": (5, 4), "category_embedding": (6, 4)}
    tokens, valid = jax.jit(module.apply)({"params": params}, numeric, categorical)
    np.testing.assert_array_equal(valid, [[1, 1, 1, 1, 1], [0, 0, 0, 0, 1]])
    table = params["category_embedding"]
    columns = [0.5 * params["weight"][0], -2 * params["weight"][1], table[2], table[3], table[5]]
    np.testing.assert_allclose(tokens[0], np.stack(columns) + params["bias"], atol=1e-6)
    np.testing.assert_allclose(tokens[1], np.stack([*np.zeros((4, 4)), table[4]]) + params["bias"], atol=1e-6)


@pytest.mark.full
def test_column_parameters_start_within_their_bounds():
    """U(-1 / sqrt(D), 1 / sqrt(D)), as in the paper's code."""
    module = FeatureTokenizer(width=16, categories=(200,))
    params = module.init(jax.random.key(0), jnp.zeros((1, 100)), jnp.zeros((1, 1), jnp.int32))["params"]
    for leaf in jax.tree.leaves(params):
        assert (
            np.abs(leaf).max() <= 0.25
            and abs(leaf.mean()) < 0.02
            and leaf.std() == pytest.approx(0.25 / 3**0.5, rel=0.1)
        )
