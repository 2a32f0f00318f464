"""ALBEF, ViLT, Q-Former and BERT: published sizes, what pairs, padding and captions may and may not change."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.albef import ALBEF
from mmjax.models.heads import Pooler
from mmjax.models.language import TextStack
from mmjax.models.qformer import QFormer
from mmjax.models.variants_fusion import FUSION, bert
from mmjax.models.vilt import ViLT

KINDS = {"albef": ALBEF, "vilt": ViLT, "qformer": QFormer}


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


# -- What may change what ----------------------------------------------------------------------------------------------


ALL = {
    "albef": dict(answers=5, logit_bias_init=-10.0),
    "vilt": dict(answers=5, mim=True),
    "qformer": dict(answers=5, caption_id=3),
}
LENGTHS = np.array([6, 3, 5])
