"""Embeddings of the two towers and the parameters beside them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.models.image_text import l2_normalize
from mmjax.models.two_tower import TwoTower
from mmjax.models.variants.two_tower import variant

IMAGES = np.random.default_rng(0).standard_normal((3, 16, 16, 3)).astype(np.float32)
TEXT = np.random.default_rng(1).integers(2, 100, (3, 12)).astype(np.int32)


def make(name="tiny", dtype=jnp.float32, image=(), text=()):
    settings = variant(name)
    settings.pop("max_logit_scale")
    settings["image"] |= dict(image)
    settings["text"] |= {"vocab_size": 101, "eos_id": 100} | dict(text)
    return TwoTower(**settings, dtype=dtype)


def shapes(model):
    return jax.eval_shape(model.init, jax.random.key(0), IMAGES, TEXT)["params"]


@pytest.mark.parametrize("name, dtype", [("tiny", jnp.bfloat16), ("tiny-siglip", jnp.float32)])
def test_embeddings_are_unit_rows_in_float32(random_params, name, dtype):
    model = make(name, dtype)
    params = random_params(shapes(model))
    for embedding in jax.jit(model.apply)({"params": params}, IMAGES, TEXT):
        assert embedding.shape == (3, 32) and embedding.dtype == jnp.float32
        np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-6)
        assert np.linalg.matrix_rank(embedding) == 3


@pytest.mark.parametrize("name, log_scale, bias", [("tiny", 2.6592600, None), ("tiny-siglip", 2.3025851, -10.0)])
def test_scale_and_bias(name, log_scale, bias):
    @jax.jit
    def init(*arguments):  # only these two are computed; the compiler drops the rest of the initialisation
        params = make(name).init(*arguments)["params"]
        return {key: value for key, value in params.items() if key in ("logit_scale", "logit_bias")}

    params = init(jax.random.key(0), IMAGES, TEXT)
    assert float(params["logit_scale"]) == pytest.approx(log_scale, abs=1e-6)
    assert params.get("logit_bias") == bias


def test_towers_and_heads_by_name():
    assert set(shapes(make())) == {"image", "image_head", "text", "text_head", "logit_scale"}
    siglip = shapes(make("tiny-siglip"))
    assert set(siglip) == {"image", "image_head", "text", "text_head", "logit_scale", "logit_bias"}
    assert set(siglip["image_head"]) == {"pool"}
    assert set(siglip["text_head"]["projection"]) == {"kernel", "bias"}
    assert set(shapes(make())["image_head"]["projection"]) == {"kernel"}


def test_what_follows_the_end_of_a_clip_text_does_not_matter(random_params):
    model = make()
    params = random_params(shapes(model))
    encode = jax.jit(lambda params, text: model.apply({"params": params}, text, method="text_embedding"))
    embed = lambda text: encode(params, text)
    text = TEXT.copy()
    text[:, 5] = 100
    changed = text.copy()
    changed[:, 6:] = np.random.default_rng(2).integers(0, 101, (3, 6))
    np.testing.assert_array_equal(embed(text), embed(changed))
    changed[:, 4] += 1
    assert not np.allclose(embed(text), embed(changed))


def test_unknown_setting():
    with pytest.raises(
        UserError, match="model.image.patch_droput .*VisionTransformer here .did you mean 'patch_dropout'"
    ):
        shapes(make(image={"patch_droput": 0.1}))


def test_towers_draw_their_own_noise(random_params):
    """At equal rates an example must not lose the same layers of both towers."""
    model = make(image={"drop_path": 0.6}, text={"drop_path": 0.6})
    params = random_params(shapes(model))
    count = 200

    @jax.jit
    def outcomes(params, images, text, keys):
        flags = []
        for method, x in (("image_embedding", images), ("text_embedding", text)):
            rows = jnp.broadcast_to(x[:1], (count, *x.shape[1:]))
            arguments = (rows, keys) if method == "image_embedding" else (rows, None, keys)
            noisy = model.apply({"params": params}, *arguments, method=method)
            # With rate 0.6 in the second of two layers, an example keeps neither branch with probability 0.36; the
            # embedding is then that of one layer, and the same for all such examples.
            flags.append(jnp.abs(noisy[:, None] - noisy[None]).max(axis=-1) < 1e-6)
        return flags

    image, text = outcomes(params, IMAGES, TEXT, jax.random.split(jax.random.key(0), count))
    # Which of the four outcomes an example met, by the first example with the same one.
    image, text = np.argmax(image, axis=1), np.argmax(text, axis=1)
    assert len(set(image.tolist())) == len(set(text.tolist())) == 4
    assert len(set(zip(image.tolist(), text.tolist(), strict=True))) > 8


def test_a_row_of_zeros_has_a_finite_gradient():
    x = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    value, gradient = jax.value_and_grad(lambda x: l2_normalize(x)[:, 0].sum())(x)
    assert float(value) == pytest.approx(0.6)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient[1], [0.128, -0.096], atol=1e-6)
