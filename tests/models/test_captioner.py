"""The captioner: published sizes, cached decoding, and what may not change a caption."""

import pytest
import writing

from mmjax.errors import UserError


@pytest.mark.parametrize(
    "name, total", [("captioner-B/16", 238_605_312), pytest.param("blip-B/16", 223_971_644, marks=pytest.mark.full)]
)
def test_parameter_counts(name, total):
    """A ViT-B/16 without pooler and GPT-2 with cross-attention in all layers; BLIP as Hugging Face has it."""
    assert writing.count(writing.shapes_of(writing.make(name))) == total


@pytest.fixture(scope="module")
def captioner(random_params):
    model = writing.make("tiny-captioner")
    params, arguments = random_params(writing.shapes_of(model)), writing.inputs(5)
    run = writing.exercise(model)
    return run, params, arguments, run(params, *arguments), model


def test_cached_decoding_is_teacher_forcing(captioner):
    writing.check_cached(*captioner[3])


@pytest.mark.full
def test_gradients_reach_every_parameter(captioner):
    _, params, arguments, _, model = captioner
    writing.check_gradients(model, params, arguments)


def test_only_what_is_real_matters(captioner):
    writing.check_only_what_is_real(*captioner[:4])


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"text__causal": False}, "model.text.causal=False"),
        ({"text__cross_every": 0}, "model.text.cross_every=0"),
        ({"text__dept": 3}, r"model.text.dept is no setting of TextStack here \(did you mean 'depth'\?\)"),
        ({"image__attention_impl": "cudnn"}, "model.image.attention_impl is no setting"),
    ],
)
def test_settings_that_make_no_sense(changes, told):
    with pytest.raises(UserError, match=told):
        writing.shapes_of(writing.make("tiny-captioner", **changes))
