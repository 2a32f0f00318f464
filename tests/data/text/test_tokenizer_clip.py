"""CLIP's tokenizer against an independent implementation, and OpenAI's ids."""

import functools
import gzip
import html
import importlib.resources
import random
import unicodedata

import ftfy
import numpy as np
import pytest

from mmjax.data.text.clip_bpe import clean_clip
from mmjax.data.text.make_tokenizer import make_tokenizer


@functools.cache
def reference_tables():
    content = importlib.resources.files("mmjax.data").joinpath("vocab", "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    merges = [tuple(m.split()) for m in gzip.decompress(content).decode().split("\n")[1 : 49152 - 256 - 2 + 1]]
    order = [*range(33, 127), *range(161, 173), *range(174, 256)]
    order += [b for b in range(256) if b not in order]
    symbol = {b: chr(b) if i < 188 else chr(256 + i - 188) for i, b in enumerate(order)}
    vocab = [symbol[b] for b in order] + [symbol[b] + "</w>" for b in order] + ["".join(m) for m in merges]
    return symbol, {m: rank for rank, m in enumerate(merges)}, {v: i for i, v in enumerate(vocab)}


def reference_words(text):
    """CLIP's pre-tokenizer by hand: contractions, runs of letters, single digits, runs of anything else."""

    def kind(c):
        return "space" if c.isspace() else {"L": "letter", "N": "number"}.get(unicodedata.category(c)[0], "other")

    i = 0
    while i < len(text):
        suffix = next((s for s in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d") if text.startswith(s, i)), "")
        end = i + max(len(suffix), 1)
        while (
            not suffix and kind(text[i]) in ("letter", "other") and end < len(text) and kind(text[end]) == kind(text[i])
        ):
            end += 1
        if kind(text[i]) != "space":
            yield text[i:end]
        i = end


@functools.cache
def reference_bpe(word):
    symbol, ranks, vocab = reference_tables()
    parts = [symbol[b] for b in word.encode()]
    parts[-1] += "</w>"
    while len(parts) > 1:
        rank, first = min((ranks.get(pair, 10**9), pair) for pair in zip(parts, parts[1:], strict=False))
        if rank == 10**9:
            break
        merged, i = [], 0
        while i < len(parts):
            step = 2 if tuple(parts[i : i + 2]) == first else 1
            merged.append("".join(parts[i : i + step]))
            i += step
        parts = merged
    return [vocab[part] for part in parts]


def reference_encode(text):
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    text = " ".join(text.split()).strip().lower()
    return [49406, *(i for word in reference_words(text) for i in reference_bpe(word)), 49407]


FRAGMENTS = [
    "a photo of a cat",
    "It's",
    "don't",
    "WE'LL",
    "they've",
    "i'd",
    "'s",
    "''s",
    "o'clock",
    "1",
    "2023",
    "3.14",
    "10,000",
    "x2",
    "abc123def",
    "½",
    "²",
    "Ⅷ",
    "٣",
    "１２",
    "é",
    "é",
    "Straße",
    "İstanbul",
    "naïve café",
    "ﬁn",
    "🐱",
    "👩\u200d👩\u200d👧",
    "🇩🇪",
    "❤️",
    "日本語",
    "한국어",
    "привет мир",
    "עברית",
    "नमस्ते",
    "&amp;",
    "&lt;b&gt;",
    "&amp;amp;",
    "&#39;",
    "&nbsp;",
    "&eacute;",
    "\t",
    "\n\n",
    "  ",
    "\xa0",
    "\u200b",
    "--",
    "...",
    "!!!",
    "?!",
    "#tag",
    "@user",
    "http://a.b/c?d=e",
    "<",
    ">",
    "_",
    "snake_case",
    "CamelCase",
    "$5",
    "50%",
    "(c)",
    "©",
    "™",
    "“quoted”",
    "‘s",
    "â€œmojibakeâ€\x9d",
    "schÃ¶n",
    "\x07",
    "<",
    "endoftext",
    ">",
    "</w>",
    "supercalifragilisticexpialidocious",
    "qzxjkv",
    "~`^",
]


def sample_texts():
    rng = random.Random(0)
    mixed = [
        "".join(rng.choice(FRAGMENTS) + rng.choice(["", " "]) for _ in range(rng.randint(1, 12))) for _ in range(150)
    ]
    ascii_noise = ["".join(chr(rng.randint(1, 127)) for _ in range(rng.randint(0, 40))) for _ in range(50)]
    return [*FRAGMENTS, *mixed, *ascii_noise, "", " ", "word " * 300, "x" * 500]


def test_clip_ids_equal_an_independent_implementation():
    texts = sample_texts()
    assert len(texts) > 250
    tokenizer = make_tokenizer("clip", 4000)
    for text, ids in zip(texts, tokenizer.encode(texts), strict=True):
        assert ids == reference_encode(text), repr(text)


def test_clip_ids_are_openai_s():
    """Golden ids, as OpenCLIP 3.3.0's copy of OpenAI's SimpleTokenizer gives them."""
    ids, mask = make_tokenizer("clip", 77)(["a photo of a cat", "", "hello world!"])
    assert ids.shape == mask.shape == (3, 77) and ids.dtype == np.int32 and mask.dtype == bool
    assert ids[0, :8].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 0]
    assert ids[1, :3].tolist() == [49406, 49407, 0]
    assert ids[2, :6].tolist() == [49406, 3306, 1002, 256, 49407, 0]
    assert mask.sum(1).tolist() == [7, 2, 5] and not ids[~mask].any()


def test_text_that_spells_a_special_token_stays_text():
    ids, _ = make_tokenizer("clip", 77)(["a <|endoftext|> b <|startoftext|>"])
    assert (ids == 49407).sum() == 1 and (ids == 49406).sum() == 1 and ids[0].argmax() > 10


@pytest.mark.parametrize(
    "text", ["tom &amp; jerry", "A  B\tC", "plain", "tail ", "caf\u00c3\u00a9", "ﬁ \u2028 x", "'\x1bq"]
)
def test_the_fast_path_cleans_like_the_slow_one(text):
    slow = " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower()
    assert clean_clip(text) == slow
