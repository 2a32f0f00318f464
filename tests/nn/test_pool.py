"""Each pool against numpy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.nn.pool import Pool

VALID = jnp.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], bool)


@pytest.fixture(scope="module")
def tokens():
    return jnp.asarray(np.random.default_rng(0).standard_normal((3, 4, 8)), jnp.float32)


def test_cls_and_last(tokens):
    np.testing.assert_array_equal(Pool("cls").apply({}, tokens), tokens[:, 0])
    # SigLIP's text tower takes the last position, padding or not.
    np.testing.assert_array_equal(Pool("last").apply({}, tokens, VALID), tokens[:, -1])


def test_eos(tokens):
    out = Pool("eos").apply({}, tokens, None, jnp.array([3, 0, 2]))
    np.testing.assert_array_equal(out, tokens[jnp.arange(3), jnp.array([3, 0, 2])])


def test_mean(tokens):
    np.testing.assert_allclose(Pool("mean").apply({}, tokens), tokens.mean(axis=1), atol=1e-6)
    out = Pool("mean").apply({}, jnp.where(VALID[..., None], tokens, jnp.nan), VALID)
    np.testing.assert_allclose(out, [tokens[0].mean(axis=0), tokens[1, :2].mean(axis=0), np.zeros(8)], atol=1e-6)


@pytest.mark.parametrize("valid", [None, VALID], ids=["all", "valid"])
def test_map(random_params, tokens, valid):
    module = Pool("map", heads=2, mlp_dim=6, activation="gelu", norm_eps=1e-2)
    params = random_params(jax.eval_shape(module.init, jax.random.key(0), tokens, valid)["params"], std=0.4)
    out = jax.jit(module.apply)({"params": params}, tokens, valid)
    assert out.shape == (3, 8)

    attention, mlp = params["attention"], params["mlp"]
    query = np.einsum("d,dhk->hk", params["probe"][0, 0], attention["q"]["kernel"]) + attention["q"]["bias"]
    keys, values = (
        np.einsum("bnd,dthk->tbnhk", tokens, attention["kv"]["kernel"]) + attention["kv"]["bias"][:, None, None]
    )
    for b in range(3):
        real = np.arange(4) if valid is None else np.flatnonzero(valid[b])
        heads = np.zeros((2, 4))
        for h in range(2):
            if len(real):
                weights = np.exp(keys[b, real, h] @ query[h] / math.sqrt(4))
                heads[h] = weights @ values[b, real, h] / weights.sum()
        x = np.einsum("hk,hkd->d", heads, attention["out"]["kernel"]) + attention["out"]["bias"]
        y = (x - x.mean()) / np.sqrt(x.var() + 1e-2) * params["norm"]["scale"] + params["norm"]["bias"]
        y = y @ mlp["fc1"]["kernel"] + mlp["fc1"]["bias"]
        y = np.array([0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in y])
        np.testing.assert_allclose(out[b], x + y @ mlp["fc2"]["kernel"] + mlp["fc2"]["bias"], atol=1e-5)


def test_unknown_pool(tokens):
    with pytest.raises(ValueError, match="pool='max' is not known; choose one of: cls"):
        Pool("max").apply({}, tokens)


def test_map_of_several_queries(random_params, tokens):
    """Each query pools as if it were alone."""
    module = Pool("map", heads=2, mlp_dim=6, queries=3, width=6, norm_inputs=True)
    params = random_params(jax.eval_shape(module.init, jax.random.key(0), tokens, VALID)["params"], std=0.4)
    out = jax.jit(module.apply)({"params": params}, tokens, VALID)
    assert out.shape == (3, 3, 6)
    single = jax.jit(module.clone(queries=1).apply)
    for query in range(3):
        alone = params | {"probe": params["probe"][:, query : query + 1]}
        np.testing.assert_allclose(out[:, query], single({"params": alone}, tokens, VALID), atol=1e-6)
