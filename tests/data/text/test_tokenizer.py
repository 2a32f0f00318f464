import json
import pickle
import random
import sys

import numpy as np
import pytest
import tokenizers

from mmjax.data.text.clip_bpe import clean_clip
from mmjax.data.text.make_tokenizer import make_tokenizer, require_bos
from mmjax.data.text.text_normalization import canonicalize
from mmjax.errors import UserError
from tests.data.text.test_tokenizer_clip import reference_words, sample_texts


@pytest.mark.parametrize("kind", ["clip", "bytes"])
def test_long_texts_are_cut_and_still_end(kind):
    tokenizer = make_tokenizer(kind, 8)
    long, short = make_tokenizer(kind, 100).encode(["one two three four five six seven eight nine", "hi"])
    ids, mask = tokenizer(["one two three four five six seven eight nine", "hi"])
    assert ids[0].tolist() == [*long[:7], tokenizer.eos_id] and mask[0].all()
    assert ids[1, : len(short)].tolist() == short and (ids[1, len(short) :] == tokenizer.pad_id).all()
    assert len(long) > 8 and mask[1].sum() == len(short)


def test_bytes_are_utf8_between_specials():
    tokenizer = make_tokenizer("bytes", 10)
    ids, _ = tokenizer(["  hé\n\t! "])
    assert ids[0].tolist() == [257, *"hé !".encode(), 258, 256, 256, 256]
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (259, 257, 258, 256)
    assert tokenizer(["lone surrogate \ud800"])[0].max() < 259


def test_no_texts_and_one_text():
    tokenizer = make_tokenizer("clip", 5)
    assert tokenizer([])[0].shape == (0, 5)
    with pytest.raises(TypeError, match="list"):
        tokenizer("a string")


@pytest.mark.parametrize(
    ("text", "canonical"),
    [("A photo, of_a CAT!", "a photo of a cat"), ("it's  1.5\n%", "its 15"), ("“Héllo”—?", "“héllo”—"), ("!?", "")],
)
def test_canonicalize_drops_ascii_punctuation_and_case(text, canonical):
    assert canonicalize(text) == canonical


def word_level_json(*, template):
    names = ["<pad>", "<s>", "</s>", "<unk>", "a", "red", "cat"]
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.normalizer = tokenizers.normalizers.Lowercase()
    backend.add_special_tokens(names[:4])
    if template:
        specials = [(n, names.index(n)) for n in ("<s>", "</s>") if n in template]
        backend.post_processor = tokenizers.processors.TemplateProcessing(single=template, special_tokens=specials)
    backend.enable_truncation(3)  # what the file says about lengths must not matter
    return backend.to_str()


@pytest.mark.parametrize(
    ("template", "bos", "ids"),
    [
        ("<s> $A </s>", 1, [[1, 4, 5, 6, 2], [1, 3, 2, 0, 0]]),
        ("$A </s>", None, [[4, 5, 6, 4, 2], [3, 2, 0, 0, 0]]),
        ("", None, [[4, 5, 6, 4, 2], [3, 2, 0, 0, 0]]),
    ],
)
def test_a_tokenizer_json_keeps_its_own_specials(tmp_path, template, bos, ids):
    path = tmp_path / "tokenizer.json"
    path.write_text(word_level_json(template=template))
    tokenizer = make_tokenizer(f"json:{path}", 5)
    result, mask = tokenizer(["a RED cat a red", "dog"])
    assert result.tolist() == ids
    assert mask.tolist() == [[True] * 5, [i != 0 for i in ids[1]]]
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (7, bos, 2, 0)


@pytest.mark.parametrize(
    ("template", "bos", "ids"),
    [
        ("", 2, [[2, 4, 5, 6, 2], [2, 3, 2, 0, 0]]),
        ("$A </s>", 2, [[2, 4, 5, 6, 2], [2, 3, 2, 0, 0]]),
        ("<s> $A </s>", 1, [[1, 4, 5, 6, 2], [1, 3, 2, 0, 0]]),  # has one of its own
    ],
)
def test_bos_puts_the_end_of_text_before_texts_that_have_no_first_id(tmp_path, template, bos, ids):
    path = tmp_path / "tokenizer.json"
    path.write_text(word_level_json(template=template))
    tokenizer = make_tokenizer(f"json+bos:{path}", 5)
    assert tokenizer(["a RED cat a red", "dog"])[0].tolist() == ids and tokenizer.bos_id == bos
    assert tokenizer.words("red cat") == [5, 6] and tokenizer.decode([bos, 5, 6, 2, 4]) == "red cat"


