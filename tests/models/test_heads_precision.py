"""Scores and embeddings computed in bfloat16 are summed and returned in float32."""

import copy
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models import image_text, make_model
from mmjax.models.image_text import l2_normalize
from mmjax.models.variants import two_tower as two_tower_lib

IDS = np.arange(16, dtype=np.int32).reshape(2, 8) % 7 + 1


def scores(name, model, image, text):
    image = model.encode_image(image)
    if hasattr(model, "decode"):
        return [model.decode(image, model.encode_text(text))]
    if hasattr(model, "fuse"):
        fused = model.fuse(image, model.encode_text(text), text)
        return [model.match_logits(fused), *([model.answer_logits(fused)] if name == "tiny-vilt" else [])]
    return [model.caption_logits(image, text)]


def some(first, second, *others):
    """Two kinds of model; the others are left to `make test-full`."""
    return [first, second, *(pytest.param(name, marks=pytest.mark.full) for name in others)]


@pytest.mark.parametrize("name", some("tiny-captioner", "tiny-captioner-lstm", "tiny-coca", "tiny-albef", "tiny-vilt"))
def test_scores_are_not_rounded(name, random_params):
    settings = copy.deepcopy(two_tower_lib.variant(name))
    settings.pop("max_logit_scale", None)
    if name == "tiny-vilt":
        settings["answers"] = 9
    model = make_model.make_model(settings, jnp.bfloat16, {})
    size = settings["image"]["image_size"]
    arguments = (np.ones((2, size, size, 3), np.float32), IDS)
    params = random_params(jax.eval_shape(model.init, jax.random.key(0), *arguments)["params"], std=0.2)
    arguments = tuple(map(jnp.asarray, arguments))
    logits = jax.jit(lambda params, *rest: scores(name, model.bind({"params": params}), *rest))(params, *arguments)
    for scored in logits:
        assert scored.dtype == jnp.float32
        assert (np.asarray(scored.astype(jnp.bfloat16), np.float32) != np.asarray(scored)).mean() > 0.5


@pytest.mark.parametrize("name", some("tiny", "tiny-siglip", "tiny-coca", "tiny-albef", "tiny-qformer"))
def test_embeddings_are_not_rounded_before_they_are_scaled(name, random_params):
    """Rounded to bfloat16, each number of an embedding would be off by up to 0.4 %."""
    settings = copy.deepcopy(two_tower_lib.variant(name))
    settings.pop("max_logit_scale", None)
    model = make_model.make_model(settings, jnp.bfloat16, {})
    size = settings["image"]["image_size"]
    arguments = (np.ones((2, size, size, 3), np.float32), IDS)
    params = random_params(jax.eval_shape(model.init, jax.random.key(0), *arguments)["params"], std=0.2)
    seen, unrounded = [], []

    def watched(x):
        seen.append(x.dtype)
        unrounded.append(jnp.mean(x.astype(jnp.bfloat16).astype(jnp.float32) != x))
        return l2_normalize(x)

    def embed(params, images, text):
        bound = model.bind({"params": params})
        image = bound.embed_image(bound.encode_image(images))
        return image, bound.embed_text(bound.encode_text(text)), tuple(unrounded)

    with mock.patch.object(image_text, "l2_normalize", watched):
        *embeddings, shares = jax.jit(embed)(params, *map(jnp.asarray, arguments))
    assert min(shares) > 0.5
    assert seen == [jnp.float32, jnp.float32]
    for embedding in embeddings:
        length = np.linalg.norm(np.asarray(embedding, np.float64), axis=-1)
        np.testing.assert_allclose(length, 1, atol=1e-6)
