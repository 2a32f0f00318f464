"""The captioner: published sizes, cached decoding, and what may not change a caption."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.models import language
from mmjax.models.captioner import Captioner
from mmjax.nn import transformer
from tests.helpers import torch_writers, writing_models


@pytest.mark.parametrize(
    "name, total",
    [
        ("captioner-B/16", 238_605_312),
        pytest.param("blip-B/16", 223_971_644, marks=pytest.mark.full),
        # Theirs has 384 pixels, and counts the table of tokens twice, which is also the head's.
        ("blip-vqa-B/16", 384_672_572 - 30524 * 768 + (30**2 - 24**2) * 768),
    ],
)
def test_parameter_counts(name, total):
    """A ViT-B/16 without pooler and GPT-2 with cross-attention in all layers; BLIP as Hugging Face has it."""
    assert writing_models.count(writing_models.shapes_of(writing_models.make(name))) == total


@pytest.fixture(
    scope="module",
    params=[
        "blip",
        *(
            pytest.param(name, marks=pytest.mark.full)
            for name in ("tiny-captioner", "tiny-captioner-lstm", "tiny-blip-vqa")
        ),
    ],
)
def captioner(random_params, request):
    """BLIP's layout with its weights of the golden file; GPT-2's and the LSTM with random ones."""
    if request.param == "blip":
        weights, _ = writing_models.golden("blip")
        model, params = Captioner(**torch_writers.BLIP), torch_writers.blip_params(weights)
    else:
        model = writing_models.make(request.param)
        params = random_params(writing_models.shapes_of(model))
    run, arguments = writing_models.exercise(model), writing_models.inputs(5)
    if model.question is not None:  # a question ends where the prompt does; the last text has none
        arguments[3][[0, 1], writing_models.PROMPTS[:2] - 1] = writing_models.SEP
    return run, params, arguments, run(params, *arguments), model


def check_blip(run, weights, expected):
    images, text, mask, _, _ = torch_writers.inputs()
    everything = np.ones((3, 5), bool)
    out, _ = run(torch_writers.blip_params(weights), images, everything, np.float32(0), text, mask)
    writing_models.check_golden(out, expected, mask)


@pytest.mark.parametrize("captioner", ["blip"], indirect=True)
def test_blip_as_recorded(captioner):
    check_blip(captioner[0], *writing_models.golden("blip"))


@pytest.mark.full
@pytest.mark.parametrize("captioner", ["blip"], indirect=True)
def test_blip_live(captioner):
    model, expected = torch_writers.blip()
    check_blip(captioner[0], torch_writers.weights_of(model), expected)


@pytest.mark.full
@pytest.mark.parametrize("live", [False, True], ids=["recorded", "live"])
def test_gpt2_with_cross_attention(live):
    """The decoder alone, on a memory of which some is padding."""
    weights, expected = writing_models.golden("gpt2")
    if live:
        reference, expected = torch_writers.gpt2()
        weights = torch_writers.weights_of(reference)
    _, text, mask, memory, real = map(jnp.asarray, torch_writers.inputs())

    @jax.jit
    def run(params):
        decoder = language.TextStack(**torch_writers.GPT_TEXT).bind({"params": params})
        return decoder.logits(decoder(text, mask, transformer.Memory(memory, real)).tokens)

    writing_models.check_golden(dict(logits=run(torch_writers.gpt2_params(weights))), expected, np.asarray(mask))


def test_cached_decoding_is_teacher_forcing(captioner):
    writing_models.check_cached(*captioner[3])


@pytest.mark.full
def test_gradients_reach_every_parameter(captioner):
    _, params, arguments, _, model = captioner
    writing_models.check_gradients(model, params, arguments)


def test_only_what_is_real_matters(captioner):
    writing_models.check_only_what_is_real(*captioner[:4])


def test_an_answer_is_read_by_itself(random_params):
    """Its logits are those of the decoder alone at the first positions, which looks at the question."""
    model = writing_models.make("tiny-blip-vqa", caption_id=7)
    params = random_params(writing_models.shapes_of(model))
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    text = jnp.array([[1, 9, 10, 5, 20, 21, 2], [1, 9, 5, 20, 21, 2, 0]])

    @jax.jit
    def run(params):
        bound = model.bind({"params": params})
        image = bound.encode_image(images)
        logits = bound.caption_logits(image, text, text > 0)
        question = bound.reader(text[:1, :4], None, transformer.Memory(image.tokens[:1], None))
        answer = jnp.array([[7, 20, 21, 2]])
        return logits, bound.writer.logits(bound.writer(answer, None, transformer.Memory(question.tokens, None)).tokens)

    logits, alone = map(np.asarray, run(params))
    np.testing.assert_allclose(logits[0, 3:], alone[0], rtol=1e-5, atol=1e-5)
    assert np.abs(logits[1, 2:5] - alone[0, :3]).max() > 1e-3  # another question, another answer


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"text__causal": False}, "model.text.causal=False"),
        ({"text__cross_every": 0}, "model.text.cross_every=0"),
        (
            {"question": dict(vocab_size=64, context_length=20, width=8, depth=1, heads=2, mlp_dim=8)},
            "set model.text.sep",
        ),
        ({"decoder": "gru"}, "model.decoder='gru' is not known; choose one of: transformer, lstm"),
        ({"text__dept": 3}, r"model.text.dept is no setting of TextStack here \(did you mean 'depth'\?\)"),
        ({"image__attention_impl": "cudnn"}, "model.image.attention_impl is no setting"),
    ],
)
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises(UserError, match=message):
        writing_models.shapes_of(writing_models.make("tiny-captioner", **changes))
