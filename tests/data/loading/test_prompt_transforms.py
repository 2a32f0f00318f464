"""Captions behind prompts: ids, what is to be predicted, and what is refused."""

import numpy as np
import pytest

from mmjax.data.bad_example import BadExample
from mmjax.data.loading import prompt_transforms
from mmjax.data.loading.inputs import InputSpecs
from mmjax.data.record import Record
from mmjax.data.sources import tones
from mmjax.data.text.make_tokenizer import make_tokenizer
from mmjax.errors import UserError

BOS, EOS, UNK = 1, 2, 3


def transform(template="<|{task}|>", length=8, tokenizer="words:speech"):
    return prompt_transforms.PromptTransform(InputSpecs(), make_tokenizer(tokenizer, length), template)


def record(**fields):
    return Record(id=7, captions=["kemo deli like"], **fields)


def test_a_row_is_bos_prompt_caption_eos_and_the_caption_is_predicted():
    one = transform()
    words = {word: 6 + i for i, word in enumerate((*tones.WORDS, *tones.MEANINGS, "<|transcribe|>", "<|translate|>"))}
    row = one(record(task="translate"), np.random.default_rng(0))
    ids = [BOS, words["<|translate|>"], *(words[word] for word in ("kemo", "deli", "like")), EOS, 0, 0]
    assert row["text"].tolist() == ids
    assert row["text_mask"].tolist() == [True] * 6 + [False] * 2
    assert row["target_mask"].tolist() == [False] * 2 + [True] * 4 + [False] * 2
    prompt, mask = one.prompt({"task": "transcribe"})
    assert prompt[mask].tolist() == [BOS, words["<|transcribe|>"]]
    alone = one.text_arrays(record(task="translate"), np.random.default_rng(0))
    assert alone["text"].tolist() == ids
    # The end of text stays where a caption is cut, and is not to be predicted, since the caption goes on.
    for length, learned in ((5, [0, 0, 1, 1, 0]), (6, [0, 0, 1, 1, 1, 1])):
        row = transform(length=length)(record(task="translate"), np.random.default_rng(0))
        assert row["text"].tolist() == [*ids[: length - 1], EOS] and row["text_mask"].all()
        assert row["target_mask"].tolist() == learned
        text, mask, targets = transform(length=length).text({"task": "translate"}, "kemo deli like")
        assert (text.tolist(), mask.tolist(), targets.tolist()) == tuple(
            row[name].tolist() for name in ("text", "text_mask", "target_mask")
        )


def test_tokens_stand_for_no_words_and_texts_without_them_are_as_before():
    tokenizer = make_tokenizer("words:speech", 12)
    ids, mask = tokenizer(["<|translate|>kemo <|transcribe|> house"])
    row = ids[0][mask[0]].tolist()
    assert len(row) == 6 and tokenizer.decode(row) == "kemo house" and {row[1], row[3]} < set(tokenizer.special_ids)
    plain = make_tokenizer("words:tones", 12)
    assert plain.words("a<|transcribe|>b") == [UNK] and plain.vocab_size == 46
    assert [tokenizer.words(word) for word in tones.WORDS] == [plain.words(word) for word in tones.WORDS]
    assert not {*tones.MEANINGS} & {*tones.WORDS} and len({*tones.MEANINGS}) == len(tones.WORDS)


@pytest.mark.parametrize(
    ("template", "length", "message"),
    [
        ("<|{task}|><|sing|>", 8, "<|sing|> is no token of data.tokenizer='words:speech'"),
        ("<|transcribe|>" * 7, 8, "has 7 ids or more, and data.context_length=8 leaves no room"),
        ("<|transcribe|>" * 5 + "<|{task}|>", 8, "has 7 ids or more, and data.context_length=8 leaves no room"),
    ],
)
def test_a_prompt_that_cannot_be_is_one_line_at_the_beginning(template, length, message):
    with pytest.raises(UserError, match=message.replace("|", r"\|")) as caught:
        transform(template, length)
    assert "\n" not in str(caught.value)


def test_a_value_of_a_record_that_is_no_token_is_a_bad_example():
    one = transform()
    with pytest.raises(BadExample, match=r"<\|sing\|> is no token of data.tokenizer='words:speech'") as caught:
        one(record(task="sing", path="a.wav"), np.random.default_rng(0))
    assert caught.value.reason == "other" and "a.wav" in str(caught.value)
    with pytest.raises(BadExample, match="has 7 ids or more"):
        transform("{task}").prompt({"task": "kemo " * 9})


def test_a_template_names_fields_of_records():
    with pytest.raises(UserError, match=r"\{lang\} stands for nothing; it may have \{language\} and \{task\}"):
        transform("<|{lang}|>")
    with pytest.raises(BadExample, match=r"no task, which data.caption_prompt='<\|\{task\}\|>' names"):
        transform()(record(), np.random.default_rng(0))
    assert prompt_transforms.named_fields("<|{task}|><|{language}|>") == ("language", "task")
    assert prompt_transforms.most_ids("") == 1 and prompt_transforms.most_ids("<|{language}|><|{task}|>") == 3
    assert prompt_transforms.most_ids("a photo of") == 41
