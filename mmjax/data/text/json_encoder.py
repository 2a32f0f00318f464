"""The encoder of a Hugging Face tokenizer.json, and what `json+OPTION` changes in it."""

import base64
import binascii
import contextlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tokenizers

from mmjax.data.text.clip_bpe import clean_clip, collapse_whitespace, fix_unicode
from mmjax.data.text.older_files import read_json_file
from mmjax.data.text.text_normalization import canonicalize, truncate_text
from mmjax.data.text.tokenizer import FIELD, Tokenizer
from mmjax.errors import UserError, did_you_mean

# What tokenizers in use call their specials; a tokenizer.json lists them without saying which is which. (Gemma's has
# `</s>` as a tag of HTML, too.)
_EOS_NAMES = ("<|endoftext|>", "<|end_of_text|>", "<end_of_text>", "<eos>", "</s>", "[SEP]")
_PAD_NAMES = ("<pad>", "[PAD]", "<|pad|>")
_SEP_NAMES = ("[SEP]", "</s>")
_MASK_NAMES = ("[MASK]", "<mask>", "<|mask|>")
_MAX_GROWTH = 128  # times as long as a text may become: 5,000 characters then take 140 MB and 0.2 s
_MAX_ADDED = 64  # characters that may be put before a text or a part of a word
# Times as long as one character may become by steps that say nothing of it: its bytes, spaces around it.
_GROWTHS = {"ByteLevel": 4, "BertNormalizer": 3}

# A pattern of single characters, once escapes and classes are written as "x", and of their repetitions.
_ESCAPE = r"\\[pP]\{\^?\w+\}|\\[dDsSwWnrt\W]"
_CLASS = re.compile(rf"{_ESCAPE}|\[\^?(?:[^\[\]\\]|{_ESCAPE}|\[:\w+:\])+\]")
_PIECE = r"[^\\\[\](){}|*+?^$]((?:[*+?]|\{[\d,]*\})*)"
_PIECES = re.compile(rf"\^?(?:{_PIECE})*\$?")
_AT_LEAST_ONE = re.compile(r"\+?|\{[1-9]\d*,?\}")

# OpenCLIP's `clean` by name: the function, and what it does in words.
CLEANERS: dict[str, tuple[Callable[[str], str], str]] = {
    "whitespace": (collapse_whitespace, "ftfy, HTML entities twice, whitespace"),
    "lower": (clean_clip, "ftfy, HTML entities twice, whitespace, lower case"),
    "canonicalize": (
        lambda text: canonicalize(fix_unicode(text)),
        "ftfy, HTML entities twice, no ASCII punctuation, lower case, whitespace",
    ),
}

# What can stand after `json+`: OpenCLIP's ways of cleaning, Hugging Face's normalizer, ids of separators set to 0, and
# the end of text in front of texts, too; a line feed as what separates a question from its answer, or ends a text; and
# Whisper's first and last tokens around texts and nothing else: what its post-processor adds to them is a prompt's.
LOWERCASE, STRIP_SEP, BOS, NEWLINE_SEP, NEWLINE_END = "lowercase", "strip_sep", "bos", "newline_sep", "newline_end"
WHISPER = "whisper"
OPTIONS = (*CLEANERS, LOWERCASE, STRIP_SEP, BOS, NEWLINE_SEP, NEWLINE_END, WHISPER)
_LINE_FEEDS = ("\n", "\u010a")  # the latter of byte-level BPE, as GPT-2 spells it
_WHISPER_ENDS = ("<|startoftranscript|>", "<|endoftext|>")


