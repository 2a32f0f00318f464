"""The Transformer against float64 numpy, and its options against one another."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.nn.attention import AttentionSpec
from mmjax.nn.mlp import ACTIVATIONS
from mmjax.nn.norms import layer_norm
from mmjax.nn.transformer import Transformer

DEPTH, HEADS, WIDTH, HIDDEN = 3, 2, 8, 12
FORMULAS = {
    "gelu": lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x / (1 + math.exp(-1.702 * x)),
    "relu": lambda x: max(x, 0.0),
    "silu": lambda x: x / (1 + math.exp(-x)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name):
    x = np.linspace(-6, 6, 41)
    expected = [FORMULAS[name](value) for value in x]
    np.testing.assert_allclose(jax.jit(ACTIVATIONS[name])(x.astype(np.float32)), expected, atol=2e-6)


def numpy_norm(x, scale, bias, epsilon):
    mean = x.mean(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(x.var(axis=-1, keepdims=True) + epsilon) * scale + bias


def test_layer_norm_with_a_large_mean():
    """The variance of numbers around 1000 is lost when it is taken as the difference of two squares."""
    x = jnp.asarray(1000 + np.random.default_rng(0).standard_normal((4, 64)), jnp.float32)
    out = layer_norm(1e-5, jnp.float32).apply({"params": {"scale": jnp.ones(64), "bias": jnp.zeros(64)}}, x)
    np.testing.assert_allclose(out, numpy_norm(np.asarray(x, np.float64), 1, 0, 1e-5), atol=1e-3)


def make(**changes):
    settings = dict(depth=DEPTH, heads=HEADS, mlp_dim=HIDDEN, activation="gelu", norm_eps=1e-2)
    return Transformer(**(settings | changes))


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(1).standard_normal((2, 5, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def params(random_params, tokens):
    return random_params(jax.eval_shape(make().init, jax.random.key(0), tokens, AttentionSpec())["params"], std=0.4)


def run(params, tokens, keys=None, *, intermediates=False, **changes):
    """Returns output, intermediates and the gradients of a fixed projection of the output."""
    module = make(**changes)
    weights = np.random.default_rng(2).standard_normal(tokens.shape)

    @jax.jit
    def loss(params, tokens, keys):
        out, layers, _ = module.apply(
            {"params": params}, tokens, AttentionSpec(causal=True), keys, intermediates=intermediates
        )
        return (out * weights).sum(), (out, layers)

    (_, (out, layers)), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, tokens, keys)
    return out, layers, gradients


@pytest.fixture(scope="module")
def noise():
    return jax.random.split(jax.random.key(5), 2)


@pytest.fixture(scope="module")
def scanned(params, tokens, noise):
    return run(params, tokens, noise, intermediates=True, dropout=0.2, drop_path=0.3)


def test_against_numpy(params, tokens):
    out, layers, _ = run(params, tokens)
    assert layers is None
    x = tokens.astype(np.float64)
    future = np.triu(np.full((5, 5), -np.inf), 1)
    for i in range(DEPTH):
        layer = jax.tree.map(lambda leaf, i=i: leaf[i].astype(np.float64), params["layers"])
        y = numpy_norm(x, layer["norm1"]["scale"], layer["norm1"]["bias"], 1e-2)
        qkv = layer["attention"]["qkv"]
        q, k, v = np.einsum("bnd,dthk->tbhnk", y, qkv["kernel"]) + qkv["bias"][:, None, :, None]
        scores = np.exp(q @ k.swapaxes(-1, -2) / np.sqrt(WIDTH // HEADS) + future)
        heads = (scores / scores.sum(axis=-1, keepdims=True)) @ v
        x = (
            x
            + np.einsum("bhnk,hkd->bnd", heads, layer["attention"]["out"]["kernel"])
            + layer["attention"]["out"]["bias"]
        )
        y = numpy_norm(x, layer["norm2"]["scale"], layer["norm2"]["bias"], 1e-2)
        y = np.vectorize(FORMULAS["gelu"])(y @ layer["mlp"]["fc1"]["kernel"] + layer["mlp"]["fc1"]["bias"])
        x = x + y @ layer["mlp"]["fc2"]["kernel"] + layer["mlp"]["fc2"]["bias"]
    np.testing.assert_allclose(out, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"scan": False},
        pytest.param({"remat": "full"}, marks=pytest.mark.full),
        {"remat": "dots"},
        pytest.param({"scan": False, "remat": "full"}, marks=pytest.mark.full),
        pytest.param({"scan": False, "remat": "dots"}, marks=pytest.mark.full),
    ],
    ids=str,
)
def test_scan_and_remat_change_nothing(params, tokens, noise, scanned, changes):
    """With dropout and stochastic depth on: recomputation must meet the same noise."""
    result = run(params, tokens, noise, intermediates=True, dropout=0.2, drop_path=0.3, **changes)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), result, scanned)


def test_intermediates(scanned, tokens):
    out, layers, _ = scanned
    assert layers.shape == (DEPTH, *tokens.shape)
    np.testing.assert_array_equal(layers[-1], out)
    assert not np.allclose(layers[0], layers[1])


@pytest.mark.parametrize("scan", [True, False])
def test_parameters_are_stacked(tokens, scan):
    params = jax.eval_shape(make(scan=scan).init, jax.random.key(0), tokens, AttentionSpec())["params"]
    assert jax.tree.map(lambda x: x.shape, params) == {
        "layers": {
            "norm1": {"scale": (3, 8), "bias": (3, 8)},
            "attention": {
                "qkv": {"kernel": (3, 8, 3, 2, 4), "bias": (3, 3, 2, 4)},
                "out": {"kernel": (3, 2, 4, 8), "bias": (3, 8)},
            },
            "norm2": {"scale": (3, 8), "bias": (3, 8)},
            "mlp": {
                "fc1": {"kernel": (3, 8, 12), "bias": (3, 12)},
                "fc2": {"kernel": (3, 12, 8), "bias": (3, 8)},
            },
        }
    }


def test_initial_sizes():
    """OpenAI's: width^-0.5 for q, k, v; (2 width)^-0.5 for fc1; residual outputs smaller by (2 depth)^-0.5."""
    module = make(depth=2, mlp_dim=128)
    params = jax.jit(module.init)(jax.random.key(0), np.zeros((1, 2, 64), np.float32), AttentionSpec())["params"][
        "layers"
    ]
    stds = {
        "qkv": (params["attention"]["qkv"]["kernel"], 64**-0.5),
        "out": (params["attention"]["out"]["kernel"], 64**-0.5 / 2),
        "fc1": (params["mlp"]["fc1"]["kernel"], 128**-0.5),
        "fc2": (params["mlp"]["fc2"]["kernel"], 64**-0.5 / 2),
    }
    for name, (kernel, std) in stds.items():
        assert np.std(kernel) == pytest.approx(std, rel=0.05), name
        assert not np.allclose(kernel[0], kernel[1]), name  # each layer draws its own


def test_drop_path_grows_with_depth(params, tokens):
    """Rates 0, 0.4 and 0.8 for three layers: the first is never dropped, the last often."""
    many = np.repeat(tokens[:1], 400, axis=0)
    keys = jax.random.split(jax.random.key(1), 400)
    module = make(drop_path=0.8)
    forward = jax.jit(
        lambda params, tokens, keys: module.apply(
            {"params": params}, tokens, AttentionSpec(), keys, intermediates=True
        )[1]
    )
    layers, clean = forward(params, many, keys), forward(params, tokens[:1], None)
    np.testing.assert_allclose(layers[0], np.broadcast_to(clean[0], many.shape), rtol=1e-5, atol=1e-5)
    # A layer that changes nothing lost both of its branches.
    for layer, rate in ((1, 0.4), (2, 0.8)):
        skipped = (layers[layer] == layers[layer - 1]).all(axis=(1, 2)).mean()
        expected = rate**2
        assert abs(skipped - expected) < 5 * (expected * (1 - expected) / 400) ** 0.5
