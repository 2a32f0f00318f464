"""The attention kernel for TPUs, run by jax's interpreter of them: on-chip memory holds NaN until it is written."""

import types
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from mmjax.config import parse
from mmjax.config.schema import base_config
from mmjax.nn import tpu_attention, tpu_tiles
from mmjax.nn.attention import AttentionSpec, SelfAttention, attend
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel.config import MeshConfig
from mmjax.parallel.make_mesh import make_mesh
from mmjax.parallel.mesh import activation_mesh
from mmjax.tasks import attention_kernels


@pytest.fixture(autouse=True)
def interpreted():
    with pltpu.force_tpu_interpret_mode(pltpu.InterpretParams(uninitialized_memory="nan")):
        yield


def brute_force(qkv, weights, causal):
    """Output and gradient of `(weights * output).sum()`, in float64."""
    q, k, v = np.moveaxis(np.asarray(qkv, np.float64), 2, 0).swapaxes(2, 3)  # [B, H, N, K] each
    weights = np.asarray(weights, np.float64).swapaxes(1, 2)
    scale = q.shape[-1] ** -0.5
    logits = scale * q @ k.swapaxes(2, 3)
    if causal:
        logits = np.where(np.tri(logits.shape[-1], dtype=bool), logits, -np.inf)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    of_p = weights @ v.swapaxes(2, 3)
    of_logits = scale * p * (of_p - (p * of_p).sum(-1, keepdims=True))
    gradients = (of_logits @ k, of_logits.swapaxes(2, 3) @ q, p.swapaxes(2, 3) @ weights)
    heads_last = lambda x: x.swapaxes(1, 2)
    return heads_last(p @ v), np.stack([heads_last(x) for x in gradients], axis=2)


def error(x, exact):
    x = np.asarray(x.astype(jnp.float32), np.float64)
    return np.linalg.norm(x - exact) / np.linalg.norm(exact)


def drawn(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.bfloat16)


def run(function, qkv, weights):
    out, backward = jax.vjp(function, qkv)
    return out, backward(weights)[0]


@pytest.mark.parametrize(
    ("batch", "length", "heads", "head_dim", "causal"),
    # A class token beside 16 x 16 patches; whole tiles; heads that fill lanes by twos, by sixteen, alone.
    [
        (1, 257, 2, 64, False),
        pytest.param(2, 128, 1, 128, True, marks=pytest.mark.full),
        pytest.param(1, 129, 16, 72, False, marks=pytest.mark.full),
        pytest.param(1, 130, 8, 80, True, marks=pytest.mark.full),
    ],
)
def test_against_brute_force(batch, length, heads, head_dim, causal):
    qkv, weights = drawn(batch, length, 3, heads, head_dim), drawn(batch, length, heads, head_dim)
    exact = brute_force(qkv, weights, causal)
    result = run(lambda x: tpu_attention.fused_attention(x, heads, causal).reshape(weights.shape), qkv, weights)
    plain = run(lambda x: attend(x[:, :, 0], x[:, :, 1], x[:, :, 2], AttentionSpec(causal)), qkv, weights)
    for kernel, xla, value in zip(result, plain, exact, strict=True):
        assert kernel.dtype == jnp.bfloat16
        assert error(kernel, value) <= 1.1 * error(xla, value) < 0.005


@pytest.mark.full
@pytest.mark.parametrize("shape", [(1, 2, 2), pytest.param((2, 2, 1), marks=pytest.mark.full)])
def test_spread_over_a_mesh(shape):
    size = int(np.prod(shape))
    mesh = make_mesh(MeshConfig(**dict(zip(mesh_lib.AXES, shape, strict=True))), jax.devices()[:size])
    qkv, weights = drawn(4, 128, 3, 4, 64), drawn(4, 128, 4, 64)
    attended = lambda qkv, mesh=None: tpu_attention.fused_attention(qkv, 4, False, mesh).reshape(weights.shape)
    alone = run(attended, qkv, weights)
    spread = jax.jit(lambda *x: run(lambda qkv: attended(qkv, mesh.abstract_mesh), *x))
    with jax.set_mesh(mesh):
        result = spread(qkv, weights)
    for a, b in zip(result, alone, strict=True):
        np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))


