"""Tokenizers: text -> ids int32 [n, L] and mask bool [n, L].

Kinds: `clip`, `bytes`, `sentencepiece:PATH`, `json:PATH` (any Hugging Face tokenizer.json), and, with what is done to
the texts before and to the ids after, `json+canonicalize:PATH`.
"""

import dataclasses
import functools
import gzip
import hashlib
import importlib.resources
import importlib.util
import json
import re
from collections.abc import Callable, Sequence

import ftfy.badness
import numpy as np
import tokenizers
from jaxtyping import Bool, Int32

from mmjax import storage
from mmjax.data.cleaning import CLEANINGS, canonicalize, clean_clip
from mmjax.errors import UserError, did_you_mean

_FIELD = "data.tokenizer"
_KINDS = ("clip", "bytes", "sentencepiece:PATH", "json:PATH")

_CLIP_MERGES = 49152 - 256 - 2
_CLIP_PATTERN = r"(?i)'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
_CLIP_ASCII_WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+")  # the same, for lower-case ASCII

# What tokenizers in use call their specials; a tokenizer.json lists them without saying which is which.
_EOS_NAMES = ("<|endoftext|>", "<|end_of_text|>", "<end_of_text>", "</s>", "<eos>", "[SEP]")
_PAD_NAMES = ("<pad>", "[PAD]", "<|pad|>")
_SEP_NAMES = ("[SEP]", "</s>")

# What can stand after `json+`: OpenCLIP's ways of cleaning, Hugging Face's normalizer, and ids of separators set to 0.
LOWERCASE, STRIP_SEP = "lowercase", "strip_sep"
_OPTIONS = (*CLEANINGS, LOWERCASE, STRIP_SEP)

# A text of more than _HEAD characters is cut before it is cleaned and encoded, to a head with enough ids and _MARGIN
# more, which the cut may have changed.
_HEAD = 1024
_MARGIN = 32
_SPACE_IN_ASCII = re.compile(r"(?<=[!-~]) (?=[!-~])")
_MOJIBAKE_HEAD = 10_000
_LONG_GAP = re.compile(r" {17,}")
_BLANK_LINE = re.compile(r"\n[\0-\x09\x0b-\x1a\x1c-\x20\x7f]*(?=\n)")

