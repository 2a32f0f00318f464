"""Tokenizers: text -> ids int32 [n, L] and mask bool [n, L].

Kinds: `clip`, `bytes`, `words:PATH`, `sentencepiece:PATH`, `json:PATH` (any Hugging Face tokenizer.json), and, with
what is done to the texts before and to the ids after, `json+canonicalize:PATH`.
"""

import dataclasses
import functools
import hashlib
import importlib.util
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Int32

from mmjax.data.text import clip_bpe, word_vocab
from mmjax.data.text.json_encoder import CLEANERS, OPTIONS, JsonEncoder
from mmjax.data.text.text_normalization import canonicalize, truncate_text
from mmjax.errors import UserError, did_you_mean
from mmjax.io import paths

_FIELD = "data.tokenizer"
_KINDS = ("clip", "bytes", "words:PATH", "sentencepiece:PATH", "json:PATH")

Encode = Callable[[list[str]], list[list[int]]]
Decode = Callable[[list[int]], str]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Tokenizer:
    """Turns texts into ids of a fixed length. Made by `make_tokenizer`; picklable, so that workers can have it.

    Attributes:
      spec: what it was made from, as in `data.tokenizer`.
      context_length: L, ids per text. Longer texts are cut; their last id is `eos_id` all the same.
      vocab_size: ids are below this.
      bos_id: first id of every text, or None where the kind has none: a text is then words, eos, pad, and nothing comes
        before the first word that it could be predicted from. `require_bos` refuses such a kind where that matters.
      eos_id: last id of every text.
      pad_id: what follows it; SigLIP's convention repeats `eos_id`.
      mask_id: what masked language modelling puts in a word's place, or None where the kind has none.
      sep_id: what separates a question from its answer, or None where the kind has none.
      special_ids: ids that stand for no words, ascending: never masked, and left out of decoded text. CLIP's pad is not
        among them, since 0 is "!" there.
      cleaning: what happens to a text before it is encoded, in words.
      file_bytes: content of the model file for the kinds with PATH, so that a checkpoint can carry it; else None.
      encode: cleaned and encoded texts, without padding: lists of at most L ids, specials included.
      decode_words: the text of ids without specials.
    """

    spec: str
    context_length: int
    vocab_size: int
    bos_id: int | None
    eos_id: int
    pad_id: int
    special_ids: tuple[int, ...]
    cleaning: str
    mask_id: int | None = None
    sep_id: int | None = None
    file_bytes: bytes | None = dataclasses.field(default=None, repr=False)
    encode: Encode = dataclasses.field(repr=False)
    decode_words: Decode = dataclasses.field(repr=False)

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

    def words(self, text: str) -> list[int]:
        """Ids of a text without bos and eos: at most as many as there is room for between them."""
        row = self.encode([text])[0]
        return row[row[:1] == [self.bos_id] : len(row) - (row[-1:] == [self.eos_id])]

    def decode(self, ids: Sequence[int] | Int32[np.ndarray, " n"]) -> str:
        """The text of ids up to the first end of text (or their end), without specials.

        What was cleaned away (capitals, say) does not come back, and `clip` has a space beside every punctuation mark.
        An id outside the vocabulary, which a model with a larger table may give, is left out; bytes that are no UTF-8
        are replaced.
        """
        row = [int(i) for i in ids]
        if row[:1] == [self.bos_id]:  # in some vocabularies the same id as eos
            row = row[1:]
        if self.eos_id in row:
            row = row[: row.index(self.eos_id)]
        specials = set(self.special_ids)
        return self.decode_words([i for i in row if 0 <= i < self.vocab_size and i not in specials]).strip()

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
    - `words:PATH`: whole words, from a file with one a line: pad 0, bos 1, eos 2, unk 3, mask 4, sep 5, then the words.
      Texts are canonicalised as SigLIP's are; other words are unk. `words:shapes` has those of the drawn scenes.
    - `sentencepiece:PATH`: SigLIP's convention: canonicalised text, no bos, padded with the end-of-text id.
    - `json:PATH`: a tokenizer.json with its own normalizer and post-processor; an end-of-text id is appended where the
      post-processor adds nothing. `json+OPTION:PATH`, or several of them, does what the file does not tell:
      `whitespace`, `lower` or `canonicalize`, which are what OpenCLIP calls `clean`; `lowercase`, the normalizer of
      that name before the file's own (SigLIP 2); `strip_sep`, 0 for the separator's id (OpenCLIP's `strip_sep_token`);
      `bos`, the end-of-text id as the first one, too, where the post-processor adds none (GPT-2, to write with).

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
    if kind not in ("words", "sentencepiece", "json"):
        near = did_you_mean(kind, [k.partition(":")[0] for k in _KINDS])
        raise UserError(f"{_FIELD}={spec!r} is not known{near}; choose one of: {', '.join(_KINDS)}")
    if not path:
        raise UserError(f"{_FIELD}={spec!r} lacks the path of its file; write {named}:PATH")
    if file is not None:
        content = file
    elif kind == "words" and path in word_vocab.EMBEDDED:
        content = word_vocab.EMBEDDED[path]
    else:
        content = _read(spec, path)
    if kind == "json":
        return _json(spec, context_length, content, options)
    if kind == "words":
        return _words(spec, context_length, content)
    return _sentencepiece(spec, context_length, content)


def require_bos(tokenizer: Tokenizer, use: str) -> None:
    """Checks that texts begin with an id that the first word can be predicted from.

    Args:
      tokenizer: to check.
      use: what needs it, such as "objectives.caption".

    Raises:
      UserError: its kind has none.
    """
    if tokenizer.bos_id is None:
        raise UserError(
            f"{_FIELD}={tokenizer.spec!r} begins texts with no id of its own, which {use} needs to predict the first"
            " word from; choose clip, bytes, words:PATH, json+bos:PATH, or a tokenizer.json that adds one"
        )


def _check_options(spec: str, kind: str, options: Sequence[str]) -> None:
    for option in options:
        if kind != "json":
            raise UserError(
                f"{_FIELD}={spec!r}: {kind} takes no {option!r}; only json can have one, json+{option}:PATH"
            )
        if option not in OPTIONS:
            near = did_you_mean(option, OPTIONS)
            raise UserError(f"{_FIELD}={spec!r}: {option!r} is not known{near}; choose among {', '.join(OPTIONS)}")
    cleanings = [option for option in options if option in CLEANERS]
    if len(cleanings) > 1:
        raise UserError(f"{_FIELD}={spec!r}: {' and '.join(cleanings)} cannot both clean a text; choose one")


def _clip(context_length: int) -> Tokenizer:
    bos, eos = clip_bpe.BOS, clip_bpe.EOS
    clip_bpe.backend()  # built here, not in the middle of the first batch
    return Tokenizer(
        spec="clip",
        context_length=context_length,
        vocab_size=clip_bpe.VOCAB_SIZE,
        bos_id=bos,
        eos_id=eos,
        pad_id=0,
        special_ids=(bos, eos),
        cleaning="ftfy, HTML entities twice, whitespace, lower case",
        encode=functools.partial(clip_bpe.encode, context_length=context_length),
        decode_words=clip_bpe.clip_text,
    )


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
        special_ids=(pad, bos, eos),
        cleaning="whitespace",
        encode=encode,
        decode_words=lambda ids: bytes(ids).decode("utf-8", "replace"),
    )


