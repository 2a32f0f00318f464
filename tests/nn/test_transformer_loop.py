"""Layers with backward passes of their own: their values and gradients are those of flax's and of autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from flax import linen as nn
from jax.extend.core import jaxprs_in_params

from mmjax.nn import transformer
from mmjax.nn.attention import AttentionSpec
from mmjax.nn.layers import Dense, add_parameter, broadcast_parameter
from mmjax.nn.mlp import ACTIVATIONS
from mmjax.nn.norms import LayerNorm
from mmjax.nn.transformer import Transformer

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((3, 5, 4, 6)), jnp.float32)


def relative(a, b):
    """Norm of the difference over the norm, of all leaves together."""
    flat = lambda tree: np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])
    return np.linalg.norm(flat(a) - flat(b)) / np.linalg.norm(flat(b))


def value_and_gradients(apply, params, x):
    def loss(params, x):
        y = apply({"params": params}, x).astype(jnp.float32)
        return (y * jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)).sum(), y

    (_, y), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(params, x)
    return y, gradients


LAYERS = {
    "dense": (
        lambda dtype: Dense(7, std=0.1, dtype=dtype),
        lambda dtype: nn.DenseGeneral(7, dtype=dtype, kernel_init=nn.initializers.normal(0.1)),
    ),
    "heads": (
        lambda dtype: Dense((2, 6), std=0.1, axes=2, dtype=dtype),
        lambda dtype: nn.DenseGeneral((2, 6), axis=(-2, -1), dtype=dtype, kernel_init=nn.initializers.normal(0.1)),
    ),
    "without bias": (
        lambda dtype: Dense(6, std=None, use_bias=False, dtype=dtype),
        lambda dtype: nn.Dense(6, use_bias=False, dtype=dtype),
    ),
    "norm": (
        lambda dtype: LayerNorm(1e-5, dtype),
        lambda dtype: nn.LayerNorm(1e-5, dtype=dtype, use_fast_variance=False),
    ),
    "norm without bias": (
        lambda dtype: LayerNorm(1e-5, dtype, use_bias=False),
        lambda dtype: nn.LayerNorm(1e-5, dtype=dtype, use_bias=False, use_fast_variance=False),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_equals_flax(name):
    ours, theirs = (make(jnp.float32) for make in LAYERS[name])
    params = theirs.init(jax.random.key(3), X)["params"]
    jax.tree.map(np.testing.assert_array_equal, ours.init(jax.random.key(3), X)["params"], params)
    params = jax.tree.map(lambda p: p + 0.3 * jnp.sin(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), params)
    assert relative(*(value_and_gradients(layer.apply, params, X) for layer in (ours, theirs))) < 1e-6


@pytest.mark.parametrize("name", LAYERS)
def test_bfloat16_layer_is_as_near_to_float32_as_flax_is(name):
    """Gradients of parameters come in float32, and have not been rounded on the way."""
    ours, theirs = (make(jnp.bfloat16) for make in LAYERS[name])
    exact = LAYERS[name][1](jnp.float32)
    params = theirs.init(jax.random.key(3), X)["params"]
    x = X.astype(jnp.bfloat16)
    wanted = value_and_gradients(exact.apply, params, x.astype(jnp.float32))
    ours_result, plain = (value_and_gradients(layer.apply, params, x) for layer in (ours, theirs))
    assert relative(ours_result, wanted) <= 1.1 * relative(plain, wanted)
    for gradient in jax.tree.leaves(ours_result[1][0]):
        assert gradient.dtype == jnp.float32
        assert not np.array_equal(gradient, gradient.astype(jnp.bfloat16).astype(jnp.float32))


def test_large_mean_in_half_precision():
    x = jnp.asarray(30 + RNG.standard_normal((64, 512)), jnp.bfloat16)
    layer, params = LayerNorm(1e-5, jnp.float32), {"scale": jnp.ones(512), "bias": jnp.zeros(512)}
    wide = np.asarray(x, np.float64)
    wanted = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(layer.apply({"params": params}, x), wanted, atol=1e-3)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slope_of_activation(name):
    plain = {
        "gelu": lambda x: x * scipy.stats.norm.cdf(x),
        "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))),
        "quick_gelu": lambda x: x * scipy.special.expit(1.702 * x),
        "relu": lambda x: np.maximum(x, 0),
        "silu": lambda x: x * scipy.special.expit(x),
    }[name]
    x = np.linspace(-12, 12, 3000)  # not at 0
    wanted = (plain(x + 1e-6) - plain(x - 1e-6)) / 2e-6
    gradient = jax.grad(lambda x: ACTIVATIONS[name](x).astype(jnp.float32).sum())
    np.testing.assert_allclose(gradient(jnp.asarray(x, jnp.float32)), wanted, atol=3e-6)
    half = gradient(jnp.asarray(x, jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), wanted, atol=0.03)


def test_broadcast_parameter():
    parameter = jnp.asarray(RNG.standard_normal((4, 6)), jnp.float32)
    x = X.astype(jnp.bfloat16)
    gradient = jax.grad(lambda p: (add_parameter(x, p) * x).astype(jnp.float32).sum())(parameter)
    np.testing.assert_allclose(gradient, np.asarray(x, np.float64).sum(axis=(0, 1)), rtol=1e-5)
    assert broadcast_parameter(parameter, (2, 4, 6), jnp.bfloat16).dtype == jnp.bfloat16


SPECS = {
    "whole": AttentionSpec(),
    "causal": AttentionSpec(causal=True),
    "padded": AttentionSpec(valid=jnp.arange(5) < jnp.array([[5], [4], [2]])),
    "segments": AttentionSpec(causal=True, segment=jnp.array([[0, 0, 1, 1, 1], [0, 1, 1, 1, 2], [0, 0, 0, 0, 0]])),
}


NOISY = dict(scan=False, dropout=0.3)


@pytest.mark.full
@pytest.mark.parametrize(
    ("spec", "changes"),
    [
        *((name, NOISY) for name in SPECS),
        ("segments", dict(scan=True)),
        ("segments", dict(scan=False, remat="dots", remat_keep=1, dropout=0.3, drop_path=0.2)),
        ("segments", dict(scan=False, qk_norm=True, remat="full")),
        ("segments", dict(scan=False, norm="post")),
    ],
    ids=str,
)
def test_chosen_token_is_that_of_all(spec, changes, random_params):
    """One token of each example has the values and gradients, noise included, that it has among all."""
    x, chosen = X[:, :, 0], jnp.array([4, 1, 0])
    module = Transformer(depth=3, heads=2, mlp_dim=8, **changes)
    params = random_params(jax.eval_shape(module.init, jax.random.key(0), x, AttentionSpec())["params"], std=0.4)
    keys = jax.random.split(jax.random.key(1), 3)

    def run(alone):
        def apply(params, x):
            out = module.apply(params, x, SPECS[spec], keys, chosen=chosen if alone else None).tokens
            return out if alone else out[jnp.arange(3), chosen][:, None]

        return value_and_gradients(apply, params, x)

    assert run(True)[0].shape == (3, 1, 6)
    assert relative(run(True), run(False)) < 1e-5


@pytest.mark.full
@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("remat", ["dots", "full", "attention"])
def test_layers_kept_whole(scan, remat, random_params):
    """How many of the last layers keep everything changes what is computed again, and no value."""
    x = X[:, :, 0]
    make = lambda **changes: Transformer(depth=3, heads=2, mlp_dim=8, scan=scan, **changes)
    params = random_params(jax.eval_shape(make().init, jax.random.key(0), x, AttentionSpec())["params"], std=0.4)

    def run(**changes):
        apply = lambda params, x: make(**changes).apply(params, x, AttentionSpec()).tokens
        return value_and_gradients(apply, params, x), _products(lambda x: value_and_gradients(apply, params, x), x)

    plain, fewest = run()
    results = [run(remat=remat, remat_keep=keep) for keep in (0, 1, 3)]
    for result, _ in results:
        assert relative(result, plain) < 1e-6
    counts = [count for _, count in results]
    assert counts[2] == fewest
    # A loop's body counts once, kept whole or not; unrolled, each kept layer computes its products once.
    assert counts[0] > counts[1] > counts[2] if not scan else counts[0] > counts[2]


@pytest.mark.full
@pytest.mark.parametrize("keep", [0, 2])
def test_layers_that_are_computed_again_loop_on_tpus(keep, random_params, monkeypatch):
    """And the others do not: those that keep everything, and the last one, computed for the token that is wanted."""
    x, chosen = X[:, :, 0], jnp.array([4, 1, 0])
    params = jax.eval_shape(Transformer(4, 2, 8).init, jax.random.key(0), x, AttentionSpec())["params"]
    params = random_params(params, std=0.4)

    def run(**changes):
        module = Transformer(depth=4, heads=2, mlp_dim=8, **changes)
        apply = lambda params, x: module.apply(params, x, AttentionSpec(), chosen=chosen).tokens
        return value_and_gradients(apply, params, x), jax.make_jaxpr(apply)({"params": params}, x).jaxpr

    plain, _ = run(scan=False)
    monkeypatch.setattr(transformer, "traced_platform", lambda: "tpu")
    ours_result, jaxpr = run(remat="full", remat_keep=keep)
    assert relative(ours_result, plain) < 1e-6
    (loop,) = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "scan"]
    assert loop.params["length"] == 4 - max(keep, 1)
    assert not any(eqn.primitive.name == "scan" for eqn in run(remat="dots")[1].eqns)


def _products(function, x):
    """Matrix products of the traced program; those of a loop's body once."""

    def count(jaxpr):
        inner = [sub for eqn in jaxpr.eqns for sub in jaxprs_in_params(eqn.params)]
        return sum(eqn.primitive.name == "dot_general" for eqn in jaxpr.eqns) + sum(map(count, inner))

    return count(jax.make_jaxpr(function)(x).jaxpr)
