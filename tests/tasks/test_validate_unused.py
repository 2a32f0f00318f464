"""Fields that a model has no use for are refused, and decoding is checked whatever the model does."""

import pytest

from mmjax.config import overrides, recipe
from mmjax.errors import UserError
from mmjax.tasks import check_model


def changed(spec, changes):
    config = recipe.load_recipe(spec)
    overrides.apply(config, [change.split("=") for change in changes.split()])
    return config


@pytest.mark.parametrize(
    "spec, changes, message",
    [
        ("fusion", "data.blind=True", "data.blind=True: model.kind='fused' is given modalities"),
        ("fusion", "eval.meteor=True", "eval.meteor=True: .* objectives.classify writes no captions; set it to False"),
        ("albef", "eval.meteor=True", "eval.meteor=True: .* objectives.itc, itm, mlm writes no captions"),
        ("coca:caption=0", "eval.meteor=True", "eval.meteor=True: .* objectives.itc writes no captions"),
        ("vqa", "eval.meteor=True", "eval.meteor=True: .* objectives.caption writes answers, not captions"),
        ("fusion", "decoding.method=bem", "decoding.method='bem' is not known .did you mean 'beam'"),
        ("albef", "decoding.temperature=1e-7", "decoding.temperature=1e-07 is out of range: .*1e-6 or more"),
        ("quickstart", "decoding.beams=0", "decoding.beams=0 is out of range"),
        ("albef", "decoding.max_tokens=4 decoding.min_tokens=5", "decoding.min_tokens=5 is out of range"),
        ("captioner", "decoding.max_tokens=-1", "decoding.max_tokens=-1 must not be negative"),
        ("albef", "decoding.min_tokens=-1", "decoding.min_tokens=-1 must not be negative"),
    ],
)
def test_what_a_model_has_no_use_for_is_refused(spec, changes, message):
    with pytest.raises(UserError, match=f"^{message}") as caught:
        check_model(changed(spec, changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spec, changes",
    [
        ("captioner", "eval.meteor=True data.blind=True decoding.min_tokens=5"),
        ("coca", "eval.meteor=True decoding.method=beam"),
        ("vqa:blind=True", "decoding.method=sample"),
        ("quickstart", "data.blind=True decoding.min_tokens=5"),
    ],
)
def test_what_it_has_is_not(spec, changes):
    check_model(changed(spec, changes))