def _words(spec: str, context_length: int, content: bytes) -> Tokenizer:
    known = word_vocab.parse_words(content, f"{_FIELD}={spec!r}")
    ids = {word: word_vocab.SPECIALS + i for i, word in enumerate(known)}

    def encode_one(text: str) -> list[int]:
        return word_vocab.word_ids(text, ids)

    def encode(texts: list[str]) -> list[list[int]]:
        room = context_length - 2
        return [
            [word_vocab.BOS, *encode_one(truncate_text(text, room, encode_one))[:room], word_vocab.EOS]
            for text in texts
        ]

    return Tokenizer(
        spec=spec,
        context_length=context_length,
        vocab_size=word_vocab.SPECIALS + len(known),
        bos_id=word_vocab.BOS,
        eos_id=word_vocab.EOS,
        pad_id=word_vocab.PAD,
        mask_id=word_vocab.MASK,
        sep_id=word_vocab.SEP,
        special_ids=tuple(range(word_vocab.SPECIALS)),
        cleaning="no ASCII punctuation, lower case, whitespace",
        file_bytes=content,
        encode=encode,
        decode_words=lambda row: word_vocab.words_text(row, known),
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
        return [[*encode_one(truncate_text(text, room, encode_one))[:room], eos] for text in texts]

    size = model.GetPieceSize()
    no_words = [i for i in range(size) if model.IsControl(i) or model.IsUnknown(i) or model.IsUnused(i)]

    return Tokenizer(
        spec=spec,
        context_length=context_length,
        vocab_size=size,
        bos_id=None,
        eos_id=eos,
        pad_id=eos,
        special_ids=tuple(no_words),
        cleaning="no ASCII punctuation, lower case, whitespace",
        file_bytes=content,
        encode=encode,
        decode_words=model.DecodeIds,
    )


def _json(spec: str, context_length: int, content: bytes, options: Sequence[str]) -> Tokenizer:
    encoder = JsonEncoder(content, context_length, options, f"{_FIELD}={spec!r}")
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


def _read(spec: str, path: str) -> bytes:
    try:
        return paths.as_path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{_FIELD}={spec!r}: cannot read {path!r} ({type(error).__name__}); check the path") from error
