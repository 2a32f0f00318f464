"""Which attention kernel runs, and the filling that makes cuDNN's applicable."""

import types
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.nn.attention import AttentionSpec, attend, padded_length
from mmjax.nn.attention_kernels import choose_implementation
from mmjax.nn.transformer import Transformer

HEADS, HEAD_DIM = 2, 8


def device(platform, capability=None):
    return types.SimpleNamespace(
        platform=platform, **({} if capability is None else {"compute_capability": capability})
    )


@pytest.mark.parametrize(
    ("wanted", "where", "dtype", "head_dim", "kernel", "message"),
    [
        ("auto", device("gpu", "9.0"), jnp.bfloat16, 64, "cudnn", ""),
        ("auto", device("gpu", "12.0"), jnp.bfloat16, 72, "cudnn", ""),
        ("xla", device("gpu", "9.0"), jnp.bfloat16, 64, "xla", ""),
        ("auto", device("gpu", "7.0"), jnp.bfloat16, 64, "xla", "NVIDIA GPU"),
        ("auto", device("gpu", "gfx942"), jnp.bfloat16, 64, "xla", "NVIDIA GPU"),
        ("auto", device("tpu"), jnp.bfloat16, 64, "pallas", ""),
        ("auto", device("tpu"), jnp.bfloat16, 80, "pallas", ""),
        ("xla", device("tpu"), jnp.bfloat16, 64, "xla", ""),
        ("cudnn", device("tpu"), jnp.bfloat16, 64, "xla", "NVIDIA GPU"),
        ("pallas", device("gpu", "9.0"), jnp.bfloat16, 64, "xla", "needs a TPU"),
        ("auto", device("tpu"), jnp.float16, 64, "xla", "bfloat16 only"),
        ("auto", device("tpu"), jnp.bfloat16, 72, "xla", "not 8 of 72"),  # sixteen of them would fill lanes
        ("auto", device("tpu"), jnp.bfloat16, 32, "xla", "not 8 of 32"),
        ("auto", device("gpu", "8.0"), jnp.float32, 64, "xla", "bfloat16 only"),
        ("auto", device("gpu", "8.0"), jnp.bfloat16, 60, "xla", "not 60"),
        ("auto", device("gpu", "9.0"), jnp.bfloat16, 256, "xla", "not 256"),
    ],
)
def test_choice(wanted, where, dtype, head_dim, kernel, message):
    result, obstacle = choose_implementation(wanted, where, dtype, 8, head_dim)
    assert result == kernel
    assert message in obstacle and bool(message) == bool(obstacle)


def test_this_machine_has_no_cudnn():
    assert choose_implementation("auto", jax.devices("cpu")[0], jnp.bfloat16, 8, 64)[0] == "xla"


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("holes", [False, True])
def test_filling_is_seen_by_nobody(causal, holes):
    rng = np.random.default_rng(0)
    length, padded = 5, 6
    qkv = [jnp.asarray(rng.standard_normal((2, length, HEADS, HEAD_DIM)), jnp.float32) for _ in range(3)]
    valid = jnp.asarray([[1, 1, 0, 1, 1], [0, 1, 1, 0, 1]], bool) if holes else None
    garbage = lambda x: jnp.pad(x, ((0, 0), (0, padded - length), (0, 0), (0, 0)), constant_values=50.0)

    def run(q, k, v):
        more = None if valid is None else jnp.pad(valid, ((0, 0), (0, 1)), constant_values=True)
        out = attend(garbage(q), garbage(k), garbage(v), AttentionSpec(causal, more, length))
        return out[:, :length]

    expected = attend(*qkv, AttentionSpec(causal, valid))
    np.testing.assert_allclose(run(*qkv), expected, atol=1e-6)


def xla_instead(q, k, v, *, implementation, **options):
    """Stands in for cuDNN's kernel where there is no GPU, and refuses what cuDNN's refuses."""
    assert implementation == "cudnn" and q.shape[1] % 2 == 0 and k.shape[1] % 2 == 0
    return _attention(q, k, v, implementation="xla", **options)


_attention = jax.nn.dot_product_attention


