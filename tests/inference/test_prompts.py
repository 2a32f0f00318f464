"""Prompts of transcripts and of captions: what is filled in, and what is refused."""

import pytest

from mmjax.data.text.make_tokenizer import make_tokenizer
from mmjax.errors import UserError
from mmjax.inference import prompts


def test_a_prompt_has_the_task_and_no_language_is_guessed():
    tokenizer = make_tokenizer("words:speech", 8)
    prompt = lambda template, task="", language="": prompts.to_prompt(template, tokenizer, task, language)
    assert prompt("") == [1]
    assert prompt("<|{task}|>") == prompt("<|{task}|>", "transcribe") == [1, 86]
    assert prompt("<|{task}|>", "translate") == [1, 87]
    for arguments, message in (
        (("<|{task}|>", "sing"), r"<\|sing\|> is no token of data.tokenizer='words:speech'"),
        (("<|transcribe|>", "translate"), "task='translate': .* names no task; leave it out"),
        (("<|{language}|>",), "language='': .* names it; give one"),
    ):
        with pytest.raises(UserError, match=message):
            prompt(*arguments)
    with pytest.raises(UserError, match="names task; write with transcribe"):
        prompts.behind_template("<|{task}|>", ["a"])
    assert prompts.behind_template("<|transcribe|>", ["a"]) == ["<|transcribe|>a"]
