"""Texts of Whisper's tokenizer behind a prompt of its tokens, which its post-processor would put there itself."""

import json

import pytest

from mmjax.data.loading.prompt_transforms import prompt_ids
from mmjax.data.text.make_tokenizer import make_tokenizer
from mmjax.errors import UserError

TOKENS = ("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")


def content(tokens=TOKENS):
    """A tokenizer.json of words with Whisper's tokens, whose post-processor adds a prompt."""
    vocabulary = {"[UNK]": 0, "hello": 1, "world": 2}
    added = [
        dict(id=3 + i, content=token, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
        for i, token in enumerate(tokens)
    ]
    numbers = {token: 3 + i for i, token in enumerate(tokens)}
    around = [{"SpecialToken": {"id": token, "type_id": 0}} for token in (tokens[1], tokens[-1])]
    post = {
        "type": "TemplateProcessing",
        "single": [*around, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": tokens[0], "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {t: {"id": t, "ids": [numbers[t]], "tokens": [t]} for t in tokens},
    }
    nothing = dict.fromkeys(("truncation", "padding", "normalizer", "decoder"))
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"}
    file = dict(version="1.0", added_tokens=added, pre_tokenizer={"type": "Whitespace"}, post_processor=post)
    return json.dumps({**file, **nothing, "model": model}).encode()


def test_texts_begin_with_the_start_alone_and_prompts_are_tokens():
    tokenizer = make_tokenizer("json+whisper:x", 12, file=content())
    assert (tokenizer.bos_id, tokenizer.eos_id) == (4, 3)
    assert tokenizer.words("hello world") == [1, 2]
    ids, mask = tokenizer(["hello world"])
    assert ids[0][mask[0]].tolist() == [4, 1, 2, 3]
    assert prompt_ids("<|en|><|transcribe|><|notimestamps|>", tokenizer) == [4, 5, 6, 7]
    assert tokenizer.decode([4, 5, 6, 7, 1, 2, 3]) == "hello world"
    with pytest.raises(UserError, match=r"<\|xx\|> is no token of data.tokenizer='json\+whisper:x'"):
        prompt_ids("<|xx|>", tokenizer)
    # Without the option the post-processor's prompt is a part of every text.
    plain = make_tokenizer("json:x", 12, file=content())
    assert plain.words("hello") == [7, 1]


def test_a_file_without_the_tokens_is_refused():
    renamed = content(("<|endoftext|>", "<|begin|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"))
    with pytest.raises(UserError, match=r"has no <\|startoftranscript\|>, which 'whisper' puts around texts"):
        make_tokenizer("json+whisper:x", 12, file=renamed)
