"""Post-norm, cross-attention, MLPs per segment and QK-norm against float64 numpy; the cache against one pass."""

import math
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.nn.attention import AttentionSpec
from mmjax.nn.transformer import Memory, Transformer

HEADS, WIDTH, HIDDEN, EPS = 2, 8, 12, 1e-2
LENGTH, MEMORY = 7, 5
VALID = np.array([[1, 1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 1, 0, 1], [0, 0, 1, 1, 1, 1, 1]], bool)
MEMORY_VALID = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
SETTINGS = {
    "post-norm, every second layer from the second on, segments, qk_norm": dict(
        depth=3, norm="post", cross_every=2, cross_from=1, segments=(3, 4), qk_norm=True
    ),
    "post-norm, every layer": dict(depth=2, norm="post", cross_every=1),
    "pre-norm, every layer from the second on": dict(depth=3, norm="pre", cross_every=1, cross_from=1),
    "pre-norm, segments without cross-attention": dict(depth=2, norm="pre", segments=(2, 3, 2)),
    "pre-norm, an MLP after cross-attention": dict(depth=2, norm="pre", cross_every=1, cross_mlp=True),
}


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    return draw(3, LENGTH, WIDTH), draw(3, MEMORY, 6)


def layer_of(params, settings, number):
    """One layer's parameters, wherever the stacks hold them, and whether it has cross-attention."""
    first, every = settings.get("cross_from", 0), settings.get("cross_every", 0)
    layer_at = lambda tree, i: jax.tree.map(lambda x: np.asarray(x[i], np.float64), tree)
    if not every or (first == 0 and every == 1):
        return layer_at(params["layers"], number), bool(every)
    if number < first:
        return layer_at(params["layers"], number), False
    unit, number_in_unit = divmod(number - first, every)
    stack = params["cross_layers" if first else "layers"]
    return layer_at(stack if every == 1 else stack[f"block{number_in_unit}"], unit), number_in_unit == 0


def reference(params, settings, x, memory, *, causal):
    """The transformer layer by layer, token by token where it attends."""
    pre, segments = settings["norm"] == "pre", settings.get("segments") or (LENGTH,)
    erf = np.vectorize(math.erf)

    def norm(x, p):
        y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + EPS)
        return y * p["scale"] + p["bias"]

    def head_norm(x, p):
        if p is None:
            return x
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"]

    def softmax_attention(q, k, v, sees, p):
        q, k = head_norm(q, p.get("q_norm")), head_norm(k, p.get("k_norm"))
        out = np.zeros(q.shape)
        for b, t, h in np.ndindex(q.shape[:3]):
            keys = np.flatnonzero(sees(b, t))
            if len(keys):
                weights = np.exp(k[b, keys, h] @ q[b, t, h] / np.sqrt(q.shape[-1]))
                out[b, t, h] = weights @ v[b, keys, h] / weights.sum()
        return np.einsum("bthk,hkd->btd", out, p["out"]["kernel"]) + p["out"]["bias"]

    def attend(x, p):
        q, k, v = np.einsum("bnd,dthk->tbnhk", x, p["qkv"]["kernel"]) + p["qkv"]["bias"][:, None, None]
        return softmax_attention(q, k, v, lambda b, t: VALID[b] & (~causal | (np.arange(LENGTH) <= t)), p)

    def look(x, p, source):
        q = np.einsum("bnd,dhk->bnhk", x, p["q"]["kernel"]) + p["q"]["bias"]
        k, v = np.einsum("bnd,dthk->tbnhk", source, p["kv"]["kernel"]) + p["kv"]["bias"][:, None, None]
        return softmax_attention(q, k, v, lambda b, t: MEMORY_VALID[b], p)

    def mlp(x, p):
        y = x @ p["fc1"]["kernel"] + p["fc1"]["bias"]
        return 0.5 * y * (1 + erf(y / math.sqrt(2))) @ p["fc2"]["kernel"] + p["fc2"]["bias"]

    branch = lambda x, p, f: x + f(norm(x, p)) if pre else norm(x + f(x), p)
    parts = lambda x: np.split(x, np.cumsum(segments)[:-1], axis=1)
    join = lambda pieces: np.concatenate(pieces, axis=1)
    x, memory = x.astype(np.float64), memory.astype(np.float64)
    for number in range(settings["depth"]):
        p, crosses = layer_of(params, settings, number)
        x = branch(x, p["norm1"], lambda y, p=p: attend(y, p["attention"]))

        def cross(x, p=p):
            source = norm(memory, p["norm_memory"]) if settings.get("cross_mlp") else memory
            first, *rest = parts(x)
            return join(
                [
                    branch(first, p["norm_cross"], lambda queries, p=p: look(queries, p["cross_attention"], source)),
                    *rest,
                ]
            )

        x = cross(x) if crosses and not settings.get("cross_mlp") else x
        names = [("mlp", "norm2"), *((f"segment{i}_mlp", f"segment{i}_norm2") for i in range(1, len(segments)))]
        x = join([branch(y, p[b], lambda y, a=a, p=p: mlp(y, p[a])) for y, (a, b) in zip(parts(x), names, strict=True)])
        if crosses and settings.get("cross_mlp"):
            x = branch(cross(x), p["norm_cross_mlp"], lambda y, p=p: mlp(y, p["cross_mlp"]))
    return x


def make(settings, random_params, inputs, **changes):
    """The module, its parameters, and what it is called with besides tokens, spec and keys."""
    options = {key: value for key, value in settings.items() if key != "segments"}
    module = Transformer(heads=HEADS, mlp_dim=HIDDEN, norm_eps=EPS, **options)
    call = dict(segments=settings["segments"]) if "segments" in settings else {}
    if "cross_every" in settings:
        call["memory"] = Memory(jnp.asarray(inputs[1]), jnp.asarray(MEMORY_VALID))
    tokens = jnp.asarray(inputs[0])
    init = lambda key: module.init(key, tokens, AttentionSpec(), **call)
    return module.clone(**changes), random_params(jax.eval_shape(init, jax.random.key(0))["params"], std=0.4), call


