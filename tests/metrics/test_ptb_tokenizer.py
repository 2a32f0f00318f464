"""Tokenisation against the Java program's outputs (make_captions.py)."""

import json

import pytest

from mmjax.metrics.ptb_tokenizer import ptb_tokenize, ptb_tokens
from tests.helpers import runs

GOLDEN = json.loads((runs.ROOT / "tests/golden/captions.json").read_text())["ptb"]


def test_captions_are_tokenised_as_by_the_java_program():
    texts, expected = GOLDEN["captions"]
    assert ptb_tokenize(texts) == expected


def test_awkward_strings_are_nearly_always_tokenised_alike():
    texts, expected = GOLDEN["nasty"]
    alike = sum(mine == theirs for mine, theirs in zip(ptb_tokenize(texts), expected, strict=True))
    assert alike >= 0.99 * len(texts)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("A man (left) isn't riding, he's gonna!", "a man -lrb- left -rrb- is n't riding he 's gon na"),
        ('"quoted" and\nnew line', "quoted and new line"),
        ("", ""),
        (" ... ", ""),
    ],
)
def test_quirks(text, expected):
    assert ptb_tokenize([text]) == [expected]


def test_punctuation_stays_in_the_tokens():
    assert ptb_tokens('"A dog."') == ["``", "a", "dog", ".", "''"]
