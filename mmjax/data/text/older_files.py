"""Tokenizers in files of before tokenizer.json: BERT's vocab.txt, GPT-2's vocab.json with its merges.txt."""

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from mmjax.data.text.make_tokenizer import read_file
from mmjax.errors import UserError
from mmjax.io import paths

WORDPIECE, BPE = "vocab.txt", "vocab.json"
OLDER = (BPE, WORDPIECE)
_MERGES, _CONFIG = "merges.txt", "tokenizer_config.json"
_END = "<|endoftext|>"
_LONGEST = 100  # characters of a word; longer ones are [UNK]


def read_json_file(spec: str, path: str) -> bytes:
    """The content of a tokenizer.json, or the same made of a file whose name is in `OLDER`, with those beside it.

    Args:
      spec: as `data.tokenizer` has it.
      path: of the file.

    Raises:
      UserError: a file cannot be read, or is not what its name says.
    """
    name = PurePosixPath(path.replace("\\", "/")).name
    content = read_file(spec, path)
    if name not in OLDER:
        return content
    beside = lambda other: str(paths.as_path(path).parent / other)
    config: Mapping[str, Any] = {}
    try:
        if paths.as_path(beside(_CONFIG)).exists():
            config = json.loads(read_file(spec, beside(_CONFIG)))
        if name == WORDPIECE:
            backend = _wordpiece(content.decode("utf-8"), config)
        else:
            backend = _byte_pairs(json.loads(content), read_file(spec, beside(_MERGES)).decode("utf-8"))
    except UserError:
        raise
    except Exception as error:  # the library's errors are bare Exceptions
        reason = (str(error).splitlines() or [""])[0][:200]
        raise UserError(f"data.tokenizer={spec!r}: not a tokenizer's {name} ({reason}); fetch it again") from error
    return backend.to_str().encode()


def _wordpiece(text: str, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """BERT's: pieces of words, lower-cased unless its config says otherwise, between [CLS] and [SEP]."""
    words = {word: number for number, word in enumerate(_lines(text))}
    first, last = words["[CLS]"], words["[SEP]"]
    backend = tokenizers.Tokenizer(models.WordPiece(words, unk_token="[UNK]", max_input_chars_per_word=_LONGEST))
    flag = lambda name, default: default if config.get(name) is None else bool(config[name])
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=flag("tokenize_chinese_chars", True),
        strip_accents=flag("strip_accents", None),
        lowercase=flag("do_lower_case", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", first), ("[SEP]", last)]
    )
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens([word for word in ("[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]") if word in words])
    return backend


def _byte_pairs(vocabulary: dict[str, int], merges: str) -> tokenizers.Tokenizer:
    """GPT-2's: pairs of bytes; it adds nothing to a text."""
    pairs = [line.split(" ") for line in _lines(merges) if line and not line.startswith("#version")]
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, [(first, second) for first, second in pairs]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([_END] if _END in vocabulary else [])
    return backend


def _lines(text: str) -> list[str]:
    """The lines of a file, which are numbered; other ends of lines of Unicode's are parts of words.

    Raises:
      ValueError: two are equal.
    """
    lines = [line.removesuffix("\r") for line in text.rstrip("\r\n").split("\n")]
    first: dict[str, int] = {}
    for number, line in enumerate(lines):
        if line and first.setdefault(line, number) != number:
            raise ValueError(f"its lines {first[line] + 1} and {number + 1} are equal: {line[:40]!r}")
    return lines