FIRST, *OTHERS = SETTINGS


@pytest.mark.parametrize(
    "name, scan",
    [
        (FIRST, True),
        *(pytest.param(name, True, marks=pytest.mark.full) for name in OTHERS),
        *(pytest.param(name, False, marks=pytest.mark.full) for name in (FIRST, OTHERS[-1])),
    ],
)
def test_against_numpy(random_params, inputs, name, scan):
    settings = SETTINGS[name]
    module, params, call = make(settings, random_params, inputs, scan=scan)
    spec = AttentionSpec(causal=not scan, valid=jnp.asarray(VALID))
    run = jax.jit(lambda params, x: module.apply({"params": params}, x, spec, intermediates=True, **call))
    out = run(params, inputs[0])
    np.testing.assert_allclose(out.tokens, reference(params, settings, *inputs, causal=not scan), atol=1e-5)
    np.testing.assert_array_equal(out.layers[-1], out.tokens)
    assert out.layers.shape == (settings["depth"], 3, LENGTH, WIDTH)


@pytest.mark.full
@pytest.mark.parametrize("name", ["post-norm, every layer"])
def test_remat_changes_nothing(random_params, inputs, name):
    keys = jax.random.split(jax.random.key(1), 3)

    def gradients(remat):
        module, params, call = make(SETTINGS[name], random_params, inputs, remat=remat, dropout=0.2)

        def loss(params, x):
            return (module.apply({"params": params}, x, AttentionSpec(), keys, **call).tokens ** 2).sum()

        return jax.jit(jax.value_and_grad(loss))(params, inputs[0])

    results = gradients("none"), gradients("full")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *results)


def xla_instead(q, k, v, *, implementation, **options):
    """Stands in for cuDNN's kernel, which wants even numbers of tokens."""
    assert implementation != "cudnn" or (q.shape[1] % 2 == 0 and k.shape[1] % 2 == 0)
    return _attention(q, k, v, implementation="xla", **options)


_attention = jax.nn.dot_product_attention
CACHED = {
    "every": dict(depth=2, norm="pre", cross_every=1),
    "cross": dict(depth=3, norm="pre", cross_every=2, cross_from=1),
    "plain": dict(depth=2, norm="post"),
}


@pytest.mark.parametrize(
    "name, kernel",
    [
        ("every", "cudnn"),
        pytest.param("cross", "cudnn", marks=pytest.mark.full),
        pytest.param("plain", "xla", marks=pytest.mark.full),
    ],
)
def test_prefill_and_extend_are_one_pass(random_params, inputs, name, kernel):
    """Prefixes of 3 tokens with holes, on the left too; then three at once, with a hole; then one."""
    module, params, call = make(CACHED[name], random_params, inputs, attention_impl=kernel)
    x, valid = jnp.asarray(inputs[0]), jnp.asarray(VALID)

    @jax.jit
    def run(params, x, valid):
        apply = lambda part, causal=False, **options: module.apply(
            {"params": params}, x[:, part], AttentionSpec(causal=causal, valid=valid[:, part]), **options
        )
        at_once = apply(slice(None), causal=True, **call)
        out = apply(slice(3), causal=True, slots=LENGTH + 2, **call)
        pieces = [out.tokens]
        for part in (slice(3, 6), slice(6, 7)):
            out = apply(part, cache=out.cache)
            pieces.append(out.tokens)
        return at_once.tokens, jnp.concatenate(pieces, axis=1), out.cache

    with mock.patch.object(jax.nn, "dot_product_attention", xla_instead):
        at_once, pieces, cache = run(params, x, valid)
    np.testing.assert_allclose(np.asarray(pieces)[VALID], np.asarray(at_once)[VALID], atol=1e-5)
    np.testing.assert_array_equal(cache.valid, np.pad(VALID, ((0, 0), (0, 2))))
    np.testing.assert_array_equal(cache.counts, VALID.sum(axis=1))
    assert cache.index == LENGTH
    rows = jnp.asarray([2, 0, 0, 1])
    taken = cache.take(rows)
    pairs = zip(jax.tree.leaves(taken.layers), jax.tree.leaves(cache.layers), strict=True)
    assert all((np.asarray(new) == np.asarray(old)[:, np.asarray(rows)]).all() for new, old in pairs)
    np.testing.assert_array_equal(taken.valid, np.asarray(cache.valid)[np.asarray(rows)])
    if name != "plain":
        np.testing.assert_array_equal(taken.memory_valid, MEMORY_VALID[np.asarray(rows)])
    assert taken.index == LENGTH


def test_settings_that_contradict_each_other(inputs):
    tokens = jnp.asarray(inputs[0])
    memory = Memory(jnp.asarray(inputs[1]))
    for options, call, message in (
        (dict(norm="before"), {}, "norm='before' is not known"),
        (dict(cross_every=1), {}, "memory is not given"),
        ({}, dict(memory=memory), "memory is given"),
        (dict(cross_every=1, cross_mlp=True, norm="post"), dict(memory=memory), "needs norm='pre'"),
        (dict(cross_every=2), dict(memory=memory), "the 3 layers from cross_from=0 on do not divide by cross_every=2"),
        ({}, dict(slots=3), "slots=3 are too few for 7 tokens"),
    ):
        module = Transformer(depth=3, heads=2, mlp_dim=4, **options)
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(lambda m=module, c=call: m.init(jax.random.key(0), tokens, AttentionSpec(), **c))