def layer(implementation, x, spec, random_params, qk_norm=False, mesh=None):
    """Output and gradients of a layer, and how often the kernel was called."""
    module = SelfAttention(2, 0.1, jnp.bfloat16, implementation, qk_norm)
    params = random_params(jax.eval_shape(module.init, jax.random.key(0), x, spec)["params"])

    def value(params, x):
        with activation_mesh(mesh):
            y, seen = module.apply({"params": params}, x, spec)
        return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum() + seen.v.sum(), y

    with mock.patch.object(tpu_attention, "fused_attention", wraps=tpu_attention.fused_attention) as kernel:
        (_, y), gradients = jax.jit(jax.value_and_grad(value, argnums=(0, 1), has_aux=True))(params, x)
    return [y, *jax.tree.leaves(gradients)], kernel.call_count


@pytest.mark.parametrize("qk_norm", [False, pytest.param(True, marks=pytest.mark.full)])
def test_a_layer_on_either_kernel(random_params, qk_norm):
    x = drawn(2, 131, 128)
    expected, none = layer("xla", x, AttentionSpec(), random_params, qk_norm)
    result, calls = layer("pallas", x, AttentionSpec(), random_params, qk_norm)
    assert none == 0 < calls
    for a, b in zip(result, expected, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.linalg.norm(a - b) <= 0.01 * np.linalg.norm(b)


@pytest.mark.parametrize(
    ("length", "spec"),
    [
        (20, AttentionSpec()),  # too few tokens
        (130, AttentionSpec(valid=jnp.arange(130)[None] < jnp.array([[100], [130]]))),
        (130, AttentionSpec(True, segment=jnp.arange(130) // 10)),
        (130, AttentionSpec(length=120)),
    ],
)
def test_what_the_kernel_does_not_know_runs_on_xlas(random_params, length, spec):
    x = drawn(2, length, 128)
    expected, _ = layer("xla", x, spec, random_params)
    result, calls = layer("pallas", x, spec, random_params)
    assert calls == 0
    for a, b in zip(result, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))


@pytest.mark.parametrize(
    ("length", "heads", "head_dim", "compiled"),
    # Bytes of on-chip memory that libtpu 0.0.42 reports for the backward pass.
    [
        *[(197, 12, 64, 7.0e6), (257, 16, 64, 12.8e6), (577, 16, 64, 27.3e6), (1024, 12, 128, 66.0e6)],
        *[(256, 16, 72, 16.2e6), (729, 16, 72, 51.3e6), (1024, 16, 72, 74.3e6), (257, 16, 80, 18.2e6)],
    ],
)
def test_on_chip_memory(length, heads, head_dim, compiled):
    needed = tpu_tiles.bytes_needed(length, heads, head_dim)
    assert compiled < needed < 1.1 * compiled
    assert tpu_tiles.bytes_needed(length, heads, head_dim, backward=False) < needed


@pytest.mark.parametrize(
    ("kind", "variant", "kernel"),
    [
        ("TPU v5 lite", "L/14", "pallas"),
        ("TPU v5 lite", "B/32", "xla"),  # 50 tokens
        ("TPU v4", "L/14", "pallas"),
        ("TPU v4", "L/14@336", "xla"),  # 577 tokens: 28 MB of 16
        ("TPU v5", "L/14@336", "pallas"),
        ("TPU v9", "L/14", "xla"),  # nobody knows its memory
    ],
)
def test_towers_that_the_kernel_is_for(kind, variant, kernel):
    device = types.SimpleNamespace(platform="tpu", device_kind=kind)
    config = parse(base_config(variant))
    assert attention_kernels.choose_kernel(config, "image", device, jnp.bfloat16) == kernel
    assert attention_kernels.choose_kernel(config, "text", device, jnp.bfloat16) == "xla"


def test_what_does_not_spread_over_a_mesh():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2), jax.devices()).abstract_mesh
    assert tpu_attention.fits(8, 200, 4, 64, mesh)
    assert not tpu_attention.fits(6, 200, 4, 64, mesh)  # rows
    assert not tpu_attention.fits(8, 200, 2, 64, mesh)  # a head alone fills half of the lanes
    assert not tpu_attention.fits(8, 1100, 4, 64, mesh)