# What open_clip 3.3.0's `get_clean_fn` makes of these texts.
TEXTS = ["A  Cat &amp;amp; a DOG!", "naÃ¯ve_cat, red", "  red\tred  ", "", "a <b>Red</b> cat's tail " * 9]
CLEANED = {
    "whitespace": ["A Cat & a DOG!", "naïve_cat, red", "red red", "", " ".join(["a <b>Red</b> cat's tail"] * 9)],
    "lower": ["a cat & a dog!", "naïve_cat, red", "red red", "", " ".join(["a <b>red</b> cat's tail"] * 9)],
    "canonicalize": ["a cat a dog", "naïve cat red", "red red", "", " ".join(["a bredb cats tail"] * 9)],
}


@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.parametrize("clean", CLEANED)
def test_options_do_what_openclip_does(tmp_path, clean, strip):
    """The ids of `HFTokenizer(clean=..., strip_sep_token=...)`, with a separator that ends texts."""
    letters = [chr(i) for i in range(33, 127)] + ["ï", "▁"]
    names = ["<pad>", "[CLS]", "[SEP]", "<unk>", *letters]
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({n: i for i, n in enumerate(names)}, [], unk_token="<unk>"))
    backend.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    backend.add_special_tokens(names[:4])
    (tmp_path / "tokenizer.json").write_text(backend.to_str())
    backend.enable_truncation(32)
    backend.enable_padding(length=32)
    want = np.array([encoding.ids for encoding in backend.encode_batch(CLEANED[clean])])
    spec = f"json+{clean}{'+strip_sep' if strip else ''}:{tmp_path / 'tokenizer.json'}"
    ours = make_tokenizer(spec, 32)
    np.testing.assert_array_equal(ours(TEXTS)[0], np.where(want == 2, 0, want) if strip else want)
    assert ours.eos_id == (0 if strip else 2) and ours.describe()["spec"] == spec
    copy = pickle.loads(pickle.dumps(ours))
    np.testing.assert_array_equal(copy(TEXTS)[0], ours(TEXTS)[0])


@pytest.mark.parametrize(
    ("option", "text", "same_as"),
    [
        ("whitespace", "A &amp;lt;  CAT", "A < CAT"),
        ("lower", "A &amp;lt;  CAT", "a < cat"),
        ("canonicalize", "A_&amp;lt;  CAT!", "a cat"),
        ("lowercase", "A  &lt; CAT", "a  &lt; cat"),
    ],
)
def test_options_clean_before_the_file_does(tmp_path, option, text, same_as):
    letters = sorted({*text, *same_as, " "})
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({n: i for i, n in enumerate([*letters, "</s>"])}, []))
    (tmp_path / "tokenizer.json").write_text(backend.to_str())
    plain = make_tokenizer(f"json:{tmp_path / 'tokenizer.json'}", 20)
    cleaned = make_tokenizer(f"json+{option}:{tmp_path / 'tokenizer.json'}", 20)
    np.testing.assert_array_equal(cleaned([text])[0], plain([same_as])[0])
    assert not np.array_equal(plain([text])[0], plain([same_as])[0])
    assert cleaned.describe()["cleaning"] != "none" and plain.describe()["cleaning"] == "none"