def make_json(spec: str, context_length: int, *, path: str, content: bytes | None, options: Sequence[str]) -> Tokenizer:
    """The tokenizer `json+OPTION:PATH`.

    Raises:
      UserError: as `JsonEncoder` does; an option is unknown or contradicts another, or the file cannot be read.
    """
    where = f"{FIELD}={spec!r}"
    for option in options:
        if option not in OPTIONS:
            near = did_you_mean(option, OPTIONS)
            raise UserError(f"{where}: {option!r} is not known{near}; choose among {', '.join(OPTIONS)}")
    cleanings = [option for option in options if option in CLEANERS]
    if len(cleanings) > 1:
        raise UserError(f"{where}: {' and '.join(cleanings)} cannot both clean a text; choose one")
    content = read_json_file(spec, path) if content is None else content
    encoder = JsonEncoder(content, context_length, options, where)
    return Tokenizer(
        spec=spec,
        context_length=context_length,
        vocab_size=encoder.vocab_size,
        bos_id=encoder.bos_id,
        eos_id=encoder.eos_id,
        pad_id=encoder.pad_id,
        mask_id=encoder.mask_id,
        sep_id=encoder.sep_id,
        special_ids=encoder.special_ids,
        cleaning=encoder.cleaning,
        file_bytes=content,
        encode=encoder.encode,
        decode_words=encoder.decode,
    )


