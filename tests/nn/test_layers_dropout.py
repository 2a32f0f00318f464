"""Noise that belongs to an example: not to its neighbours, nor to the split of the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.encoders import drop_patches
from mmjax.nn.block import drop_path
from mmjax.nn.layers import dropout, fold_keys

FUNCTIONS = {
    "dropout": lambda x, keys: dropout(x, 0.4, keys),
    "drop_path": lambda x, keys: drop_path(x, 0.4, keys),
    "drop_patches": lambda x, keys: drop_patches(x, 0.4, keys),
}


def keys_of(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_example_does_not_see_its_batch(name):
    function = jax.jit(FUNCTIONS[name])
    x = np.random.default_rng(0).standard_normal((16, 10, 3)).astype(np.float32)
    keys = keys_of(16)
    full = function(x, keys)
    order = np.random.default_rng(1).permutation(16)
    np.testing.assert_array_equal(function(x[order], keys[order]), full[order])
    np.testing.assert_array_equal(
        np.concatenate([function(x[i : i + 4], keys[i : i + 4]) for i in range(0, 16, 4)]), full
    )
    neighbours = np.where(np.arange(16)[:, None, None] == 3, x, 9.0)
    np.testing.assert_array_equal(function(neighbours, keys)[3], full[3])
    # The noise does depend on the key.
    assert not np.array_equal(function(x, keys_of(16, seed=1)), full)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_without_keys_nothing_is_dropped(name):
    x = jnp.ones((2, 10, 3))
    assert FUNCTIONS[name](x, None) is x


def test_dropout_rate_and_scale():
    out = np.asarray(jax.jit(lambda x, keys: dropout(x, 0.3, keys))(np.ones((64, 20, 30), np.float32), keys_of(64)))
    assert set(np.unique(out)) == {np.float32(0), np.float32(1 / 0.7)}
    share = (out > 0).mean()
    assert abs(share - 0.7) < 5 * (0.3 * 0.7 / out.size) ** 0.5
    # Examples, positions and channels are independent: no row or column stands out.
    assert abs((out > 0).mean(axis=(1, 2)) - 0.7).max() < 5 * (0.21 / 600) ** 0.5


def test_drop_path_drops_whole_examples():
    out = np.asarray(
        jax.jit(lambda x, keys: drop_path(x, 0.25, keys))(np.ones((2000, 2, 2), np.float32), keys_of(2000))
    )
    first = out[:, :1, :1]
    assert (out == first).all()
    assert set(np.unique(out)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs((first > 0).mean() - 0.75) < 5 * (0.1875 / 2000) ** 0.5


def test_fold_keys_makes_new_keys():
    keys = keys_of(4)
    assert fold_keys(None, 1) is None
    made = [jax.random.key_data(k) for k in (keys, fold_keys(keys, 0), fold_keys(keys, 1))]
    assert len({tuple(row) for table in made for row in np.asarray(table).tolist()}) == 12