@pytest.mark.full
def test_lowercase_is_transformers_siglip2_tokenizer(tmp_path):
    import transformers

    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", "a", "c", "t", "A", "C", "Σ", "σ", "ς", "at", "cat"]
    merges = [("a", "t"), ("c", "at")]
    theirs = transformers.Siglip2Tokenizer(vocab={n: i for i, n in enumerate(names)}, merges=merges)
    file = json.loads(theirs.backend_tokenizer.to_str())
    file["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}  # all that files say
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    ours = make_tokenizer(f"json+lowercase:{tmp_path / 'tokenizer.json'}", 12)
    plain = make_tokenizer(f"json:{tmp_path / 'tokenizer.json'}", 12)
    for text in ("A Cat", "a cat", "CATΣ A", "<eos> C"):
        want = theirs(text, add_special_tokens=False).input_ids
        assert ours.encode([text])[0] == [*want, 1]
    assert plain.encode(["A Cat"]) != ours.encode(["A Cat"])


def test_a_checkpoint_can_carry_the_file(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(word_level_json(template="<s> $A </s>"))
    tokenizer = make_tokenizer(f"json:{path}", 6)
    assert tokenizer.file_bytes == path.read_bytes()
    path.unlink()
    description = json.loads(json.dumps(tokenizer.describe()))
    rebuilt = make_tokenizer(description["spec"], description["context_length"], file=tokenizer.file_bytes)
    assert rebuilt.describe() == description and len(description["file_sha256"]) == 64
    for copy in (rebuilt, pickle.loads(pickle.dumps(tokenizer))):
        assert np.array_equal(copy(["a cat"])[0], tokenizer(["a cat"])[0])


@pytest.mark.parametrize("kind", ["clip", "bytes"])
def test_a_worker_can_have_a_copy(kind):
    tokenizer = make_tokenizer(kind, 16)
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.describe() == tokenizer.describe() and tokenizer.file_bytes is None
    assert np.array_equal(copy(["a Cat!"])[0], tokenizer(["a Cat!"])[0])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("clp", r"data.tokenizer='clp' is not known \(did you mean 'clip'\?\)"),
        ("clip:x", "data.tokenizer='clip:x' is not known"),
        ("json:/no/such/tokenizer.json", "data.tokenizer='json:/no/such/tokenizer.json': cannot read"),
        ("json:", "data.tokenizer='json:' lacks the path"),
        ("json+lowr:x", r"'lowr' is not known \(did you mean 'lower'\?\)"),
        ("json+lower+canonicalize:x", "lower and canonicalize cannot both clean"),
        ("sentencepiece+lower:x", "sentencepiece takes no 'lower'"),
    ],
)
def test_a_wrong_spec_is_one_line_that_names_the_field(spec, message):
    with pytest.raises(UserError, match=message) as caught:
        make_tokenizer(spec, 16)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(UserError, match=r"data.tokenizer=.*pip install 'mmjax\[sentencepiece\]'"):
        make_tokenizer("sentencepiece:x", 16, file=b"")


def test_files_of_another_format_and_short_contexts_are_refused():
    for content in (b"{}", b"\xff\xfe", b"not json"):
        with pytest.raises(UserError, match="is not a tokenizer.json"):
            make_tokenizer("json:x", 16, file=content)
    bare = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(UserError, match="no end-of-text token"):
        make_tokenizer("json:x", 16, file=bare.to_str().encode())
    with pytest.raises(UserError, match="context_length=2"):
        make_tokenizer("clip", 2)


def test_whole_words_have_ids_after_six_specials(tmp_path):
    path = tmp_path / "vocabulary.txt"
    path.write_text("a\nred\n\ncat\n1\n")
    tokenizer = make_tokenizer(f"words:{path}", 7)
    ids, mask = tokenizer(["A red, CAT!", "a dog", "1 " * 9, ""])
    assert ids.tolist() == [
        [1, 6, 7, 8, 2, 0, 0],
        [1, 6, 3, 2, 0, 0, 0],
        [1, 9, 9, 9, 9, 9, 2],
        [1, 2, 0, 0, 0, 0, 0],
    ]
    assert mask.sum(1).tolist() == [5, 4, 7, 2] and tokenizer.vocab_size == 10
    names = ("pad_id", "bos_id", "eos_id", "mask_id", "sep_id")
    assert [getattr(tokenizer, name) for name in names] == [0, 1, 2, 4, 5]
    assert tokenizer.special_ids == (0, 1, 2, 3, 4, 5) and tokenizer.file_bytes == path.read_bytes()
    copies = [pickle.loads(pickle.dumps(tokenizer)), make_tokenizer("words:gone.txt", 7, file=tokenizer.file_bytes)]
    path.unlink()
    for copy in copies:
        assert np.array_equal(copy(["a red cat"])[0], tokenizer(["a red cat"])[0])
        assert copy.decode([1, 7, 8, 2]) == "red cat"


def test_the_embedded_words_do_not_change():
    # Checkpoints carry them, but results of two versions should be comparable.
    tokenizer = make_tokenizer("words:shapes", 16)
    assert tokenizer.encode(["what colour is the circle?"])[0] == [1, 32, 35, 29, 28, 23, 2]
    assert tokenizer.vocab_size == 51
    carried = make_tokenizer("words:shapes", 16, file=b"one\ntwo")
    assert carried.encode(["two red"])[0] == [1, 7, 3, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no words"),
        (b"a\nred cat\n", "line 2, 'red cat', is not one lower-case word"),
        (b"a\nRed\n", "line 2, 'Red', is not one lower-case word"),
        (b"what?\n", r"line 1, 'what\?', is not one"),
        (b"a\n\nb\na\n", "line 4, 'a', is line 1 again"),
        (b"caf\xe9", "is not UTF-8 at byte 3"),
    ],
)
def test_a_wrong_vocabulary_is_one_line(content, message):
    with pytest.raises(UserError, match=f"data.tokenizer='words:x.txt'.*{message}") as caught:
        make_tokenizer("words:x.txt", 8, file=content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["clip", "bytes", "words"])