class JsonEncoder:
    """The encoder of a tokenizer.json with its own normalizer and post-processor.

    Args:
      content: of the file.
      context_length: ids per text.
      options: of `OPTIONS`, in the order in which they are written.
      where: the config field and its value, to begin errors with.

    Attributes:
      bos_id, eos_id, pad_id, mask_id, sep_id, special_ids, cleaning: as in `tokenizer.Tokenizer`.
      vocab_size: ids are below this.

    Raises:
      UserError: the file is not a tokenizer.json, or has no end-of-text token.
    """

    def __init__(self, content: bytes, context_length: int, options: Sequence[str], where: str):
        try:
            with _errors_are_values(f"{where} is not a tokenizer.json"):
                backend = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
                settings = json.loads(content)
                growths = {part: math.prod(map(_growth, _steps(steps))) for part, steps in _changes(settings).items()}
        except ValueError as error:
            raise UserError(f"{error}; give the file of that name") from error
        _check_growth(growths, where)
        _check_added(settings, where)
        self._where = where
        steps = [_normalizers(settings)]
        if LOWERCASE in options:
            lower, normalizer = tokenizers.normalizers.Lowercase(), backend.normalizer
            backend.normalizer = lower if normalizer is None else tokenizers.normalizers.Sequence([lower, normalizer])
            steps = ["Lowercase", *steps]
        self._clean: Callable[[str], str] | None = None
        for option in options:
            if option in CLEANERS:
                self._clean, description = CLEANERS[option]
                steps = [description, *steps]
        self._separator = _first_known(backend, _SEP_NAMES) if STRIP_SEP in options else None
        if WHISPER in options:
            _surround(backend, _WHISPER_ENDS, where)
        declared_pad = (backend.padding or {}).get("pad_id")
        backend.no_padding()
        backend.no_truncation()
        try:
            with _errors_are_values(f"{where} cannot encode a text"):
                bos, eos, added = _added_specials(backend)
        except ValueError as error:
            raise UserError(f"{error}; give a tokenizer.json that can") from error
        appends_eos = eos is None  # the post-processor adds no end of text, so we do
        if NEWLINE_END in options:
            if not appends_eos:
                raise UserError(f"{where} ends texts with id {eos} by itself; leave out {NEWLINE_END!r}")
            eos = _first_known(backend, _LINE_FEEDS)
            if eos is None:
                raise UserError(f"{where} has no line feed among its tokens; leave out {NEWLINE_END!r}")
        elif appends_eos:
            eos = _first_known(backend, _EOS_NAMES)
        if eos is None:
            raise UserError(
                f"{where} has no end-of-text token; add a post-processor or one of: {', '.join(_EOS_NAMES)}"
            )
        self._first = [eos] if BOS in options and bos is None else []
        self._last = [eos] if appends_eos else []
        surrounding = len(added) + len(self._first) + len(self._last)
        if surrounding > context_length:
            raise UserError(
                f"{where} puts {surrounding:,} ids around a text, more than the context length of {context_length:,};"
                " give a tokenizer.json that adds fewer, or a longer context"
            )
        backend.enable_truncation(context_length - len(self._first) - len(self._last))
        self._backend, self._context_length = backend, context_length

        pad = _first_known(backend, _PAD_NAMES) if declared_pad is None else declared_pad
        separator = backend.token_to_id("\n" if NEWLINE_SEP in options else "[SEP]")
        if separator is None and NEWLINE_SEP in options:
            raise UserError(f"{where} has no line feed among its tokens; leave out {NEWLINE_SEP!r}")
        self.bos_id = eos if self._first else bos
        self.eos_id = 0 if eos == self._separator else eos
        self.pad_id = eos if pad is None else pad
        self.mask_id = _first_known(backend, _MASK_NAMES)
        self.sep_id = None if self._separator is not None else separator
        declared = [i for i, token in backend.get_added_tokens_decoder().items() if token.special]
        specials = {self.bos_id, self.eos_id, self.pad_id, self.mask_id, separator, *declared} - {None}
        self.special_ids = tuple(sorted(specials))
        self.vocab_size = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        largest = max([*specials, *added])
        if largest >= self.vocab_size:
            raise UserError(
                f"{where} puts id {largest} into texts, but has {self.vocab_size} ids; give a tokenizer.json whose"
                " post-processor and padding use its vocabulary"
            )
        self.cleaning = ", ".join(step for step in steps if step != "none") or "none"

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Ids of texts, at most `context_length` each, specials included."""
        heads = [truncate_text(text, self._context_length, self._all_ids) for text in texts]
        if self._clean:
            heads = [self._clean(head) for head in heads]
        with _errors_are_values(f"{self._where} cannot encode a text"):
            encodings = self._backend.encode_batch_fast(heads)
        rows = [[*self._first, *encoding.ids, *self._last] for encoding in encodings]
        return rows if self._separator is None else [[0 if i == self._separator else i for i in row] for row in rows]

    def decode(self, ids: list[int]) -> str:
        """The text of ids without specials."""
        with _errors_are_values(f"{self._where} cannot decode ids"):
            return self._backend.decode(ids, skip_special_tokens=False)

    def _all_ids(self, text: str) -> list[int]:
        """The ids of a text, also those behind the truncation."""
        with _errors_are_values(f"{self._where} cannot encode a text"):
            encoding = self._backend.encode(self._clean(text) if self._clean else text)
        return [*encoding.ids, *(i for part in encoding.overflowing for i in part.ids)]


def _surround(backend: tokenizers.Tokenizer, ends: tuple[str, str], where: str) -> None:
    """Makes a tokenizer put two tokens around texts, whatever its post-processor did.

    Raises:
      UserError: it lacks one.
    """
    known = [(token, backend.token_to_id(token)) for token in ends]
    for token, number in known:
        if number is None:
            raise UserError(f"{where} has no {token}, which {WHISPER!r} puts around texts; leave out {WHISPER!r}")
    first, last = ends
    template = tokenizers.processors.TemplateProcessing(single=f"{first} $A {last}", special_tokens=known)
    backend.post_processor = template


@contextlib.contextmanager
def _errors_are_values(problem: str) -> Iterator[None]:
    """Raises ValueError where the library gives up, as it does on a pattern that backtracks without end."""
    try:
        yield
    except BaseException as error:
        # The library's errors are bare Exceptions; its panics are none, and their class is not exported.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"{problem} ({str(error)[:200]})") from error


def _added_specials(backend: tokenizers.Tokenizer) -> tuple[int | None, int | None, list[int]]:
    """(bos, eos, all ids) as the post-processor adds them, found by what stands around a text."""
    probe = "a"
    bare, full = backend.encode(probe, add_special_tokens=False).ids, backend.encode(probe).ids
    for start in range(len(full) - len(bare) + 1):
        end = start + len(bare)
        if full[start:end] == bare:
            added = [*full[:start], *full[end:]]
            return (full[0] if start else None), (full[-1] if end < len(full) else None), added
    return None, None, full


def _changes(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The steps that change texts, by part."""
    encoding = [settings.get("normalizer"), settings.get("pre_tokenizer")]
    return {"normalizer and pre_tokenizer": encoding, "decoder": settings.get("decoder")}


