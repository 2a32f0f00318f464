"""The encoder of a Hugging Face tokenizer.json, and what `json+OPTION` changes in it."""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tokenizers

from mmjax.data.text.clip_bpe import clean_clip, collapse_whitespace, fix_unicode
from mmjax.data.text.make_tokenizer import read_file
from mmjax.data.text.text_normalization import canonicalize, truncate_text
from mmjax.data.text.tokenizer import FIELD, Tokenizer
from mmjax.errors import UserError, did_you_mean

# What tokenizers in use call their specials; a tokenizer.json lists them without saying which is which.
_EOS_NAMES = ("<|endoftext|>", "<|end_of_text|>", "<end_of_text>", "</s>", "<eos>", "[SEP]")
_PAD_NAMES = ("<pad>", "[PAD]", "<|pad|>")
_SEP_NAMES = ("[SEP]", "</s>")
_MASK_NAMES = ("[MASK]", "<mask>", "<|mask|>")
_MAX_GROWTH = 10_000  # times as long as a text may become

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
# the end of text in front of texts, too.
LOWERCASE, STRIP_SEP, BOS = "lowercase", "strip_sep", "bos"
OPTIONS = (*CLEANERS, LOWERCASE, STRIP_SEP, BOS)


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
    content = read_file(spec, path) if content is None else content
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
            backend = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
        except Exception as error:  # the library raises bare Exception for a file of another format
            raise UserError(f"{where} is not a tokenizer.json ({error}); give the file of that name") from error
        _check_growth(json.loads(content), where)
        self._where = where
        steps = [_normalizers(content)]
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
        declared_pad = (backend.padding or {}).get("pad_id")
        backend.no_padding()
        backend.no_truncation()
        bos, eos = _added_specials(backend)
        appends_eos = eos is None  # the post-processor adds no end of text, so we do
        if appends_eos:
            eos = _first_known(backend, _EOS_NAMES)
        if eos is None:
            raise UserError(
                f"{where} has no end-of-text token; add a post-processor or one of: {', '.join(_EOS_NAMES)}"
            )
        self._first = [eos] if BOS in options and bos is None else []
        self._last = [eos] if appends_eos else []
        backend.enable_truncation(context_length - len(self._first) - len(self._last))
        self._backend, self._context_length = backend, context_length

        pad = _first_known(backend, _PAD_NAMES) if declared_pad is None else declared_pad
        separator = backend.token_to_id("[SEP]")
        self.bos_id = eos if self._first else bos
        self.eos_id = 0 if eos == self._separator else eos
        self.pad_id = eos if pad is None else pad
        self.mask_id = _first_known(backend, _MASK_NAMES)
        self.sep_id = None if self._separator is not None else separator
        declared = [i for i, token in backend.get_added_tokens_decoder().items() if token.special]
        specials = {self.bos_id, self.eos_id, self.pad_id, self.mask_id, separator, *declared} - {None}
        self.special_ids = tuple(sorted(specials))
        self.vocab_size = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        self.cleaning = ", ".join(step for step in steps if step != "none") or "none"

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Ids of texts, at most `context_length` each, specials included."""
        heads = [truncate_text(text, self._context_length, self._all_ids) for text in texts]
        if self._clean:
            heads = [self._clean(head) for head in heads]
        with self._panics_are_errors():
            encodings = self._backend.encode_batch_fast(heads)
        rows = [[*self._first, *encoding.ids, *self._last] for encoding in encodings]
        return rows if self._separator is None else [[0 if i == self._separator else i for i in row] for row in rows]

    def decode(self, ids: list[int]) -> str:
        """The text of ids without specials."""
        with self._panics_are_errors():
            return self._backend.decode(ids, skip_special_tokens=False)

    @contextlib.contextmanager
    def _panics_are_errors(self) -> Iterator[None]:
        """Raises ValueError where the library gives up, as it does on a pattern that backtracks without end."""
        try:
            yield
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # which is no Exception, and not exported
                raise
            raise ValueError(f"{self._where} cannot encode a text: {error}") from error

    def _all_ids(self, text: str) -> list[int]:
        """The ids of a text, also those behind the truncation."""
        with self._panics_are_errors():
            encoding = self._backend.encode(self._clean(text) if self._clean else text)
        return [*encoding.ids, *(i for part in encoding.overflowing for i in part.ids)]


def _added_specials(backend: tokenizers.Tokenizer) -> tuple[int | None, int | None]:
    """(bos, eos) as the post-processor adds them, found by what stands around a text."""
    probe = "a"
    bare, full = backend.encode(probe, add_special_tokens=False).ids, backend.encode(probe).ids
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            end = start + len(bare)
            return (full[0] if start else None), (full[-1] if end < len(full) else None)
    return None, None


def _check_growth(settings: Mapping[str, Any], where: str) -> None:
    """Checks that replacements, one after the other, cannot make a short text fill the memory.

    Raises:
      UserError: they can.
    """
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        growth = math.prod(_growths(settings.get(part)))
        if growth > _MAX_GROWTH:
            raise UserError(
                f"{where}: the replacements of its {part} can make a text {growth:,} times as long, more than"
                f" {_MAX_GROWTH:,}; give a tokenizer.json without them"
            )


def _growths(step: Any) -> Iterator[int]:
    """How many times as long each replacement within a step can make a text."""
    children = step.values() if isinstance(step, dict) else step if isinstance(step, list) else ()
    for child in children:
        yield from _growths(child)
    if isinstance(step, dict) and step.get("type") == "Replace":
        # What is sought may be empty, and then stands between any two characters.
        sought = len(step["pattern"].get("String", ""))
        yield max(1, math.ceil(len(step["content"]) / sought)) if sought else len(step["content"]) + 1


def _normalizers(content: bytes) -> str:
    """The normalizers that a tokenizer.json names, in their order."""
    normalizer = json.loads(content).get("normalizer")
    if normalizer is None:
        return "none"
    parts = normalizer.get("normalizers", [normalizer])
    return ", ".join(str(part.get("type")) for part in parts)


def _first_known(backend: tokenizers.Tokenizer, names: Sequence[str]) -> int | None:
    return next((i for i in map(backend.token_to_id, names) if i is not None), None)
