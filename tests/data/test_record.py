import re

import numpy as np
import pytest

from mmjax.data.bad_example import BadExample
from mmjax.data.record import CaptionKeys, record_mistake, texts_of
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


SOUND = np.zeros(8, np.float32)
RIGHT = [
    {},
    {"modalities": {"video": b"mp4", "audio": b"wav", "lidar": np.zeros((2, 3, 4))}, "spans": {"video": (0, 1.5)}},
    {"modalities": {"video": np.zeros((2, 4, 4, 3), np.uint8), "audio": None}, "rates": {"video": 25}},
    {"modalities": {"audio": SOUND}, "rates": {"audio": np.float32(16000)}, "spans": {"audio": [1, 2]}},
    {"modalities": {"audio": np.zeros((4, 8), np.float32)}},  # a spectrogram that is made already has no rate
    {"modalities": {"series": np.zeros((4, 2)), "table": np.full(3, np.nan, np.float32)}},
]


@pytest.mark.parametrize("fields", RIGHT)
def test_modalities_of_every_form_are_right(fields):
    assert record_mistake({"id": 1, **fields}) == ""


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"modalities": [SOUND]}, "has modalities=.*; give a dict of arrays, or of files as bytes, by name"),
        ({"modalities": [np.zeros((9, 9))]}, "has modalities="),
        ({"modalities": {1: SOUND}}, "has modalities=.*; give a dict of arrays"),
        ({"modalities": {"video": "a.mp4"}}, r"has modalities\['video'\] of str; give an array, or a file as bytes"),
        (
            {"modalities": {"video": np.zeros((4, 4, 3), np.uint8)}},
            r"of uint8 \[4, 4, 3\]; give uint8 \[frames, H, W, 3",
        ),
        ({"modalities": {"video": np.zeros((2, 4, 4, 1), np.uint8)}}, r"of uint8 \[2, 4, 4, 1\]; give uint8 \[frames"),
        ({"modalities": {"series": np.zeros(4)}}, r"of float64 \[4\]; give float32 \[steps, channels\]"),
        ({"modalities": {"table": np.zeros((4, 1))}}, r"of float64 \[4, 1\]; give float32 \[columns\]"),
        ({"modalities": {"audio": np.zeros(4, np.int16)}}, r"of int16; give samples as float32 in \[-1, 1\]"),
        ({"modalities": {"audio": SOUND}}, "without a rate; give rates={'audio': samples a second}"),
        ({"modalities": {"audio": SOUND}, "rates": {"video": 8}}, "without a rate"),
        ({"rates": 16000}, "has rates=16000; give a dict by the modality's name"),
        ({"modalities": {"video": None}, "rates": {"vidoe": 8}}, r"rates\['vidoe'\].* not among its modalities: video"),
        ({"spans": {"audio": (0, 1)}}, r"spans\['audio'\].* not among its modalities: none"),
        *(
            ({"modalities": {"audio": SOUND}, "rates": {"audio": rate}}, r"rates\['audio'\]=.*; give frames or samples")
            for rate in (0, -1.0, np.nan, np.inf, "8k", True, None)
        ),
        *(
            ({"modalities": {"audio": b""}, "spans": {"audio": span}}, r"spans\['audio'\]=.*give \(start, end\) in sec")
            for span in (3, (1,), (1, 1), (2, 1), (-1, 2), (0, np.inf), (0, None), "01", (0, 1, 2))
        ),
        ({"rate": {"audio": 8}}, "has an entry 'rate', which nothing reads; it is called 'rates'"),
        ({"span": {"audio": (0, 1)}}, "has an entry 'span', which nothing reads; it is called 'spans'"),
    ],
)
def test_what_is_wrong_with_modalities_is_one_line(fields, message):
    mistake = record_mistake({"id": 1, **fields})
    assert re.search(message, mistake) and "\n" not in mistake
