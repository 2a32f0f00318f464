"""Attention weights come out of every kind of model when they are asked for, and point where planted weights must."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mmjax.evaluation.heatmaps import patch_map, rollout
from mmjax.models import make_model
from mmjax.models.variants import two_tower
from mmjax.nn import attention
from mmjax.nn.transformer import Memory, Transformer
from mmjax.tasks import attention_maps, load_objective

ALL = dict.fromkeys(("itc", "itm", "mlm", "caption", "vqa"), 1.0)
BATCH, TEXTS, LENGTH = 2, 2, 6
OFFERED = {
    "tiny": ("image", "similarity"),
    "tiny-coca": ("image", "similarity", "written"),
    "tiny-albef": ("image", "similarity", "read"),
    "tiny-vilt": ("read",),
    "tiny-qformer": ("image",),
    "tiny-blip": ("image", "similarity", "read"),
    "tiny-captioner": ("written",),
    "tiny-captioner-lstm": ("written",),
    "tiny-blip-vqa": ("written",),
    "tiny-blip2": ("written",),
    "tiny-prefix_lm": ("written",),
}


def make(name, image=None, **changes):
    settings = copy.deepcopy(two_tower.variant(name))
    settings.pop("max_logit_scale", None)
    settings["image"] |= dict(image_size=16, patch_size=8, depth=2) | (image or {})
    return make_model.make_model(settings | changes, jnp.float32, {})


def inputs(model, seed=0):
    rng = np.random.default_rng(seed)
    pixels = rng.standard_normal((BATCH, 16, 16, 3)).astype(np.float32)
    texts = rng.integers(3, 20, (BATCH, TEXTS, LENGTH)).astype(np.int32)
    mask = np.arange(LENGTH) < 5
    return tuple(
        map(jnp.asarray, (pixels, texts, np.broadcast_to(mask, texts.shape), texts[:, 0], [mask.tolist()] * BATCH))
    )


def filled(model, random_params):
    pixels, texts, *_ = inputs(model)
    return random_params(jax.eval_shape(model.init, jax.random.key(0), pixels, texts[:, 0])["params"])


# -- what is sown --------------------------------------------------------------------------------------------------


def layers(**changes):
    return Transformer(depth=2, heads=2, mlp_dim=8, **changes)


FULL = pytest.mark.full


@pytest.mark.parametrize(
    "changes",
    [
        dict(scan=True),
        pytest.param(dict(scan=False), marks=FULL),
        pytest.param(dict(scan=True, remat="full"), marks=FULL),
        pytest.param(dict(scan=False, remat="full"), marks=FULL),
    ],
    ids=str,
)
def test_every_layer_sows_its_attention_however_the_stack_is_run(changes, random_params):
    """Against a product written out in numpy, from each layer's input."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 8)), jnp.float32)
    spec = attention.AttentionSpec(causal=True)
    params = random_params(jax.eval_shape(layers().init, jax.random.key(0), x, spec)["params"])
    run = lambda params, x: layers(**changes).apply(params, x, spec, intermediates=True, mutable=["intermediates"])
    out, sown = jax.jit(run)({"params": params}, x)
    weights = sown["intermediates"]["layers"]["attention"]["weights"][0]
    assert weights.shape == (2, 2, 2, 5, 5)
    for layer, inner in enumerate(np.asarray([x, *out.layers[:-1]], np.float64)):
        block = jax.tree.map(lambda leaf, layer=layer: np.asarray(leaf[layer], np.float64), params["layers"])
        mean, var = inner.mean(-1, keepdims=True), inner.var(-1, keepdims=True)
        y = (inner - mean) / np.sqrt(var + 1e-5) * block["norm1"]["scale"] + block["norm1"]["bias"]
        qkv = block["attention"]["qkv"]
        q, k, _ = np.moveaxis(np.tensordot(y, qkv["kernel"], 1) + qkv["bias"], 2, 0)
        logits = np.where(np.tri(5, dtype=bool), np.einsum("bthk,bshk->bhts", q, k) / 2, -np.inf)
        chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        np.testing.assert_allclose(weights[layer], chances, atol=2e-6)


def test_cross_attention_sows_weights_over_its_memory(random_params):
    draw = lambda count: jnp.asarray(np.random.default_rng(count).standard_normal((2, count, 8)), jnp.float32)
    x, memory = draw(3), draw(4)
    model, spec = layers(cross_every=1), attention.AttentionSpec()
    memory = Memory(memory, jnp.array([[True] * 4, [True, True, False, False]]))
    params = random_params(jax.eval_shape(lambda key: model.init(key, x, spec, memory=memory), jax.random.key(0)))
    run = lambda params: model.apply(params, x, spec, memory=memory, mutable=["intermediates"])
    _, sown = jax.jit(run)(params)
    weights = np.asarray(sown["intermediates"]["layers"]["cross_attention"]["weights"][0])
    assert weights.shape == (2, 2, 2, 3, 4)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    assert (weights[:, 1, :, :, 2:] == 0).all() and (weights[:, 1, :, :, :2] > 0).all()