@pytest.mark.parametrize(
    ("causal", "holes", "length"),
    [(True, False, 7), (False, True, 7)]
    + [pytest.param(*case, marks=pytest.mark.full) for case in ((False, False, 7), (True, True, 7), (True, True, 8))],
)
def test_a_padded_transformer_is_the_same_function(random_params, causal, holes, length):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, length, 16)).astype(np.float32)
    weights = rng.standard_normal(x.shape).astype(np.float32)
    spec = AttentionSpec(causal, jnp.asarray(rng.random((2, length)) < 0.7) if holes else None)
    modules = {
        kernel: Transformer(depth=2, heads=HEADS, mlp_dim=24, attention_impl=kernel) for kernel in ("xla", "cudnn")
    }
    params = random_params(jax.eval_shape(modules["xla"].init, jax.random.key(0), x, spec)["params"])

    def run(module):
        def value(params, x):
            out, layers, _ = module.apply({"params": params}, x, spec, intermediates=True)
            assert out.shape == x.shape and layers.shape == (2, *x.shape)
            return (weights * (out + layers.sum(0))).sum(), out

        (_, out), gradients = jax.jit(jax.value_and_grad(value, argnums=(0, 1), has_aux=True))(params, x)
        return out, gradients

    expected = run(modules["xla"])
    with mock.patch.object(jax.nn, "dot_product_attention", xla_instead):
        result = run(modules["cudnn"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), result, expected)


@pytest.fixture
def gpu_in_name(monkeypatch):
    """jax's own checks of shapes as if there were a Hopper GPU; tracing alone needs none."""
    kernel = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(kernel, "check_cudnn_version", lambda: 91100)
    monkeypatch.setattr(kernel, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(kernel, "is_cuda_compute_capability_equal", lambda capability: False)


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize(
    ("length", "causal", "head_dim"),
    [(197, False, 64), (50, False, 64), (257, False, 64), (77, True, 64), (64, False, 72)],
)
def test_jax_takes_these_shapes_in_training(gpu_in_name, length, causal, head_dim, holes):
    padded = padded_length(length, "cudnn")
    assert padded - length in (0, 1)
    x = jax.ShapeDtypeStruct((4, padded, 2, head_dim), jnp.bfloat16)
    valid = jax.ShapeDtypeStruct((4, padded), bool) if holes else None

    def value(q, k, v, valid):
        spec = AttentionSpec(causal, valid, None if padded == length else length)
        return attend(q, k, v, spec, "cudnn").astype(jnp.float32).sum()

    traced = jax.make_jaxpr(jax.grad(value, argnums=(0, 1, 2)))(x, x, x, valid)
    assert "dot_product_attention" in str(traced)


@pytest.mark.parametrize("length", [80, 128])
def test_jax_takes_rows_of_packed_texts_in_training(gpu_in_name, length):
    assert padded_length(length, "cudnn") == length
    x, segment = jax.ShapeDtypeStruct((4, length, 2, 64), jnp.bfloat16), jax.ShapeDtypeStruct((4, length), jnp.int32)

    def value(q, k, v, segment):
        return attend(q, k, v, AttentionSpec(True, segment=segment), "cudnn").astype(jnp.float32).sum()

    traced = jax.make_jaxpr(jax.grad(value, argnums=(0, 1, 2)))(x, x, x, segment)
    assert "dot_product_attention" in str(traced)


def test_an_odd_count_is_what_jax_refuses(gpu_in_name):
    """The reason for the filling; when this fails, jax has learned to do without."""
    x = jax.ShapeDtypeStruct((4, 197, 2, 64), jnp.bfloat16)
    value = lambda q, k, v: attend(q, k, v, AttentionSpec(), "cudnn").astype(jnp.float32).sum()
    with pytest.raises(NotImplementedError, match="sequence length"):
        jax.make_jaxpr(jax.grad(value))(x, x, x)


@pytest.mark.gpu
@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize(("length", "causal"), [(197, False), (77, True), (64, False)])
def test_cudnn_against_xla(length, causal, holes):
    """The same numbers within bfloat16's tolerance, values and gradients."""
    rng = np.random.default_rng(2)
    padded = padded_length(length, "cudnn")
    spec = AttentionSpec(causal, jnp.asarray(rng.random((4, padded)) < 0.8) if holes else None, length)
    qkv = [jnp.asarray(rng.standard_normal((4, padded, 4, 64)), jnp.bfloat16) for _ in range(3)]
    weights = jnp.asarray(rng.standard_normal((4, length, 4, 64)), jnp.float32)

    def value(kernel, q, k, v):
        out = attend(q, k, v, spec, kernel)[:, :length].astype(jnp.float32)
        return (weights * out).sum(), out

    results = {}
    for kernel in ("cudnn", "xla"):
        run = jax.jit(jax.value_and_grad(lambda *x, kernel=kernel: value(kernel, *x), argnums=(0, 1, 2), has_aux=True))
        (_, out), gradients = run(*qkv)
        results[kernel] = [np.asarray(x, np.float32) for x in (out, *gradients)]
    for result, expected in zip(results["cudnn"], results["xla"], strict=True):
        assert np.linalg.norm(result - expected) <= 0.02 * np.linalg.norm(expected)