def test_decoding_undoes_encoding_and_stops_at_the_end_of_text(kind):
    tokenizer = make_tokenizer("words:shapes" if kind == "words" else kind, 48)
    texts = ["a small red ring left of a large blue cross", "yes", ""]
    texts += {"words": [], "clip": ["日本語 ½ naïve", "caf é"], "bytes": ["日本語 ½ Naïve! <b>"]}[kind]
    ids, _ = tokenizer(texts)
    assert [tokenizer.decode(row) for row in ids] == texts
    # Generated ids need no beginning, may have no end, and may hold what the vocabulary does not.
    for text, row in zip(texts, ids, strict=True):
        words = tokenizer.words(text)
        assert words == [i for i in row.tolist()[: len(words) + 2] if i not in (tokenizer.bos_id, tokenizer.eos_id)]
        assert tokenizer.decode(words) == text
        assert tokenizer.decode([*words, tokenizer.vocab_size + 5, tokenizer.eos_id, words[0] if words else 7]) == text


def test_clip_text_is_openai_s():
    """As OpenCLIP 3.3.0's SimpleTokenizer.decode, without the space that it leaves at the end."""
    tokenizer = make_tokenizer("clip", 77)
    assert tokenizer.decode([49406, 3306, 1002, 256, 49407, 0, 0]) == "hello world !"
    assert tokenizer.decode([0, 256]) == "!!"  # id 0 is an exclamation mark, not padding
    assert "\ufffd" in tokenizer.decode([230])  # a byte in the middle of a character
    rng = random.Random(3)
    for text in sample_texts():
        text = clean_clip(text)
        expected = " ".join("".join(reference_words(text)).split())
        assert tokenizer.decode(make_tokenizer("clip", 4000).words(text)).replace(" ", "") == expected.replace(" ", "")
    assert isinstance(tokenizer.decode([rng.randrange(60_000) for _ in range(500)]), str)


def test_bytes_that_are_no_text_are_replaced():
    tokenizer = make_tokenizer("bytes", 10)
    assert tokenizer.decode([257, 0xE6, 0x97, 258]) == "\ufffd"
    assert (tokenizer.mask_id, tokenizer.sep_id, tokenizer.special_ids) == (None, None, (256, 257, 258))


def test_a_tokenizer_json_says_which_ids_are_special(tmp_path):
    names = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "cat", "##s", "red", "."]
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece({n: i for i, n in enumerate(names)}, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    backend.decoder = tokenizers.decoders.WordPiece()
    backend.add_special_tokens(names[:5])
    backend.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    (tmp_path / "tokenizer.json").write_text(backend.to_str())
    tokenizer = make_tokenizer(f"json:{tmp_path / 'tokenizer.json'}", 8)
    assert (tokenizer.mask_id, tokenizer.sep_id, tokenizer.special_ids) == (4, 2, (0, 1, 2, 3, 4))
    assert tokenizer.encode(["red cats."])[0] == [1, 7, 5, 6, 8, 2] and tokenizer.words("red cats.") == [7, 5, 6, 8]
    assert tokenizer.decode([1, 7, 5, 6, 8, 2, 7, 0]) == "red cats."
    stripped = make_tokenizer(f"json+strip_sep:{tmp_path / 'tokenizer.json'}", 8)
    assert (stripped.sep_id, stripped.eos_id, stripped.decode([1, 7, 0])) == (None, 0, "red")


def test_captioning_needs_a_first_id(tmp_path):
    (tmp_path / "tokenizer.json").write_text(word_level_json(template="$A </s>"))
    require_bos(make_tokenizer("bytes", 8), "objectives.caption")
    with pytest.raises(UserError, match="data.tokenizer='json:.*objectives.caption needs .* choose clip, bytes, words"):
        require_bos(make_tokenizer(f"json:{tmp_path / 'tokenizer.json'}", 8), "objectives.caption")
