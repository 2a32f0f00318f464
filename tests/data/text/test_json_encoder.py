"""Files of tokenizers that would fill the memory, or search a text without end."""

import base64
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


def charsmap(*texts):
    trie = bytes(4)
    return base64.b64encode(len(trie).to_bytes(4, "little") + trie + b"\0".join(texts)).decode()


@pytest.mark.parametrize(
    "step",
    [
        {"type": "Sequence", "normalizers": [replace("aa", String="a")] * 40},
        {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [replace("x", Regex="")] * 20}] * 2},
        {"type": "Sequence", "normalizers": [replace("x", String="")] * 40},
        replace("x" * 50_000, String="a"),
        replace("x" * 9_000, Regex="."),
        replace("x" * 500, Regex=""),
        *(
            {"type": "Sequence", "normalizers": [replace("x", Regex=pattern)] * 8}
            for pattern in ("[a[b]]*", "a{0,5}", "(?=a)", "a*", "a|", "a{1,0}", "a+*", r"\b", "^")
        ),
        {"type": "Sequence", "normalizers": [{"type": "ByteLevel"}] * 4},
        {"type": "Precompiled", "precompiled_charsmap": charsmap(b"x" * 500)},
    ],
)
def test_a_text_that_would_grow_without_end(step):
    with pytest.raises(UserError, match=r"^data.tokenizer='json:x': the replacements of its normalizer and pre_tok"):
        make(normalizer=step)


def test_a_decoder_that_would_grow_without_end():
    with pytest.raises(UserError, match="of its decoder can make a text"):
        make(decoder={"type": "Sequence", "decoders": [replace("aa", String="a")] * 40})


def test_texts_in_front_of_others():
    with pytest.raises(UserError, match="puts 100,000 characters before a text"):
        make(normalizer={"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "a" * 2000}] * 50})


@pytest.mark.parametrize("charsmap", ["AAAA", "////////////////////", "?!", ""])
def test_a_map_of_characters_that_is_none(charsmap):
    with pytest.raises(UserError, match="^data.tokenizer='json:x' is not a tokenizer.json"):
        make(normalizer={"type": "Precompiled", "precompiled_charsmap": charsmap})


def test_a_vocabulary_that_cannot_encode():
    with pytest.raises(UserError, match="^data.tokenizer='json:x' cannot encode a text .*UNK"):
        make(model={"type": "WordLevel", "vocab": {}, "unk_token": "[UNK]"})


def surrounding(count, token_id):
    special, text = {"SpecialToken": {"id": "E", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    specials = {"E": {"id": "E", "ids": [token_id] * count, "tokens": ["E"] * count}}
    return {
        "type": "TemplateProcessing",
        "single": [special, text],
        "pair": [special, text],
        "special_tokens": specials,
    }


def test_more_ids_around_a_text_than_there_is_room_for():
    make(post_processor=surrounding(15, 1))
    with pytest.raises(UserError, match="puts 1,001 ids around a text, more than the context length of 16"):
        make(post_processor=surrounding(1000, 1))


def test_an_id_around_texts_that_the_vocabulary_lacks():
    with pytest.raises(UserError, match="puts id 123456789 into texts, but has 4 ids"):
        make(post_processor=surrounding(1, 123456789))


def test_usual_replacements_are_kept():
    patterns = (" {2,}", r"\s+", r"[\p{P}\]]", "[[:punct:]]", r"^\n+$", r"\p{^L}", ".", r"\.\.", "[^a-zA-Z0-9]")
    steps = [replace(" ", Regex=pattern) for pattern in (*patterns, *patterns)]
    make(normalizer={"type": "Sequence", "normalizers": steps})
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
