"""Files of tokenizers that would fill the memory, or search a text without end."""

import json
import time

import pytest

from mmjax.data.bad_example import BadExample
from mmjax.data.text.make_tokenizer import make_tokenizer
from mmjax.errors import UserError


def make(**parts):
    vocabulary = {"[UNK]": 0, "</s>": 1, "a": 2, "aa": 3}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"}
    nothing = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    content = {"version": "1.0", "added_tokens": [], **nothing, "model": model, **parts}
    return make_tokenizer("json:x", 16, file=json.dumps(content).encode())


def replace(content, **pattern):
    return {"type": "Replace", "pattern": pattern, "content": content}


@pytest.mark.parametrize(
    "step",
    [
        {"type": "Sequence", "normalizers": [replace("aa", String="a")] * 40},
        {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [replace("x", Regex="")] * 20}] * 2},
        {"type": "Sequence", "normalizers": [replace("x", String="")] * 40},
        replace("x" * 50_000, String="a"),
    ],
    ids=["doubling", "nested", "between characters", "long"],
)
def test_a_text_that_would_grow_without_end(step):
    with pytest.raises(UserError, match=r"^data.tokenizer='json:x': the replacements of its normalizer can make"):
        make(normalizer=step)


def test_a_decoder_that_would_grow_without_end():
    with pytest.raises(UserError, match="of its decoder can make a text"):
        make(decoder={"type": "Sequence", "decoders": [replace("aa", String="a")] * 40})


def test_usual_replacements_are_kept():
    steps = [replace("▁", Regex=" {2,}"), replace("'", String="``"), {"type": "Lowercase"}, replace("aa", String="b")]
    tokenizer = make(normalizer={"type": "Sequence", "normalizers": steps})
    assert tokenizer(["B"])[0][0, 0] == 3


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "((a*)*)*$"])
def test_a_pattern_that_backtracks_without_end(pattern):
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    tokenizer = make(pre_tokenizer=split)
    start = time.monotonic()
    for text in ("a" * 100 + "b", "a" * 5000 + "b"):
        with pytest.raises(BadExample, match="^error: text 'aaa.* data.tokenizer='json:x' cannot encode a text"):
            tokenizer(["a", text])
    assert time.monotonic() - start < 60  # not the age of the universe
    tokenizer(["a", "aa"])
