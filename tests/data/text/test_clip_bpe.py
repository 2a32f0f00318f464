"""CLIP's ids against golden ones of OpenCLIP's own tokenizer, and texts of any length."""

import html
import json
import random
import time

import ftfy
import numpy as np
import pytest

from mmjax.data.text import clip_bpe
from mmjax.data.text.clip_bpe import clean_clip
from mmjax.data.text.make_tokenizer import make_tokenizer
from tests.golden.make_clip_tokens import PATH, SPECIAL, Generator
from tests.helpers import runs

# What OpenCLIP's SimpleTokenizer gives where a text spells its special tokens: the caption ends itself.
OPENCLIP_SPECIAL = {
    "a <end_of_text> b": [49406, 320, 49407, 321, 49407],
    "a <start_of_text> b": [49406, 320, 49406, 321, 49407],
}


def golden():
    """Returns texts and ids."""
    stored = np.load(PATH)
    content, ends = stored["text"].tobytes(), np.cumsum(stored["text_lengths"], dtype=int)
    starts = ends - stored["text_lengths"]
    texts = [content[a:b].decode("utf-8", "surrogatepass") for a, b in zip(starts, ends, strict=True)]
    return texts, np.split(stored["ids"], np.cumsum(stored["id_lengths"], dtype=int)[:-1])


def unshortened(text, context_length):
    """Ids with the whole text cleaned and encoded."""
    return [49406, *clip_bpe.clip_ids(clean_clip(text))[: context_length - 2], 49407]


def test_ids_equal_openclip_s_on_5000_strings():
    texts, expected = golden()
    assert len(texts) == 5000 and sum(not text.isascii() for text in texts) > 1500
    assert sum(len(ids) == 77 for ids in expected) > 50 and sum(len(text) > 1024 for text in texts) > 30
    differing = [
        text
        for text, ids, row in zip(texts, expected, make_tokenizer("clip", 77).encode(texts), strict=True)
        if row != ids.tolist()
    ]
    assert not differing


def test_a_shorter_context_is_the_start_and_the_end():
    texts, expected = golden()
    for ids, row in zip(expected, make_tokenizer("clip", 16).encode(texts), strict=True):
        assert row == (ids.tolist() if len(ids) <= 16 else [*ids[:15].tolist(), 49407])


@pytest.mark.parametrize("text", OPENCLIP_SPECIAL)
def test_a_text_that_spells_openclip_s_special_tokens_is_the_one_intended_difference(text):
    row = make_tokenizer("clip", 77).encode([text])[0]
    assert row != OPENCLIP_SPECIAL[text] and len(row) > 8
    assert (row.count(49406), row.count(49407)) == (1, 1) and row[0] == 49406 and row[-1] == 49407
    assert not any(special in golden_text.lower() for golden_text in golden()[0] for special in SPECIAL)


WORDS = ["a", "cat", "photo", "Of", "naïve", "日本語", "🐱", "it’s", "&amp;", "1234", "--", "supercalifragilistic"]


def long_texts(seed):
    rng = random.Random(seed)
    few = [rng.choice(WORDS) for _ in range(rng.randint(1, 6))]
    gaps = rng.choice([[" "], [" ", "\n"], ["\n \n", "  "], [""], ["\t", ", "], [" " * 30, "\r\n\r\n"]])
    return "".join(rng.choice(few) + rng.choice(gaps) for _ in range(rng.randint(300, 3000)))


@pytest.mark.parametrize("seed", range(30))
def test_cutting_a_long_text_first_changes_no_id(seed):
    text = long_texts(seed)
    for context_length in (16, 77):
        assert make_tokenizer("clip", context_length).encode([text])[0] == unshortened(text, context_length)


@pytest.mark.full
def test_cutting_a_long_text_first_changes_no_id_of_the_strangest_texts():
    generator = Generator(["cat", "photo", "red"], 5)
    tokenizer, compared = make_tokenizer("clip", 77), 0
    while compared < 1000:
        text = generator.long()
        if 1024 < len(text) <= 10_000:
            compared += 1
            assert tokenizer.encode([text])[0] == unshortened(text, 77), text[:200]


@pytest.mark.parametrize(
    "text",
    [
        "x" * 100_000,
        "日本語" * 33_000,
        "é " * 50_000,
        " " * 100_000 + "é cat",
        "é" + "\n \n" * 33_000 + "cat",
        "!" * 99_999,
    ],
    ids=["a word", "no spaces", "words", "leading spaces", "blank lines", "one sign"],
)
def test_of_100_000_characters_only_as_many_as_needed_are_cleaned(text, monkeypatch):
    cleaned = []
    monkeypatch.setattr(clip_bpe, "clean_clip", lambda text: cleaned.append(len(text)) or clean_clip(text))
    row = make_tokenizer("clip", 77).encode([text])[0]
    assert sum(cleaned) < 12_000 and row[-1] == 49407 and len(row) >= 3


def test_escaped_ampersands_are_cleaned_as_openclip_does_and_soon():
    rng = random.Random(0)
    pieces = ["amp;", "AMP;", "#38;", "#x26;", "&", "<", "\n", "eacute;", " a", "é", "lt;"]
    for _ in range(300):
        text = "".join(rng.choice(pieces[: rng.randrange(2, 12)]) for _ in range(rng.randrange(200)))
        assert clip_bpe.fix_unicode(text) == html.unescape(html.unescape(ftfy.fix_text(text)))
    for level in ("amp;", "#38;", "amp;#x26;"):
        started = time.thread_time()
        ids = clip_bpe.encode(["&" + level * 100_000], 77)
        assert ids == clip_bpe.encode(["&"], 77) and time.thread_time() - started < 2


@pytest.mark.parametrize("text", ["ab " * 40_000, " \n" * 40_000 + "é日 x", "é" * 40_000, "a\xa0b\u3000c" * 9_000])
def test_bytes_of_a_long_text_are_those_of_the_whole(text):
    expected = " ".join(text.split()).encode()
    for context_length in (3, 12, 77):
        room = context_length - 2
        assert make_tokenizer("bytes", context_length).encode([text])[0] == [257, *expected[:room], 258]


def test_what_meta_json_records_of_the_tokenizer():
    described = json.loads(json.dumps(make_tokenizer("clip", 77).describe()))
    assert described == {
        "spec": "clip",
        "context_length": 77,
        "vocab_size": 49408,
        "bos_id": 49406,
        "eos_id": 49407,
        "pad_id": 0,
        "cleaning": "ftfy, HTML entities twice, whitespace, lower case",
        "pad_repeats_eos": False,
        "file_sha256": None,
    }


def test_the_golden_file_is_small():
    assert PATH.stat().st_size < 400_000 and PATH.parent == runs.ROOT / "tests/golden/data"
