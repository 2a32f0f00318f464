"""Every kind of fusion: what is absent changes nothing, and what is present is fused as float64 arithmetic says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.models.encoders import Encoded
from mmjax.models.fusion import kinds

NAMES = ("audio", "image", "table")
SIZES = {"audio": (3, 6), "image": (4, 5), "table": (2, 4)}  # tokens, width
CLASSES = 5
LAYERS = dict(width=8, heads=2, mlp_dim=12)
KINDS = {
    "concat": dict(kind="concat", width=8),
    "weighted": dict(kind="weighted", width=8),
    "gated": dict(kind="gated", width=8),
    "attention": dict(kind="attention", **LAYERS),
    "cross": dict(kind="cross", query="image", **LAYERS),
    "joint": dict(kind="joint", **LAYERS),
    "bottleneck": dict(kind="bottleneck", **LAYERS, depth=2, bottlenecks=2),
    "late linear": dict(kind="late", combine="linear"),
    "late logits": dict(kind="late", combine="logits"),
    "late product": dict(kind="late", combine="product"),
    "hybrid": dict(kind="hybrid", combine="linear", fusion=dict(kind="weighted", width=8)),
}
OF_TOKENS = ("attention", "bottleneck", "cross", "joint")
# Every set of modalities, the empty one too.
PRESENT = np.array([[row >> bit & 1 for bit in range(3)] for row in range(8)], bool)


def modalities(seed=0):
    """(tokens, valid) of each modality for eight examples; the first token is real and some others are not."""
    rng = np.random.default_rng(seed)
    made = []
    for tokens, width in SIZES.values():
        valid = rng.random((8, tokens)) < 0.7
        valid[:, 0] = True
        made.append((rng.standard_normal((8, tokens, width)).astype(np.float32), valid))
    return made


def encode(arrays, names=NAMES):
    arrays = jax.tree.map(jnp.asarray, arrays)
    return {name: Encoded(tokens, valid) for name, (tokens, valid) in zip(names, arrays, strict=True)}


def shapes_of(model):
    return jax.eval_shape(lambda: model.init(jax.random.key(0), encode(modalities()), jnp.asarray(PRESENT)))["params"]


def applied(model, params, arrays, present, names=NAMES):
    out = model.apply({"params": params}, encode(arrays, names), jnp.asarray(present))
    if not isinstance(model, kinds.Late):
        valid = jnp.ones(out.tokens.shape[:2], bool) if out.valid is None else out.valid
        out = jnp.where(valid[..., None], out.tokens, 0)
    return out


def values_and_gradients(model):
    def run(params, tokens, valid, present):
        def total(params, tokens):
            out = applied(model, params, list(zip(tokens, valid, strict=True)), present)
            return (jnp.sin(out) * jnp.arange(1, 1 + out[0].size).reshape(out[0].shape)).sum(), out

        (_, out), gradients = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(params, tokens)
        return out, *gradients

    return jax.jit(run)


def columns(arrays):
    return tuple([array[part] for array in arrays] for part in (0, 1))


QUICK = ("concat", "weighted", "joint", "late linear")


@pytest.fixture(params=[pytest.param(kind, marks=() if kind in QUICK else pytest.mark.full) for kind in KINDS])
def case(request, random_params):
    model = kinds.make_fusion(KINDS[request.param], CLASSES)
    return request.param, model, random_params(shapes_of(model), std=0.5)


def test_what_is_absent_or_in_another_example_changes_nothing_and_gradients_reach_all(case):
    name, model, params = case
    run = values_and_gradients(model)
    arrays = modalities()
    tokens, valid = columns(arrays)
    out, of_params, of_tokens = run(params, tokens, valid, PRESENT)
    assert np.isfinite(out).all()
    # Gradients reach every parameter, and every token that is real; no other one.
    for path, leaf in jax.tree_util.tree_leaves_with_path(of_params):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, (name, jax.tree_util.keystr(path))
    for index, (gradient, real) in enumerate(zip(of_tokens, valid, strict=True)):
        reached = np.abs(gradient).max(axis=-1) > 0
        np.testing.assert_array_equal(reached, real & PRESENT[:, index, None])
    # Garbage, value and gradient.
    for garbage in (np.nan, 1e30, -np.inf):
        kept = [real & PRESENT[:, index, None] for index, real in enumerate(valid)]
        spoiled = [np.where(real[..., None], x, np.float32(garbage)) for x, real in zip(tokens, kept, strict=True)]
        again = run(params, spoiled, valid, PRESENT)
        jax.tree.map(np.testing.assert_array_equal, again, (out, of_params, of_tokens))
    # A modality of which no token is real is absent.
    lacking = [real & PRESENT[:, index, None] for index, real in enumerate(valid)]
    np.testing.assert_array_equal(run(params, tokens, lacking, np.ones_like(PRESENT))[0], out)
    # The other examples.
    others = columns(modalities(seed=1))
    keep = lambda x, y: np.where((np.arange(8) == 6).reshape(-1, *[1] * (x.ndim - 1)), x, y)
    mixed = jax.tree.map(keep, (tokens, valid), others)
    present = np.where(np.arange(8)[:, None] == 6, PRESENT, ~PRESENT)
    again = run(params, *mixed, present)
    np.testing.assert_allclose(again[0][6], out[6], rtol=1e-6, atol=1e-6)
    assert not np.allclose(again[0][5], out[5])


def test_the_order_of_the_modalities_is_that_of_their_names(case):
    _, model, params = case
    arrays = modalities()
    run = lambda step: lambda params, x: applied(model, params, x[::step], PRESENT, NAMES[::step])
    program = lambda step: str(jax.make_jaxpr(run(step))(params, arrays))
    assert program(1) == program(-1)


def float64(params):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), params)


def vector(params, name, x, valid):
    """The mean of the real tokens and its layer norm."""
    mean = (np.where(valid[..., None], x, 0).sum(1) / valid.sum(1, keepdims=True)).astype(np.float64)
    mean = (mean - mean.mean(-1, keepdims=True)) / np.sqrt(mean.var(-1, keepdims=True) + 1e-6)
    return mean * params[f"norm_{name}"]["scale"] + params[f"norm_{name}"]["bias"]


def dense(params, x):
    return x @ params["kernel"] + params["bias"]


def softmax(x):
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("name", ["concat", "weighted", "gated", "late linear", "late logits", "late product"])
def test_vectors_and_decisions_are_fused_as_in_float64_and_one_alone_is_the_unimodal_path(name, random_params):
    model = kinds.make_fusion(KINDS[name], CLASSES)
    arrays = modalities()
    params = random_params(shapes_of(model), std=0.5)
    out = np.asarray(jax.jit(lambda params: applied(model, params, arrays, PRESENT))(params))
    tree = float64(params)
    vectors = [vector(tree, modality, *array) for modality, array in zip(NAMES, arrays, strict=True)]
    for row in range(1, 8):
        available = np.flatnonzero(PRESENT[row])
        if name == "concat":
            parts = [vectors[m][row] if m in available else tree[f"absent_{NAMES[m]}"] for m in range(3)]
            np.testing.assert_allclose(
                out[row, 0], dense(tree["projection"], np.concatenate(parts)), rtol=1e-5, atol=1e-5
            )
            continue
        layer = "head" if name.startswith("late") else "projection"
        mapped = {m: dense(tree[f"{layer}_{NAMES[m]}"], vectors[m][row]) for m in available}
        stacked = np.stack(list(mapped.values()))
        weights = None
        if "weights" in tree:
            weights = softmax(tree["weights"][available])
        if name == "gated":
            seen = np.concatenate([mapped.get(m, np.zeros(8)) for m in range(3)])
            weights = softmax(dense(tree["gate"], seen)[available])
        if name in ("weighted", "gated"):
            expected, got, alone = weights @ stacked, out[row, 0], stacked[0]
        else:
            p = softmax(stacked)
            if name == "late product":
                expected = np.log(p.prod(0) / p.prod(0).sum())
            else:
                expected = np.log(weights @ p if name == "late linear" else softmax(weights @ stacked))
            got, alone = out[row], np.log(p[0])
            np.testing.assert_allclose(np.exp(got).sum(), 1, rtol=1e-5)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
        if len(available) == 1:
            np.testing.assert_allclose(got, alone, rtol=1e-5, atol=1e-5)
    if name.startswith("late"):
        np.testing.assert_allclose(out[0], -np.log(CLASSES), rtol=1e-6)  # nothing is known


@pytest.mark.full
@pytest.mark.parametrize("name", OF_TOKENS)
def test_an_absent_modality_might_as_well_not_exist(name, random_params):
    model = kinds.make_fusion(KINDS[name], CLASSES)
    arrays = modalities()
    params = random_params(shapes_of(model), std=0.5)
    out = jax.jit(lambda params: applied(model, params, arrays, PRESENT))(params)
    # The same parameters without the first modality's.
    fewer = {key: value for key, value in params.items() if not key.endswith("_audio")}
    fewer["type_embedding"] = params["type_embedding"][1:]
    if name == "bottleneck":
        fewer["class_token"] = params["class_token"][1:]
    without = jax.jit(lambda params: applied(model, params, arrays[1:], PRESENT[:, 1:], NAMES[1:]))(fewer)
    kept = {"joint": [0, *range(4, 10)], "bottleneck": [1, 2], "attention": [1, 2], "cross": [0, 1, 2, 3]}[name]
    absent = ~PRESENT[:, 0]
    np.testing.assert_allclose(np.asarray(out)[absent][:, kept], np.asarray(without)[absent], rtol=1e-5, atol=1e-5)
    assert not np.allclose(np.asarray(out)[7, kept], np.asarray(without)[7], atol=1e-3)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(kind="jiont"), "did you mean 'joint'"),
        (dict(kind="joint", heads=2, mlp_dim=8), "model.fusion.width is not set"),
        (
            dict(kind="weighted", width=8, widht=8),
            "model.fusion.widht is no setting of Weighted (did you mean 'width'?)",
        ),
        (dict(kind="cross", query="text", **LAYERS), "model.fusion.query='text'"),
        (dict(kind="late", combine="mean"), "model.fusion.combine='mean'"),
        (dict(kind="weighted", width=8, pool="eos"), "model.fusion.pool='eos'"),
        (dict(kind="bottleneck", **LAYERS, depth=2, fusion_layer=1), "model.fusion.fusion_layer=1"),
        (dict(kind="hybrid", fusion=dict(kind="late")), "model.fusion.fusion.kind='late'"),
    ],
)
def test_a_mistake_is_reported_in_one_line(settings, message):
    with pytest.raises(UserError) as caught:
        model = kinds.make_fusion(settings, CLASSES)
        shapes_of(model)
    assert message in str(caught.value) and "\n" not in str(caught.value)