Encode = Callable[[list[str]], list[list[int]]]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Tokenizer:
    """Turns texts into ids of a fixed length. Made by `make_tokenizer`; picklable, so that workers can have it.

    Attributes:
      spec: what it was made from, as in `data.tokenizer`.
      context_length: L, ids per text. Longer texts are cut; their last id is `eos_id` all the same.
      vocab_size: ids are below this.
      bos_id: first id of every text, or None where the kind has none.
      eos_id: last id of every text.
      pad_id: what follows it; SigLIP's convention repeats `eos_id`.
      cleaning: what happens to a text before it is encoded, in words.
      file_bytes: content of the model file for the kinds with PATH, so that a checkpoint can carry it; else None.
      encode: cleaned and encoded texts, without padding: lists of at most L ids, specials included.
    """

    spec: str
    context_length: int
    vocab_size: int
    bos_id: int | None
    eos_id: int
    pad_id: int
    cleaning: str
    file_bytes: bytes | None = dataclasses.field(default=None, repr=False)
    encode: Encode = dataclasses.field(repr=False)

    def __call__(self, texts: Sequence[str]) -> tuple[Int32[np.ndarray, "n L"], Bool[np.ndarray, "n L"]]:
        """Tokenizes texts.

        Returns:
          ids, padded with `pad_id`, and a mask that is true up to and including the first end-of-text id.
        """
        if isinstance(texts, str):
            raise TypeError("pass a list of texts, not one string")
        rows = self.encode(list(texts))
        ids = np.full((len(rows), self.context_length), self.pad_id, dtype=np.int32)
        mask = np.zeros(ids.shape, dtype=bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = True
        return ids, mask

    def describe(self) -> dict:
        """What meta.json records: enough to recognise the tokenizer and, with `file_bytes`, to rebuild it."""
        fields = ("spec", "context_length", "vocab_size", "bos_id", "eos_id", "pad_id", "cleaning")
        sha256 = None if self.file_bytes is None else hashlib.sha256(self.file_bytes).hexdigest()
        return {
            **{name: getattr(self, name) for name in fields},
            "pad_repeats_eos": self.pad_id == self.eos_id,
            "file_sha256": sha256,
        }

    def __reduce__(self):
        # The encoders hold native objects; a worker builds its own from the same file.
        return functools.partial(make_tokenizer, file=self.file_bytes), (self.spec, self.context_length)


def make_tokenizer(spec: str, context_length: int, *, file: bytes | None = None) -> Tokenizer:
    """Makes the tokenizer that `data.tokenizer` names.

    - `clip`: OpenAI CLIP's lower-cased byte-level BPE, 49408 ids, SOT 49406, EOT 49407, pad 0. Unlike OpenAI's and
      OpenCLIP's, text that spells a special token stays text, so that a caption cannot end itself. What is a letter or
      a number is as the `tokenizers` package's Unicode version has it.
    - `bytes`: UTF-8 bytes 0..255, then pad 256, bos 257, eos 258.
    - `sentencepiece:PATH`: SigLIP's convention: canonicalised text, no bos, padded with the end-of-text id.
    - `json:PATH`: a tokenizer.json with its own normalizer and post-processor; an end-of-text id is appended where the
      post-processor adds nothing. `json+OPTION:PATH`, or several of them, does what the file does not tell:
      `whitespace`, `lower` or `canonicalize`, which are what OpenCLIP calls `clean`; `lowercase`, the normalizer of
      that name before the file's own (SigLIP 2); `strip_sep`, 0 for the separator's id (OpenCLIP's `strip_sep_token`).

    A text of more than 1024 characters is cut before it is cleaned, at a line's end or a space, to a head that has 32
    ids more than are kept. For `bytes` that changes nothing, for `clip` nothing where the text is ASCII without HTML
    entities or the cut is a line's end. Elsewhere an id could change where Unicode is broken (mojibake) in one part of
    a line of more than 10,000 characters and not in another.

    Args:
      spec: one of the above; PATH is local or a URL that `etils.epath` reads.
      context_length: ids per text.
      file: content to use instead of reading PATH, as a checkpoint carries it.

    Raises:
      UserError: unknown kind, file missing or not of its format, package missing, context too short.
    """
    if context_length < 3:
        raise UserError(
            f"context_length={context_length} leaves no room for text between the special tokens; use 3 or more"
        )
    named, _, path = spec.partition(":")
    kind, *options = named.split("+")
    if spec in ("clip", "bytes"):
        make = _clip if kind == "clip" else _bytes
        return make(context_length)
    if kind in (known.partition(":")[0] for known in _KINDS):
        _check_options(spec, kind, options)
    if kind not in ("sentencepiece", "json"):
        near = did_you_mean(kind, [k.partition(":")[0] for k in _KINDS])
        raise UserError(f"{_FIELD}={spec!r} is not known{near}; choose one of: {', '.join(_KINDS)}")
    if not path:
        raise UserError(f"{_FIELD}={spec!r} lacks the path of its file; write {named}:PATH")
    content = _read(spec, path) if file is None else file
    if kind == "json":
        return _json(spec, context_length, content, options)
    return _sentencepiece(spec, context_length, content)


def _check_options(spec: str, kind: str, options: Sequence[str]) -> None:
    for option in options:
        if kind != "json":
            raise UserError(
                f"{_FIELD}={spec!r}: {kind} takes no {option!r}; only json can have one, json+{option}:PATH"
            )
        if option not in _OPTIONS:
            near = did_you_mean(option, _OPTIONS)
            raise UserError(f"{_FIELD}={spec!r}: {option!r} is not known{near}; choose among {', '.join(_OPTIONS)}")
    cleanings = [option for option in options if option in CLEANINGS]
    if len(cleanings) > 1:
        raise UserError(f"{_FIELD}={spec!r}: {' and '.join(cleanings)} cannot both clean a text; choose one")


def _clip(context_length: int) -> Tokenizer:
    bos, eos = 49406, 49407
    _clip_backend()  # built here, not in the middle of the first batch

    def encode(texts: list[str]) -> list[list[int]]:
        room = context_length - 2
        heads = [_clip_head(text, room) if len(text) > _HEAD else text for text in texts]
        return [[bos, *_clip_ids(clean_clip(head))[:room], eos] for head in heads]

    return Tokenizer(
        spec="clip",
        context_length=context_length,
        vocab_size=49408,
        bos_id=bos,
        eos_id=eos,
        pad_id=0,
        cleaning="ftfy, HTML entities twice, whitespace, lower case",
        encode=encode,
    )


def _clip_head(text: str, ids: int) -> str:
    # ftfy takes its time for every line and every space. It looks at a few spaces together, at most.
    text = _LONG_GAP.sub(" " * 16, _BLANK_LINE.sub("", text))
    # Whether and how broken Unicode can be mended is decided by the whole line.
    if len(text) <= _MOJIBAKE_HEAD and not text.isascii() and ftfy.badness.is_bad(text):
        return text
    return _shortened(text, ids, lambda head: _clip_ids(clean_clip(head)))


def _clip_ids(text: str) -> list[int]:
    # Captions are mostly the same words: looking them up is ten times faster than encoding them again. No word goes
    # across a space.
    if text.isascii():
        return [i for word in _CLIP_ASCII_WORDS.findall(text) for i in _clip_word_ids(word)]
    return [i for words in text.split() for i in _clip_word_ids(words)]


@functools.lru_cache(maxsize=1 << 16)
def _clip_word_ids(word: str) -> tuple[int, ...]:
    return tuple(_clip_backend().encode(word, add_special_tokens=False).ids)


@functools.lru_cache(maxsize=1)
def _clip_backend() -> tokenizers.Tokenizer:
    content = importlib.resources.files("mmjax.data").joinpath("vocab", "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    lines = gzip.decompress(content).decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1 : _CLIP_MERGES + 1]]  # the first line is a header
    symbols = [*_byte_symbols(), *(s + "</w>" for s in _byte_symbols()), *map("".join, merges)]
    vocab = {symbol: i for i, symbol in enumerate(symbols)}
    model = tokenizers.models.BPE(vocab, merges, end_of_word_suffix="</w>", continuing_subword_prefix="")
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(_CLIP_PATTERN), behavior="removed", invert=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return backend


def _byte_symbols() -> list[str]:
    """One printable character per byte, in the order of CLIP's ids: printable bytes first, then U+0100 and on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]


def _bytes(context_length: int) -> Tokenizer:
    pad, bos, eos = 256, 257, 258

    room = context_length - 2

    def encode(texts: list[str]) -> list[list[int]]:
        # A character is at least one byte, so that no more words and characters than bytes can count.
        heads = [" ".join(text.split(None, room)[:room])[:room] for text in texts]
        return [[bos, *head.encode("utf-8", "replace")[:room], eos] for head in heads]

    return Tokenizer(
        spec="bytes",
        context_length=context_length,
        vocab_size=259,
        bos_id=bos,
        eos_id=eos,
        pad_id=pad,
        cleaning="whitespace",
        encode=encode,
    )


def _sentencepiece(spec: str, context_length: int, content: bytes) -> Tokenizer:
    if importlib.util.find_spec("sentencepiece") is None:
        raise UserError(
            f"{_FIELD}={spec!r} needs the package sentencepiece; install it with: pip install sentencepiece"
        )
    import sentencepiece  # optional, and only this kind needs it

    model = sentencepiece.SentencePieceProcessor()
    try:
        model.LoadFromSerializedProto(content)
    except RuntimeError as error:
        raise UserError(f"{_FIELD}={spec!r} is not a sentencepiece model; give a *.model file") from error
    eos = model.eos_id()
    if eos < 0:
        raise UserError(f"{_FIELD}={spec!r} has no end-of-text piece; train the model with eos_id >= 0")

    def encode_one(text: str) -> list[int]:
        return model.EncodeAsIds(canonicalize(text))

    def encode(texts: list[str]) -> list[list[int]]:
        room = context_length - 1
        return [[*encode_one(_shortened(text, room, encode_one))[:room], eos] for text in texts]

    return Tokenizer(
        spec=spec,
        context_length=context_length,
        vocab_size=model.GetPieceSize(),
        bos_id=None,
        eos_id=eos,
        pad_id=eos,
        cleaning="no ASCII punctuation, lower case, whitespace",
        file_bytes=content,
        encode=encode,
    )


def _json(spec: str, context_length: int, content: bytes, options: Sequence[str]) -> Tokenizer:
    try:
        backend = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
    except Exception as error:  # the library raises bare Exception for a file of another format
        raise UserError(f"{_FIELD}={spec!r} is not a tokenizer.json ({error}); give the file of that name") from error
    steps = [_normalizers(content)]
    if LOWERCASE in options:
        lower = tokenizers.normalizers.Lowercase()
        own = backend.normalizer
        backend.normalizer = lower if own is None else tokenizers.normalizers.Sequence([lower, own])
        steps = ["Lowercase", *steps]
    clean: Callable[[str], str] | None = None
    for option in options:
        if option in CLEANINGS:
            clean, told = CLEANINGS[option]
            steps = [told, *steps]
    separator = _first_known(backend, _SEP_NAMES) if STRIP_SEP in options else None
    declared_pad = (backend.padding or {}).get("pad_id")
    backend.no_padding()
    backend.no_truncation()
    bos, eos = _added_specials(backend)
    appended = eos is None  # the post-processor adds no end of text, so we do
    if appended:
        eos = _first_known(backend, _EOS_NAMES)
    if eos is None:
        raise UserError(
            f"{_FIELD}={spec!r} has no end-of-text token; add a post-processor or one of: {', '.join(_EOS_NAMES)}"
        )
    pad = _first_known(backend, _PAD_NAMES) if declared_pad is None else declared_pad
    backend.enable_truncation(context_length - appended)

    def all_ids(text: str) -> list[int]:
        encoding = backend.encode(clean(text) if clean else text)
        return [*encoding.ids, *(i for part in encoding.overflowing for i in part.ids)]

    def encode(texts: list[str]) -> list[list[int]]:
        heads = [_shortened(text, context_length, all_ids) for text in texts]
        if clean:
            heads = [clean(head) for head in heads]
        rows = [encoding.ids for encoding in backend.encode_batch_fast(heads)]
        rows = [[*row, eos] for row in rows] if appended else rows
        return rows if separator is None else [[0 if i == separator else i for i in row] for row in rows]

    return Tokenizer(
        spec=spec,
        context_length=context_length,
        vocab_size=max(backend.get_vocab(with_added_tokens=True).values()) + 1,
        bos_id=bos,
        eos_id=0 if eos == separator else eos,
        pad_id=eos if pad is None else pad,
        cleaning=", ".join(step for step in steps if step != "none") or "none",
        file_bytes=content,
        encode=encode,
    )


def _added_specials(backend: tokenizers.Tokenizer) -> tuple[int | None, int | None]:
    """(bos, eos) as the post-processor adds them, found by what stands around a text."""
    probe = "a"
    bare, full = backend.encode(probe, add_special_tokens=False).ids, backend.encode(probe).ids
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            end = start + len(bare)
            return (full[0] if start else None), (full[-1] if end < len(full) else None)
    return None, None


def _normalizers(content: bytes) -> str:
    """The normalizers that a tokenizer.json names, in their order."""
    normalizer = json.loads(content).get("normalizer")
    if normalizer is None:
        return "none"
    parts = normalizer.get("normalizers", [normalizer])
    return ", ".join(str(part.get("type")) for part in parts)


def _first_known(backend: tokenizers.Tokenizer, names: Sequence[str]) -> int | None:
    return next((i for i in map(backend.token_to_id, names) if i is not None), None)


def _shortened(text: str, ids: int, encode: Callable[[str], list[int]]) -> str:
    """The head of a long text that has `ids` ids and _MARGIN more; cleaning and encoding take time by the length."""
    length = _HEAD
    while length < len(text):
        head = _head(text, length)
        if len(encode(head)) >= ids + _MARGIN:
            return head
        length *= 4
    return text


def _head(text: str, length: int) -> str:
    """Up to `length` characters of a longer text, cut where cleaning sees the same on the left of the cut.

    ftfy goes line by line; words, entities and escapes end at a space, if no broken Unicode stands there.
    """
    line_end = text.rfind("\n", length // 2, length)
    if line_end >= 0:
        return text[: line_end + 1]
    spaces = [match.start() for match in _SPACE_IN_ASCII.finditer(text, length // 2, length)]
    return text[: spaces[-1]] if spaces else text[:length]


def _read(spec: str, path: str) -> bytes:
    try:
        return storage.as_path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{_FIELD}={spec!r}: cannot read {path!r} ({type(error).__name__}); check the path") from error
