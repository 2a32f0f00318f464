"""Tokenizers in files of before tokenizer.json."""

import json

import pytest

from mmjax.data.text.make_tokenizer import make_tokenizer
from mmjax.errors import UserError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "##s", "!", "Cat"]


def test_vocab_txt_is_berts(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    words = make_tokenizer(f"json:{tmp_path}/vocab.txt", 8)
    ids, mask = words(["A  Cats! [SEP] dog"])
    assert ids[0].tolist() == [2, 5, 6, 7, 8, 3, 1, 3] and mask.all()
    assert (words.bos_id, words.eos_id, words.pad_id, words.mask_id, words.sep_id) == (2, 3, 0, 4, 3)
    assert words.decode([2, 5, 6, 7, 8, 3]) == "a cats!"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(dict(do_lower_case=False)))
    assert make_tokenizer(f"json:{tmp_path}/vocab.txt", 8)(["Cat"])[0][0, :3].tolist() == [2, 9, 3]


def test_lines_end_at_line_feeds_alone(tmp_path):
    odd = ["\u2028", "\x85", "\x0c"]
    (tmp_path / "vocab.txt").write_bytes("\r\n".join(WORDS[:5] + odd + WORDS[5:]).encode())
    words = make_tokenizer(f"json:{tmp_path}/vocab.txt", 8)
    assert words(["cats"])[0][0, :4].tolist() == [2, 9, 10, 3]
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "\u2028": 1, "a\u2028": 2, "<|endoftext|>": 3}))
    (tmp_path / "merges.txt").write_bytes("#version: 0.2\r\na \u2028\r\n".encode())
    assert make_tokenizer(f"json:{tmp_path}/vocab.json", 8)(["a"])[0][0, 0] == 0


def test_a_checkpoint_carries_it_without_the_other_files(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    words = make_tokenizer(f"json:{tmp_path}/vocab.txt", 8)
    (tmp_path / "vocab.txt").unlink()
    again = make_tokenizer(words.spec, 8, file=words.file_bytes)
    assert again(["a cat"])[0].tolist() == words(["a cat"])[0].tolist()


def test_vocab_json_with_merges_is_gpt2s(tmp_path):
    vocabulary = {"<|endoftext|>": 0, "a": 1, "b": 2, "ab": 3, "Ġ": 4, "Ġab": 5}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\nĠ ab\n")
    words = make_tokenizer(f"json+bos:{tmp_path}/vocab.json", 8)
    ids, mask = words(["ab ab a"])
    assert ids[0, mask[0]].tolist() == [0, 3, 5, 4, 1, 0]
    assert words.decode(ids[0]) == "ab ab a"


@pytest.mark.parametrize(
    "files, message",
    [
        ({"vocab.txt": "a\nb"}, "not a tokenizer's vocab.txt .*CLS"),
        ({"vocab.txt": "[CLS]\n[SEP]\na\na\n"}, "its lines 3 and 4 are equal: 'a'"),
        ({"vocab.json": "{}"}, "cannot read .*merges.txt"),
        ({"vocab.json": "[1", "merges.txt": ""}, "not a tokenizer's vocab.json"),
        ({"vocab.json": '{"a": 0}', "merges.txt": "a b c"}, "not a tokenizer's vocab.json"),
        ({"vocab.json": '{"a": -1}', "merges.txt": ""}, "not a tokenizer's vocab.json"),
    ],
)
def test_damaged_files_are_named(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as error:
        make_tokenizer(f"json:{tmp_path / next(iter(files))}", 8)
    assert "\n" not in str(error.value)
