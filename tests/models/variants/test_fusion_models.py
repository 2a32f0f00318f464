"""Published sizes of BERT, ALBEF, ViLT and Q-Former, what their settings may be, and how the small ones begin."""

import copy
import re

import jax
import jax.numpy as jnp
import pytest

from mmjax.errors import UserError
from mmjax.models.albef import ALBEF
from mmjax.models.blip import BLIP
from mmjax.models.encoders import Encoded
from mmjax.models.heads import Pooler
from mmjax.models.language import TextStack
from mmjax.models.qformer import QFormer
from mmjax.models.variants.fusion_models import FUSION, bert
from mmjax.models.vilt import ViLT

KINDS = {"albef": ALBEF, "blip": BLIP, "vilt": ViLT, "qformer": QFormer}


def make(name, **changes):
    settings = {key: value for key, value in FUSION[name].items() if key != "max_logit_scale"} | changes
    return KINDS[settings.pop("kind")](**copy.deepcopy(settings))


def shapes(model):
    side = model.image["image_size"]
    arguments = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32), jax.ShapeDtypeStruct((1, 8), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), *arguments)["params"]


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


# -- Published sizes ---------------------------------------------------------------------------------------------------


def test_bert_base_has_109_482_240_parameters():
    text = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    stack = jax.eval_shape(TextStack(**bert("base")).init, jax.random.key(0), text)["params"]
    pooler = jax.eval_shape(Pooler().init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 768), jnp.float32))["params"]
    assert (count(stack), count(stack) + count(pooler)) == (108_891_648, 109_482_240)


def test_albef_has_123_697_722_parameters_besides_the_image_tower():
    params = shapes(make("albef-B"))
    assert count(params["text"]) + count(params["fusion"]) == 123_697_722
    assert count(params["image"]) == 85_798_656 + 768 * (256 - 196)  # ViT-B/16 with 60 positions more
    assert count(params["image_projection"]) == count(params["text_projection"]) == 768 * 256 + 256
    assert count(params["match_head"]) == 2 * 768 + 2


@pytest.mark.parametrize(
    "heads, expected",
    [
        (dict(pooler=False), 111_004_416),
        (dict(), 111_595_008),
        (dict(mlm=True), 112_217_658),
        (dict(answers=3129), 117_588_537),
    ],
)
def test_vilt_has_as_many_parameters_as_published(heads, expected):
    assert count(shapes(make("vilt-B/32", **dict(match=False, mlm=False) | heads))) == expected


def test_qformer_has_186_080_002_parameters_besides_the_image_tower():
    params = shapes(make("qformer-B", caption=False))
    assert count(params) - count(params["image"]) - count(params["logit_scale"]) == 186_080_002
    assert count(params["image"]) == 985_952_256


# -- Settings ----------------------------------------------------------------------------------------------------------


def call(model, method="__call__", *more):
    side = model.image["image_size"]
    arguments = jnp.zeros((2, side, side, 3)), jnp.ones((2, 6), jnp.int32)
    return jax.eval_shape(lambda key: model.init(key, *arguments, *more, method=method), jax.random.key(0))


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("tiny-albef", dict(fusion=dict(heads=3)), "model.fusion.heads=3 does not divide model.text.width=32"),
        ("tiny-albef", dict(image=dict(class_token=False)), "model.image.class_token=False leaves no token to embed"),
        ("tiny-albef", dict(text=dict(causal=True)), "model.text.causal is no setting of TextStack here"),
        ("tiny-vilt", dict(pooler=False), "model.pooler=False goes with no head for matches or answers"),
        ("tiny-vilt", dict(image=dict(patch_dropout=0.5)), "model.image.patch_dropout is no setting of Stream here"),
        ("tiny-qformer", dict(text=dict(depths=3)), "model.text.depths is no setting of TextStack here"),
        ("tiny-qformer", dict(text=dict(cross_every=0)), "model.text.cross_every=0 would leave the image unseen"),
    ],
)
def test_wrong_settings_are_named(name, changes, message):
    merged = {k: FUSION[name][k] | v if isinstance(v, dict) else v for k, v in changes.items()}
    with pytest.raises(UserError, match=re.escape(message)):
        call(make(name, **merged))


@pytest.mark.parametrize(
    "name, changes, method, message",
    [
        ("tiny-albef", dict(mlm=False), "word_logits", "model.mlm=False: the model has no such head; set it to True"),
        ("tiny-albef", dict(), "answer_logits", "model.answers=0: the model has no such head; set it to the number"),
        ("tiny-vilt", dict(), "patch_pixels", "model.mim=False: the model has no such head"),
        ("tiny-qformer", dict(match=False), "match_logits", "model.match=False: the model has no such head"),
    ],
)
def test_a_head_that_was_not_asked_for_is_named(name, changes, method, message):
    fused = Encoded(jnp.zeros((1, 9, 32)))
    with pytest.raises(UserError, match=re.escape(message)):
        jax.eval_shape(lambda key: make(name, **changes).init(key, fused, method=method), jax.random.key(0))


def test_vilt_wants_images_of_its_size():
    model = make("tiny-vilt")
    with pytest.raises(ValueError, match="an image of 24x16 pixels is not of the model's image_size=16"):
        jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, 24, 16, 3)), method="encode_image"), jax.random.key(0))


def test_an_unknown_size_of_bert():
    with pytest.raises(UserError, match="size='bas' is not known"):
        bert("bas")
