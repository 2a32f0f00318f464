"""Tokenizers with a model file against the libraries that define them, on odd input."""

import io
import pickle
import random

import numpy as np
import pytest
import tokenizers as hf_tokenizers

from mmjax.data.text.make_tokenizer import make_tokenizer
from mmjax.data.text.text_normalization import canonicalize
from mmjax.errors import UserError
from tests.data.text.test_clip_bpe import golden

pytestmark = pytest.mark.full

CORPUS = ["a photo of a red cat", "a photo of two blue dogs", "its a cat", "naïve café in paris", "日本語 の 猫"] * 20


def odd_texts():
    """Texts of all kinds; lone surrogates cannot be handed to the libraries."""
    texts = [text.encode("utf-8", "ignore").decode() for text in random.Random(0).sample(golden()[0], 800)]
    return [*texts, "", " ", "\n\t", "cat " * 5000, "x" * 20_000, "日本語" * 3000, "a red cat\n" * 2000]


def sentencepiece_model(**options):
    import sentencepiece

    model = io.BytesIO()
    settings = dict(vocab_size=120, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2)
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(CORPUS), model_writer=model, **settings | options)
    return model.getvalue()


@pytest.mark.parametrize("options", [{}, {"byte_fallback": True, "vocab_size": 400}, {"model_type": "bpe"}], ids=str)
def test_sentencepiece_ids_are_the_package_s_of_the_canonical_text(options):
    import sentencepiece

    content = sentencepiece_model(**options)
    model = sentencepiece.SentencePieceProcessor(model_proto=content)
    tokenizer = make_tokenizer("sentencepiece:x.model", 64, file=content)
    texts = [*odd_texts(), "</s>", "<pad> <unk> a", "a</s>b"]
    for text, row, used in zip(texts, *tokenizer(texts), strict=True):
        body = model.encode(canonicalize(text))[:63]
        assert row.tolist() == body + [1] * (64 - len(body)) and used.sum() == len(body) + 1
    described = tokenizer.describe()
    assert described["pad_repeats_eos"] is True and "punctuation" in described["cleaning"]


def test_sentencepiece_ids_are_those_of_transformers_siglip(tmp_path):
    """Of texts without underscores: big_vision makes them spaces, transformers drops them."""
    from transformers import SiglipTokenizer

    path = tmp_path / "spiece.model"
    path.write_bytes(sentencepiece_model())
    reference = SiglipTokenizer(vocab_file=str(path))
    texts = [text.replace("_", " ") for text in odd_texts()]
    ids, _ = make_tokenizer(f"sentencepiece:{path}", 64)(texts)
    expected = reference(texts, padding="max_length", truncation=True, max_length=64)["input_ids"]
    differing = [text for text, row, other in zip(texts, ids.tolist(), expected, strict=True) if row != other]
    assert not differing


def test_sentencepiece_follows_siglip():
    content = sentencepiece_model()
    tokenizer = make_tokenizer("sentencepiece:c4.model", 12, file=content)
    ids, mask = tokenizer(["A_Photo, of a CAT!!!", "a photo of a cat", "a", "", "dogs " * 20])
    assert np.array_equal(ids[0], ids[1])
    assert ids[2:4, -1].tolist() == [1, 1] and ids[4, -1] == 1 and (ids[4, :-1] != 1).all()
    assert ids[3].tolist() == [1] * 12 and mask[3].tolist() == [True] + [False] * 11
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (None, 1, 1)
    assert tokenizer.vocab_size > ids.max() and pickle.loads(pickle.dumps(tokenizer)).describe() == tokenizer.describe()
    assert make_tokenizer("sentencepiece:x", 64, file=content).decode(ids[2]) == "a" and tokenizer.special_ids == (
        0,
        1,
        2,
    )
    with pytest.raises(UserError, match="not a sentencepiece model"):
        make_tokenizer("sentencepiece:x", 6, file=b"nonsense")


def trained_json(kind):
    """A tokenizer.json as byte-level BPE, WordPiece (BERT) and Unigram models have them."""
    models, pre, norm = hf_tokenizers.models, hf_tokenizers.pre_tokenizers, hf_tokenizers.normalizers
    specials = ["<pad>", "<s>", "</s>", "<unk>"]
    if kind == "bpe":
        backend, trainer = hf_tokenizers.Tokenizer(models.BPE()), hf_tokenizers.trainers.BpeTrainer
        backend.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
        options = dict(initial_alphabet=pre.ByteLevel.alphabet())
    elif kind == "wordpiece":
        backend = hf_tokenizers.Tokenizer(models.WordPiece(unk_token="<unk>"))
        backend.normalizer = norm.BertNormalizer(lowercase=True)
        backend.pre_tokenizer, trainer, options = pre.BertPreTokenizer(), hf_tokenizers.trainers.WordPieceTrainer, {}
    else:
        backend, trainer = hf_tokenizers.Tokenizer(models.Unigram()), hf_tokenizers.trainers.UnigramTrainer
        backend.normalizer = norm.Sequence([norm.NFKC(), norm.Lowercase()])
        backend.pre_tokenizer, options = pre.Metaspace(), dict(unk_token="<unk>")
    backend.train_from_iterator(
        CORPUS, trainer(vocab_size=400, special_tokens=specials, show_progress=False, **options)
    )
    backend.post_processor = hf_tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(name, backend.token_to_id(name)) for name in ("<s>", "</s>")]
    )
    return backend.to_str()


@pytest.mark.parametrize(
    ("kind", "cleaning"), [("bpe", "none"), ("wordpiece", "BertNormalizer"), ("unigram", "NFKC, Lowercase")]
)
def test_json_ids_are_those_of_transformers(tmp_path, kind, cleaning):
    from transformers import PreTrainedTokenizerFast

    path = tmp_path / "tokenizer.json"
    path.write_text(trained_json(kind), encoding="utf-8")
    reference = PreTrainedTokenizerFast(tokenizer_file=str(path), pad_token="<pad>", eos_token="</s>")
    texts = [*odd_texts(), "</s>", "<pad> <unk> a"]
    tokenizer = make_tokenizer(f"json:{path}", 40)
    ids, mask = tokenizer(texts)
    expected = reference(texts, padding="max_length", truncation=True, max_length=40)
    assert np.array_equal(ids, expected["input_ids"]) and np.array_equal(mask, expected["attention_mask"])
    assert tokenizer.describe()["cleaning"] == cleaning
    assert tokenizer.special_ids == tuple(sorted(reference.backend_tokenizer.get_added_tokens_decoder()))
    for row in ids[:50].tolist():
        known = row[: row.index(2) if 2 in row else None]
        expected = reference.decode(known, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert tokenizer.decode(row) == expected.strip()
