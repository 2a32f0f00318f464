"""Published parameter and FLOP counts."""

import jax
import jax.numpy as jnp
import pytest

from mmjax.config import parse
from mmjax.config.schema import base_config
from mmjax.errors import UserError
from mmjax.models.two_tower import TwoTower
from mmjax.models.variants.two_tower import VARIANTS, variant
from mmjax.tasks import model_flops

# OpenAI's, OpenCLIP's and Hugging Face's implementations all have these.
PARAMETERS = {
    "B/32": (87_849_216, 63_428_096, 151_277_313),
    "B/16": (86_192_640, 63_428_096, 149_620_737),
    "L/14": (303_966_208, 123_650_304, 427_616_513),
    "L/14@336": (304_293_888, 123_650_304, 427_944_193),
    "H/14": (632_076_800, 354_032_640, 986_109_441),
    "siglip-B/16": (92_884_224, 110_271_744, 203_155_970),
}
# GFLOPs and millions of parameters of a pair, OpenCLIP's docs/model_profile.csv.
PROFILE = {
    "B/32": (14.78, 151.28),
    "B/16": (41.09, 149.62),
    "L/14": (175.33, 427.62),
    "L/14@336": (395.22, 427.94),
    "H/14": (381.68, 986.11),
    "siglip-B/16": (46.44, 203.16),
    "siglip-L/16": (201.62, 652.15),
    "siglip-So400m/14": (233.54, 877.36),
}


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes(name):
    settings = variant(name)
    settings.pop("max_logit_scale")
    side = settings["image"]["image_size"]
    arguments = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32), jax.ShapeDtypeStruct((1, 8), jnp.int32)
    return jax.eval_shape(TwoTower(**settings).init, jax.random.key(0), *arguments)["params"]


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name):
    params = shapes(name)
    image = count(params["image"]) + count(params["image_head"])
    text = count(params["text"]) + count(params["text_head"])
    assert (image, text, count(params)) == PARAMETERS[name]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", ["siglip-L/16", "siglip-So400m/14"])
def test_parameter_counts_of_the_larger_siglips(name):
    assert round(count(shapes(name)) / 1e6, 2) == PROFILE[name][1]


@pytest.mark.parametrize("name", PROFILE)
def test_flops(name):
    assert round(model_flops(parse(base_config(name)).model) / 1e9, 2) == PROFILE[name][0]


def test_a_variant_is_a_copy():
    variant("tiny")["image"]["width"] = 0
    assert VARIANTS["tiny"]["image"]["width"] == variant("tiny")["image"]["width"] > 0


def test_unknown_variant():
    with pytest.raises(UserError, match=r"variant='siglip-B/15' is not known \(did you mean 'siglip-B/16'\?\); choose"):
        variant("siglip-B/15")
