import numpy as np
import pytest

from mmjax.data.bad_example import BadExample
from mmjax.data.record import CaptionKeys, texts_of
from mmjax.errors import UserError

USUAL = ("caption", "text")


def test_the_first_usual_key_that_has_a_text_counts():
    keys = CaptionKeys.parse("", default=USUAL)
    assert keys.gather({"text": "b", "caption": "a"}.get) == {"captions": ["a"]}
    assert keys.gather({"text": "b", "caption": "  "}.get) == {"captions": ["b"]}


def test_weights_are_shared_by_a_key_s_captions_and_left_to_the_others_where_there_are_none():
    keys = CaptionKeys.parse("json:caption@0.7+txt@.3", default=USUAL)
    assert (keys.keys, keys.weights) == (("json:caption", "txt"), (0.7, 0.3))
    gathered = keys.gather({"json:caption": ["a", "b"], "txt": "c"}.get)
    assert gathered == {"captions": ["a", "b", "c"], "caption_weights": [0.35, 0.35, 0.3]}
    assert keys.gather({"txt": "c"}.get) == {"captions": ["c"], "caption_weights": [0.3]}
    assert CaptionKeys.parse("a+b", default=USUAL).weights == (1.0, 1.0)


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        (None, []),
        ("  ", []),
        (" a ", ["a"]),
        (b"caf\xc3\xa9", ["café"]),
        ("café".encode("utf-16"), ["café"]),
        (["a", [["b"], [[[b"c"]]]]], ["a", "b", "c"]),
        (["a", "", b"b"], ["a", "b"]),
        (np.array(["x", "y"], object), ["x", "y"]),
        (7, []),
        ({"a": "b"}, []),
    ],
)
def test_texts_of_a_field(value, texts):
    assert texts_of(value) == texts


def test_a_text_in_another_encoding_is_a_bad_example_and_no_depth_is_too_deep():
    with pytest.raises(BadExample, match="encoding: a text of 1 bytes is not utf-8"):
        texts_of(b"\xff")
    nested = "deep"
    for _ in range(5000):
        nested = [nested]
    assert texts_of(nested) == ["deep"] and texts_of(b"\xff", "latin-1") == ["\xff"]


def test_an_example_without_captions_is_a_bad_one():
    with pytest.raises(BadExample, match="no_caption: no text under 'caption', 'text'"):
        CaptionKeys.parse("", default=USUAL).gather({"txt": "a"}.get)


@pytest.mark.parametrize("text", ["+", "a+", "a@0", "a@", "a@x", "a@-1", "@0.5", "a@1e400"])
def test_what_is_no_key_is_named(text):
    with pytest.raises(UserError, match=r"data.caption_keys=.*KEY or KEY@WEIGHT") as error:
        CaptionKeys.parse(text, default=USUAL)
    assert "\n" not in str(error.value)


def test_a_key_is_named_once():
    with pytest.raises(UserError, match="names 'a' twice"):
        CaptionKeys.parse("a@1+b+a", default=USUAL)
