"""CoCa: published sizes, cached decoding through two stacks, and the class token behind the text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.models.coca import CoCa
from tests.helpers import torch_writers, writing_models


@pytest.mark.full
@pytest.mark.parametrize(
    "name, counts",
    [
        ("coca-B/32", [89_164_032, 63_428_608, 100_967_424, 1]),
        ("coca-L/14", [306_724_864, 123_651_072, 208_074_240, 1]),
    ],
)
def test_parameter_counts(name, counts):
    """OpenCLIP's: 253,560,065 and 638,450,177 in all."""
    parts = {"image": 0, "text": 0, "decoder": 0, "logit": 0}
    for key, tree in writing_models.shapes_of(writing_models.make(name)).items():
        parts[key.split("_")[0]] += writing_models.count(tree)
    assert list(parts.values()) == counts
    assert sum(counts) == {"coca-B/32": 253_560_065, "coca-L/14": 638_450_177}[name]


@pytest.fixture(scope="module")
def coca():
    """OpenCLIP's weights of the golden file."""
    weights, _ = writing_models.golden("coca")
    model, params = CoCa(**torch_writers.COCA), torch_writers.coca_params(weights)
    run, arguments = writing_models.exercise(model, embed=True), writing_models.inputs(5)
    return run, params, arguments, run(params, *arguments), model


def test_openclip_as_recorded(coca):
    """Embeddings and caption logits, of texts with padding."""
    run, params, *_ = coca
    images, text, mask, _, _ = torch_writers.inputs()
    out, _ = run(params, images, np.ones((3, 5), bool), np.float32(0), text, mask)
    writing_models.check_golden(out, writing_models.golden("coca")[1], mask)


def test_cached_decoding_is_teacher_forcing(coca):
    writing_models.check_cached(*coca[3])


@pytest.mark.full
def test_gradients_reach_every_parameter(coca):
    _, params, arguments, _, model = coca
    writing_models.check_gradients(model, params, arguments)


def test_only_what_is_real_matters(coca):
    writing_models.check_only_what_is_real(*coca[:4])


def test_the_last_real_token_counts(coca):
    """A mask one place off would hide it from the class token, or the class token from itself."""
    run, params, arguments, (before, _), _ = coca
    *rest, text, mask = arguments
    text = text.copy()
    text[np.arange(3), writing_models.LENGTHS - 1] = 3
    out, _ = run(params, *rest, text, mask)
    np.testing.assert_allclose(np.linalg.norm(out["text"], axis=1), 1, atol=1e-6)
    assert (np.abs(out["text"] - before["text"]).max(axis=1) > 1e-3).all()


@pytest.mark.full
def test_captions_of_a_text_alone(coca):
    """`caption_logits` reads the text itself."""
    run, params, arguments, (before, _), model = coca
    out, _ = writing_models.exercise(model)(params, *arguments)
    np.testing.assert_allclose(out["logits"], before["logits"], atol=5e-6)


@pytest.mark.full
def test_texts_of_any_length_have_the_class_token_at_one_position(coca):
    _, params, (*_, text, mask), _, model = coca
    text, mask = text[1:2, :4], mask[1:2, :4]
    embed = lambda model, *words: model.embed_text(model.encode_text(*words))
    run = jax.jit(lambda params, *words: model.apply({"params": params}, *words, method=embed))
    longer = run(params, np.pad(text, ((0, 0), (0, 3))), np.pad(mask, ((0, 0), (0, 3))))
    np.testing.assert_allclose(run(params, text, mask), longer, atol=1e-6)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"queries": 1}, "model.queries=1 leaves no image"),
        ({"pool_heads": 5}, "model.pool_heads=5 does not divide model.embed_dim=32"),
        ({"text__final_norm": True}, "model.text.final_norm is no setting"),
        ({"decoder__cross_every": 2}, "model.decoder.cross_every is no setting"),
    ],
)
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises(UserError, match=message):
        writing_models.shapes_of(writing_models.make("tiny-coca", **changes))


def test_a_text_that_is_too_long():
    """The position behind the last one is the class token's."""
    model = writing_models.make("tiny-coca")
    text = jax.ShapeDtypeStruct((1, 21), jnp.int32)
    with pytest.raises(ValueError, match="text of 21 tokens is longer than the model's context_length=20"):
        jax.eval_shape(lambda text: model.init(jax.random.key(0), text, method="encode_text"), text)