def test_a_plain_call_computes_no_weights(monkeypatch):
    """Its program is that of layers that cannot sow."""
    x, spec = jnp.zeros((2, 5, 8)), attention.AttentionSpec()
    params = jax.eval_shape(layers().init, jax.random.key(0), x, spec)
    trace = lambda **options: str(jax.make_jaxpr(lambda p: layers().apply(p, x, spec, **options))(params))
    plain, sowing = trace(), trace(mutable=["intermediates"])
    monkeypatch.setattr(nn.Module, "sow", lambda *_: pytest.fail("sown"))
    monkeypatch.setattr(attention, "attention_weights", lambda *_: pytest.fail("computed"))
    assert trace() == plain != sowing


# -- what models offer ---------------------------------------------------------------------------------------------


QUICK = ("tiny-captioner",)


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else FULL) for name in OFFERED])
def test_what_each_model_offers(name):
    """Shapes alone: nothing is compiled."""
    model = make(name)
    arguments = inputs(model)
    offered = attention_maps.available_maps(model, {word for name in ALL for word in load_objective.load(name).taught})
    assert offered == OFFERED[name]
    params = jax.eval_shape(model.init, jax.random.key(0), arguments[0], arguments[1][:, 0])["params"]
    maps = jax.eval_shape(lambda params: attention_maps.attention_maps(model, params, *arguments, offered), params)
    count = 4 + bool(model.image["class_token"] and name != "tiny-prefix_lm")
    expected = {}
    if "image" in offered:
        expected |= {"layers": (BATCH, 2, count, count), "reading": (BATCH, count), "last": (BATCH, count)}
    if "similarity" in offered:
        expected |= {"patches": (BATCH, TEXTS, count), "whole": (BATCH, TEXTS)}
    if {"read", "written"} & set(offered):
        expected["words"] = (BATCH, LENGTH, count)
    assert {key: leaf.shape for key, leaf in maps.items()} == expected


def test_nothing_is_offered_that_was_not_trained():
    assert attention_maps.available_maps(make("tiny-coca"), {"captions"}) == ("written",)
    assert attention_maps.available_maps(make("tiny-albef"), {"answers"}) == ("read",)
    assert attention_maps.available_maps(make("tiny-qformer"), {"captions"}) == ()


# -- where it points -----------------------------------------------------------------------------------------------


def test_a_planted_model_looks_at_the_bright_patch_and_finds_it_like_the_text():
    """The class token asks for what bright patches have, and the text is embedded as bright patches are."""
    image = dict(depth=1, heads=1, width=4, mlp_dim=4, pre_norm=False, pool="cls")
    model = make("tiny", image, embed_dim=4)
    _, *texts = inputs(model)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)), texts[0][:, 0])["params"]
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: np.full(x.shape, float(path[-1].key == "scale"), np.float32), shapes
    )
    # Dimension 0 says "class token", dimension 1 "bright".
    tower = params["image"]
    tower["class_token"][0] = 1
    tower["patch_embed"]["kernel"][..., 1] = 1
    kernel = tower["transformer"]["layers"]["attention"]["qkv"]["kernel"]  # [depth, D, 3, H, K]
    kernel[0, 0, 0, 0, 0], kernel[0, 1, 1, 0, 0] = 4, 4
    params["image_head"]["projection"]["kernel"][:] = np.eye(4)
    params["text"]["norm"]["bias"][1] = 1
    params["text_head"]["projection"]["kernel"][1, 1] = 1

    pixels = np.zeros((BATCH, 16, 16, 3), np.float32)
    bright = [2, 1]  # of four patches, row by row
    for picture, patch in zip(pixels, bright, strict=True):
        row, column = divmod(patch, 2)
        picture[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 1
    look = jax.jit(
        lambda params, pixels: attention_maps.attention_maps(model, params, pixels, *texts, ("image", "similarity"))
    )
    maps = jax.tree.map(np.asarray, look(params, jnp.asarray(pixels)))
    np.testing.assert_array_equal(maps["reading"], [[1, 0, 0, 0, 0]] * BATCH)
    for example, patch in enumerate(bright):
        assert maps["last"][example, 1 + patch] > 0.99
        flow = rollout(maps["layers"][example][:, None, None])[0]
        expected = 0.5 * (np.arange(5) == 0) + 0.5 * maps["last"][example]
        np.testing.assert_allclose(maps["reading"][example] @ flow, expected, atol=1e-6)
        heat = patch_map(maps["last"][example], (2, 2), (16, 16))
        row, column = divmod(int(heat.argmax()), 16)
        assert (row // 8, column // 8) == divmod(patch, 2)
        patches = maps["patches"][example, 0, 1:]
        assert patches.argmax() == patch and patches[patch] > 0.8
        np.testing.assert_allclose(np.delete(patches, patch), 0, atol=1e-6)
