import json
import time

import numpy as np
import pytest

from mmjax.data.formats.written_list import parse_list

TEXTS = ["a dog, brown", 'it\'s "wet"', "größe 零", "two\nlines", "[x]"]


@pytest.mark.parametrize("write", [json.dumps, repr, lambda texts: f" {texts!r} ", lambda texts: str(np.array(texts))])
@pytest.mark.parametrize("count", [1, 5])
def test_lists_as_programs_write_them_are_lists(write, count):
    assert parse_list(write(TEXTS[:count])) == TEXTS[:count]


@pytest.mark.parametrize(
    "text", ["a dog", "[a dog]", "['a' dog]", "['a', 3]", "[]", "['a'", "['it's']", "[['a']]", "['a'] ['b']", '["\\x"]']
)
def test_other_texts_are_none(text):
    assert parse_list(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "[ " + " " * 200_000 + "'a'" + " " * 200_000 + "x]",
        "['a'" + " " * 200_000 + "']",
        "[" + "'a', " * 50_000 + "]x]",
        "['" + "\\" * 200_001 + "']",
        "['" + "a" * 200_000 + "]",
    ],
)
def test_no_text_takes_long(text):
    start = time.thread_time()
    assert parse_list(text) is None
    assert time.thread_time() - start < 2
