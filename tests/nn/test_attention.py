"""Attention against a plain float64 implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.nn.attention import AttentionSpec, SelfAttention, attend
from mmjax.nn.cross_attention import CrossAttention

BATCH, QUERIES, HEADS, HEAD_DIM = 3, 5, 2, 4
# The first example has every key, the second has holes (its first key too), the third has none.
VALID = np.array([[1, 1, 1, 1, 1], [0, 0, 1, 0, 1], [0, 0, 0, 0, 0]], bool)


def reference(q, k, v, *, causal=False, valid=None):
    """Softmax attention query by query in float64; a query without keys gives 0."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros(q.shape)
    for b, t, h in np.ndindex(q.shape[:3]):
        keys = [s for s in range(k.shape[1]) if (valid is None or valid[b, s]) and (not causal or s <= t)]
        if keys:
            scores = k[b, keys, h] @ q[b, t, h] / np.sqrt(q.shape[-1])
            weights = np.exp(scores - scores.max())
            out[b, t, h] = weights @ v[b, keys, h] / weights.sum()
    return out


@pytest.fixture(scope="module")
def qkv():
    rng = np.random.default_rng(0)
    return [rng.standard_normal((BATCH, QUERIES, HEADS, HEAD_DIM)).astype(np.float32) for _ in range(3)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("valid", [None, VALID], ids=["all", "valid"])
def test_values_and_gradients(qkv, causal, valid):
    weights = np.random.default_rng(1).standard_normal(qkv[0].shape)

    @jax.jit
    def run(q, k, v):
        out = attend(q, k, v, AttentionSpec(causal=causal, valid=None if valid is None else jnp.asarray(valid)))
        return (out * weights).sum(), out

    (_, out), gradients = jax.value_and_grad(run, argnums=(0, 1, 2), has_aux=True)(*qkv)
    np.testing.assert_allclose(out, reference(*qkv, causal=causal, valid=valid), atol=1e-6)

    rng = np.random.default_rng(2)
    for which in range(3):
        direction = rng.standard_normal(qkv[which].shape)
        moved = [[x.astype(np.float64) for x in qkv] for _ in range(2)]
        moved[0][which] += 1e-5 * direction
        moved[1][which] -= 1e-5 * direction
        up, down = ((reference(*x, causal=causal, valid=valid) * weights).sum() for x in moved)
        assert np.vdot(gradients[which], direction) == pytest.approx((up - down) / 2e-5, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("causal", [False, True])
def test_query_without_keys_is_zero_and_harmless(qkv, causal):
    bad = [np.array(x) for x in qkv]
    for x in bad:
        x[2] = 1e4  # a garbage example: nothing of it may come through

    @jax.jit
    def run(q, k, v):
        out = attend(q, k, v, AttentionSpec(causal=causal, valid=jnp.asarray(VALID)))
        return out.sum(), out

    (_, out), gradients = jax.value_and_grad(run, argnums=(0, 1, 2), has_aux=True)(*bad)
    assert (out[2] == 0).all()
    if causal:
        assert (out[1, :2] == 0).all()
    for gradient in gradients:
        assert np.isfinite(gradient).all()
        assert (gradient[2] == 0).all()


def test_keys_that_are_not_valid_do_not_matter(qkv):
    q, k, v = qkv
    other_k, other_v = (np.where(VALID[:, :, None, None], x, 7.0).astype(np.float32) for x in (k, v))
    spec = AttentionSpec(valid=jnp.asarray(VALID))
    run = jax.jit(attend)
    np.testing.assert_array_equal(run(q, k, v, spec), run(q, other_k, other_v, spec))


def test_self_attention(random_params):
    module = SelfAttention(heads=2, out_std=0.1)
    x = np.random.default_rng(3).standard_normal((BATCH, QUERIES, 8)).astype(np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, AttentionSpec())["params"]
    assert jax.tree.map(lambda leaf: leaf.shape, shapes) == {
        "qkv": {"kernel": (8, 3, 2, 4), "bias": (3, 2, 4)},
        "out": {"kernel": (2, 4, 8), "bias": (8,)},
    }
    params = random_params(shapes, std=0.5)
    out, _ = jax.jit(module.apply)({"params": params}, x, AttentionSpec(causal=True))
    projected = np.einsum("bnd,dthk->tbnhk", x, params["qkv"]["kernel"]) + params["qkv"]["bias"][:, None, None]
    heads = reference(*projected, causal=True)
    expected = np.einsum("bnhk,hkd->bnd", heads, params["out"]["kernel"]) + params["out"]["bias"]
    np.testing.assert_allclose(out, expected, atol=2e-6)


def test_cross_attention_over_memory_of_another_width(random_params):
    module = CrossAttention(heads=2, out_std=0.1)
    rng = np.random.default_rng(4)
    x = rng.standard_normal((BATCH, 2, 8)).astype(np.float32)
    memory = rng.standard_normal((BATCH, QUERIES, 6)).astype(np.float32)
    spec = AttentionSpec(valid=jnp.asarray(VALID))
    params = random_params(jax.eval_shape(module.init, jax.random.key(0), x, memory, spec)["params"], std=0.5)
    assert params["kv"]["kernel"].shape == (6, 2, 2, 4)
    out, _ = jax.jit(module.apply)({"params": params}, x, memory, spec)
    q = np.einsum("btd,dhk->bthk", x, params["q"]["kernel"]) + params["q"]["bias"]
    k, v = np.einsum("bsd,dthk->tbshk", memory, params["kv"]["kernel"]) + params["kv"]["bias"][:, None, None]
    expected = np.einsum("bthk,hkd->btd", reference(q, k, v, valid=VALID), params["out"]["kernel"])
    np.testing.assert_allclose(out, expected + params["out"]["bias"], atol=2e-6)


def test_bfloat16_in_and_out(qkv):
    half = [x.astype(jnp.bfloat16) for x in qkv]
    out = jax.jit(attend)(*half, AttentionSpec(causal=True))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(np.float32), reference(*half, causal=True), atol=0.02)


@pytest.mark.parametrize("kind", ["self", "cross", "one query"])
def test_without_a_bias_of_keys(kind, qkv, random_params):
    """As with one of zeros, gradients too; and any other would change no output."""
    x = np.concatenate([part.reshape(BATCH, QUERIES, -1) for part in qkv[:2]], axis=-1)
    cls, name = (CrossAttention, "kv") if kind == "cross" else (SelfAttention, "qkv")
    more = dict(chosen=jnp.array([0, 3, 1])) if kind == "one query" else {}
    others = lambda x: (*([x] if kind == "cross" else []), AttentionSpec())

    def run(key_bias, params):
        module = cls(HEADS, 0.1, key_bias=key_bias)
        apply = lambda params, x: module.apply({"params": params}, x, *others(x), **more)[0]
        return jax.jit(jax.value_and_grad(lambda params, x: jnp.square(apply(params, x)).sum()))(params, x)

    init = cls(HEADS, 0.1, key_bias=False).init
    shapes = jax.eval_shape(lambda x: init(jax.random.key(0), x, *others(x)), x)
    params = random_params(shapes["params"])
    key = 0 if kind == "cross" else 1
    bias = params[name]["bias"]
    assert bias.shape[0] == (1 if kind == "cross" else 2)
    value, gradient = run(False, params)
    for number in (0.0, 3.0):
        with_bias = params | {name: params[name] | {"bias": np.insert(bias, key, np.float32(number), axis=0)}}
        expected, theirs = run(True, with_bias)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        theirs[name]["bias"] = jnp.delete(theirs[name]["bias"], key, axis=0)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), gradient, theirs)