def _check_growth(growths: Mapping[str, int], where: str) -> None:
    """Checks that replacements, one after the other, cannot make a short text fill the memory.

    Raises:
      UserError: they can.
    """
    for part, growth in growths.items():
        if growth > _MAX_GROWTH:
            raise UserError(
                f"{where}: the replacements of its {part} can make a text {growth:,} times as long, more than"
                f" {_MAX_GROWTH:,}; give a tokenizer.json without them"
            )


def _check_added(settings: Mapping[str, Any], where: str) -> None:
    """Checks that what stands before a text or a part of a word is short.

    Raises:
      UserError: it is not.
    """
    added = sum(len(step["prepend"]) for step in _steps(settings.get("normalizer")) if step.get("type") == "Prepend")
    model = settings["model"]
    affixes = [model.get(name) or "" for name in ("continuing_subword_prefix", "end_of_word_suffix")]
    longest = max(added, *map(len, affixes))
    if longest > _MAX_ADDED:
        raise UserError(
            f"{where} puts {longest:,} characters before a text or a part of a word, more than {_MAX_ADDED}; give a"
            " tokenizer.json that adds fewer"
        )


def _steps(step: Any) -> Iterator[Mapping[str, Any]]:
    """The groups of fields within a step, itself included."""
    if isinstance(step, dict):
        yield step
    for child in step.values() if isinstance(step, dict) else step if isinstance(step, list) else ():
        yield from _steps(child)


def _growth(step: Mapping[str, Any]) -> int:
    """How many times as long a step without those within it can make a text."""
    kind = step.get("type", "")
    if kind == "Precompiled":
        return _longest_mapped(step["precompiled_charsmap"])
    if kind != "Replace":
        return _GROWTHS.get(kind, 1)
    size = len(step["content"])
    if "String" in step["pattern"]:
        sought = len(step["pattern"]["String"])
        return max(1, math.ceil(size / sought)) if sought else size + 1
    # What is sought may be empty, and then stands between any two characters.
    return size + 1 if _may_be_empty(step["pattern"]["Regex"]) else max(1, size)


def _may_be_empty(pattern: str) -> bool:
    """Whether a match of an Oniguruma pattern may be empty; True, too, where that is hard to say."""
    pattern = _CLASS.sub("x", pattern)
    return not (_PIECES.fullmatch(pattern) and any(map(_AT_LEAST_ONE.fullmatch, re.findall(_PIECE, pattern))))


def _longest_mapped(charsmap: str) -> int:
    """The length of the longest text that SentencePiece's map of characters has: a trie, then texts that end with NUL.

    Raises:
      ValueError: it is no such map.
    """
    try:
        content = base64.b64decode(charsmap, validate=True)
        size = int.from_bytes(content[:4], "little")
        if not 0 < size <= len(content) - 4 or size % 4:
            raise ValueError(f"its trie of {size:,} bytes is not within its {len(content):,}")
        return max(1, *map(len, content[4 + size :].decode().split("\0")))
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"precompiled_charsmap: {error}") from error


def _normalizers(settings: Mapping[str, Any]) -> str:
    """The normalizers that a tokenizer.json names, in their order."""
    normalizer = settings.get("normalizer")
    if normalizer is None:
        return "none"
    parts = normalizer.get("normalizers", [normalizer])
    return ", ".join(str(part.get("type")) for part in parts)


def _first_known(backend: tokenizers.Tokenizer, names: Sequence[str]) -> int | None:
    return next((i for i in map(backend.token_to_id, names) if i is not None), None)
