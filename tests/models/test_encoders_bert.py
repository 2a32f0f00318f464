"""Text towers of BERT's kind: padding, positions after it, and what the embedding is made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.encoders import TextTransformer
from mmjax.models.two_tower import EmbeddingHead
from mmjax.parallel.packing import TextPlaces

BERT = dict(vocab_size=30, width=16, depth=2, heads=2, mlp_dim=24, causal=False, mask_padding=True, norm="post")
BERT |= dict(context_length=9, token_types=2, embedding_norm=True, final_norm=False, pad_id=1)
ROBERTA = BERT | dict(positions="after_pad", token_types=1)
TEXTS = np.array([[5, 6, 7, 8, 2, 1], [9, 2, 1, 1, 1, 1], [3, 4, 5, 6, 7, 2]], np.int32)


def encode(settings, params, texts, mask=None):
    run = jax.jit(lambda params, texts: TextTransformer(**settings).apply({"params": params}, texts, mask))
    return run(params, texts).tokens


@pytest.fixture(scope="module", params=[BERT, ROBERTA], ids=["bert", "roberta"])
def tower(request, random_params):
    settings = request.param
    shapes = jax.eval_shape(TextTransformer(**settings).init, jax.random.key(0), TEXTS)["params"]
    return settings, random_params(shapes, std=0.3)


def test_parameters(tower):
    settings, params = tower
    before = 2 if settings["positions" if "positions" in settings else "pad_id"] == "after_pad" else 0
    assert params["position_embedding"].shape == (9 + before, 16)
    assert sorted(params) == ["norm_embed", "position_embedding", "token_embedding", "transformer", "type_embedding"]


def test_more_padding_changes_nothing(tower):
    settings, params = tower
    short, long = (
        encode(settings, params, texts) for texts in (TEXTS, np.pad(TEXTS, ((0, 0), (0, 3)), constant_values=1))
    )
    real = TEXTS != 1
    np.testing.assert_allclose(np.asarray(short)[real], np.asarray(long)[:, :6][real], atol=1e-6)


def test_padding_is_told_by_its_id_wherever_it_stands(tower):
    """Of RoBERTa it takes no position either: a text is the same with and without it."""
    settings, params = tower
    within = np.array([[5, 6, 1, 7, 2, 1]], np.int32)
    without = np.array([[5, 6, 7, 2, 1, 1]], np.int32)
    a, b = (np.asarray(encode(settings, params, text))[0] for text in (within, without))
    same = abs(a[[0, 1, 3, 4]] - b[:4]).max() < 1e-6
    assert same == ("positions" in settings)
    # The mask of the tokenizer is not read.
    everything = jnp.ones(TEXTS.shape, bool)
    np.testing.assert_array_equal(encode(settings, params, TEXTS), encode(settings, params, TEXTS, everything))


def test_without_an_id_the_mask_tells_padding(random_params):
    settings = BERT | dict(pad_id=None)
    params = random_params(
        jax.eval_shape(TextTransformer(**settings).init, jax.random.key(0), TEXTS)["params"], std=0.3
    )
    by_mask, by_id = encode(settings, params, TEXTS, jnp.asarray(TEXTS != 1)), encode(BERT, params, TEXTS)
    np.testing.assert_array_equal(by_mask, by_id)


def test_what_contradicts_itself(tower):
    settings, params = tower
    with pytest.raises(ValueError, match="positions='after_pad' with pad_id=None"):
        encode(settings | dict(positions="after_pad", pad_id=None), params, TEXTS)
    column = jnp.zeros(3, jnp.int32)
    packed = TextPlaces(column, column, rows=1, length=16)
    with pytest.raises(ValueError, match="BERT's kind cannot be packed"):
        TextTransformer(**settings | dict(causal=True)).apply({"params": params}, jnp.asarray(TEXTS), packed=packed)


@pytest.mark.parametrize("projection", ["mlp", "linear", "none"])
@pytest.mark.parametrize("pool, pooler", [("mean", False), ("cls", False), ("cls", True)])
def test_embeddings(tower, random_params, pool, pooler, projection):
    """By hand: mean of what is real, or the first token; dense and tanh; one or two layers."""
    settings, params = tower
    encoded = jax.jit(lambda params, text: TextTransformer(**settings).apply({"params": params}, text))(params, TEXTS)
    embed_dim = 16 if projection == "none" else 6
    head = EmbeddingHead(embed_dim, pool, projection, 2, 24, "gelu", 1e-5, pooler=pooler)
    weights = random_params(jax.eval_shape(head.init, jax.random.key(0), encoded).get("params", {}), std=0.3)
    result = jax.jit(lambda weights: head.apply({"params": weights}, encoded))(weights)
    tokens, real = np.asarray(encoded.tokens), (TEXTS != 1)[..., None]
    x = tokens[:, 0] if pool == "cls" else (tokens * real).sum(1) / real.sum(1)
    if pooler:
        dense = weights["pooler"]["dense"]
        x = np.tanh(x @ dense["kernel"] + dense["bias"])
    if projection == "linear":
        x = x @ weights["projection"]["kernel"]
    if projection == "mlp":
        assert weights["projection"]["fc1"]["kernel"].shape == (16, 11)
        x = jax.nn.gelu(x @ weights["projection"]["fc1"]["kernel"], approximate=False)
        x = x @ weights["projection"]["fc2"]["kernel"]
    np.testing.assert_allclose(result, x, atol=1e-5)
    assert result.dtype == jnp.float32
