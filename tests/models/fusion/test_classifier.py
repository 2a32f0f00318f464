"""The classifier of several modalities: what arrays lack, whole modalities that lack, and mistakes in its settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.models import make_model
from mmjax.models.encoders import TextTransformer

LAYER = dict(width=4, heads=1, mlp_dim=4)
NONE = dict(depth=0, heads=1, mlp_dim=1)
ENCODERS = {
    "image": dict(kind="image", image_size=8, patch_size=4, width=8, depth=1, heads=2, mlp_dim=8),
    "series": dict(kind="series", steps=6, patch_length=2, width=6, **NONE),
    "speech": dict(kind="features", width=4, context_length=3),
    "sound": dict(kind="audio", frames=8, mel_bins=4, patch_size=(4, 4), width=6, **NONE),
    "table": dict(kind="table", numeric=2, categories=(3,), width=4, **NONE),
    "text": dict(
        kind="text",
        vocab_size=9,
        context_length=4,
        width=4,
        depth=1,
        heads=1,
        mlp_dim=4,
        mask_padding=True,
        causal=False,
    ),
    "vector": dict(kind="features", width=4),
}
SHAPES = {
    "image": (8, 8, 3), "series": (6, 2), "speech": (3, 5), "sound": (8, 4), "table": (3,), "text": (4,), "vector": (5,)
}  # fmt: skip
NAMES = sorted(ENCODERS)
SETTINGS = dict(kind="fused", encoders=ENCODERS, fusion=dict(kind="late", combine="logits"), classes=5)


def make(**changes):
    return make_model.make_model(SETTINGS | changes, jnp.float32, {})


def example(shapes):
    """Arguments of a call that touches every parameter."""
    return {name: jnp.zeros((1, *shape)) for name, shape in shapes.items()}, jnp.ones((1, len(shapes)), bool)


def arrays(rows=4):
    rng = np.random.default_rng(0)
    made = {name: rng.standard_normal((rows, *shape)).astype(np.float32) for name, shape in SHAPES.items()}
    made["table"][:, 2] = rng.integers(0, 3, rows)
    made["text"] = rng.integers(0, 9, (rows, 4)).astype(np.float32)
    return made


@pytest.fixture(scope="module")
def classify(random_params):
    """The model applied: a function of arrays and what is present, and the same with gradients of the parameters."""
    model = make()
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *example(SHAPES)))
    params = random_params(shapes["params"], std=0.5)

    @jax.jit
    def run(modalities, present):
        def total(params):
            out = model.apply({"params": params}, modalities, present)
            return jnp.sin(out).sum(), out

        (_, out), gradients = jax.value_and_grad(total, has_aux=True)(params)
        return out, gradients

    return lambda modalities, present: run(modalities, jnp.asarray(present))


def test_whatever_an_absent_array_holds_changes_neither_values_nor_gradients(classify):
    values = arrays()
    present = np.random.default_rng(1).random((4, len(NAMES))) < 0.6
    present[:, 0] = [True, False, True, False]
    expected = classify(values, present)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(expected))
    for garbage in (np.nan, np.inf, 1e30):
        spoiled = {name: x.copy() for name, x in values.items()}
        for index, name in enumerate(NAMES):
            spoiled[name][~present[:, index]] = garbage
        jax.tree.map(np.testing.assert_array_equal, classify(spoiled, present), expected)


def test_what_is_missing_within_an_array_is_a_gap_and_an_array_of_gaps_is_absent(classify):
    values, everything = arrays(), np.ones((4, len(NAMES)), bool)
    all_logits, _ = classify(values, everything)
    for name, gap in {
        "series": (slice(2, 4), 0),  # a step with any gap is one
        "speech": (1, slice(None)),
        "sound": (slice(0, 4), slice(None)),
        "table": (0,),
        "text": (slice(2, 4),),
    }.items():
        lacking = values | {name: values[name].copy()}
        lacking[name][(1, *gap)] = np.nan
        out, _ = classify(lacking, everything)
        assert np.isfinite(out).all()
        np.testing.assert_array_equal(np.delete(out, 1, axis=0), np.delete(all_logits, 1, axis=0))
        assert not np.allclose(out[1], all_logits[1])
        if name == "series":  # what else such a step holds does not matter
            lacking[name][1, 2:4, 1] = 1e30
            np.testing.assert_array_equal(classify(lacking, everything)[0], out)
    for index, name in enumerate(NAMES):
        if name == "image":
            continue
        lacking = values | {name: values[name].copy()}
        lacking[name][1] = np.nan
        present = everything.copy()
        present[1, index] = False
        jax.tree.map(np.testing.assert_array_equal, classify(lacking, everything), classify(values, present))


def test_token_ids_are_read_as_a_text_encoder_reads_them(random_params):
    text = dict(ENCODERS["text"])
    model = make(encoders={"text": text})
    ids = np.array([[3, 5, 8, 1], [2, 4, 0, 0]])
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], bool)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), *example({"text": SHAPES["text"]})))
    params = jax.tree.map(jnp.asarray, random_params(variables["params"], std=0.5))
    float_ids = jnp.asarray(np.where(mask, ids, np.nan), jnp.float32)
    out = jax.jit(model.apply)({"params": params}, {"text": float_ids}, jnp.ones((2, 1), bool))
    text.pop("kind")
    encoder = TextTransformer(**text)
    tokens = np.asarray(
        jax.jit(encoder.apply)({"params": params["encoder_text"]}, jnp.asarray(ids), jnp.asarray(mask)).tokens
    )
    pooled = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    pooled = (pooled - pooled.mean(-1, keepdims=True)) / np.sqrt(pooled.var(-1, keepdims=True) + 1e-6)
    norm, head = params["fusion"]["norm_text"], params["fusion"]["head_text"]
    logits = (pooled * norm["scale"] + norm["bias"]) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(out, logits - np.log(np.exp(logits).sum(-1, keepdims=True)), rtol=1e-4, atol=1e-5)


MISTAKES = [
    ({"a": dict(kind="serie", width=4)}, {}, "model.encoders.a.kind='serie' is not known (did you mean 'series'?)"),
    ({"a": dict(kind="table", numeric=1, with_=2)}, {}, "model.encoders.a.with_ is no setting of TableTransformer"),
    ({"a": dict(kind="features")}, {}, "model.encoders.a.width is not set, which FeatureEncoder needs"),
    ({"text": ENCODERS["text"] | dict(mask_padding=False)}, {}, "set model.encoders.text.mask_padding=True"),
    ({"image": ENCODERS["image"]}, dict(image=dict(image_size=16)), "model.encoders.image.image_size=8"),
    ({"vector": ENCODERS["vector"]}, dict(fusion=dict(kind="cross", query="vector", **LAYER)), "the only modality"),
]


@pytest.mark.parametrize("encoders, changes, message", MISTAKES)
def test_a_mistake_is_reported_in_one_line(encoders, changes, message):
    model = make(encoders=encoders, **changes)
    inputs = {name: jnp.zeros((1, *SHAPES.get(name, (4,)))) for name in encoders}
    with pytest.raises(UserError) as caught:
        jax.eval_shape(lambda: model.init(jax.random.key(0), inputs, jnp.ones((1, len(inputs)), bool)))
    assert message in str(caught.value) and "\n" not in str(caught.value)
