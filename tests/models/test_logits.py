"""Scores computed in bfloat16 are summed and returned in float32."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models import build, variants

IDS = np.arange(16, dtype=np.int32).reshape(2, 8) % 7 + 1


def scores(name, model, image, text):
    image = model.encode_image(image)
    if hasattr(model, "decode"):
        return [model.decode(image, model.encode_text(text))]
    if hasattr(model, "fuse"):
        fused = model.fuse(image, model.encode_text(text), text)
        return [model.match_logits(fused), *([model.answer_logits(fused)] if name == "tiny-vilt" else [])]
    return [model.caption_logits(image, text)]


@pytest.mark.parametrize("name", ["tiny-captioner", "tiny-captioner-lstm", "tiny-coca", "tiny-albef", "tiny-vilt"])
def test_scores_are_not_rounded(name, random_params):
    settings = copy.deepcopy(variants.variant(name))
    settings.pop("max_logit_scale", None)
    if name == "tiny-vilt":
        settings["answers"] = 9
    model = build.make_model(settings, jnp.bfloat16, {})
    size = settings["image"]["image_size"]
    arguments = (np.ones((2, size, size, 3), np.float32), IDS)
    params = random_params(jax.eval_shape(model.init, jax.random.key(0), *arguments)["params"], std=0.2)
    arguments = tuple(map(jnp.asarray, arguments))
    found = jax.jit(lambda params, *rest: scores(name, model.bind({"params": params}), *rest))(params, *arguments)
    for each in found:
        assert each.dtype == jnp.float32
        assert (np.asarray(each.astype(jnp.bfloat16), np.float32) != np.asarray(each)).mean() > 0.5
