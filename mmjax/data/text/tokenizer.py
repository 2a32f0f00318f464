"""Tokenizers: text -> ids int32 [n, L] and mask bool [n, L].

Kinds: `clip`, `bytes`, `words:PATH`, `sentencepiece:PATH`, `json:PATH` (any Hugging Face tokenizer.json), and, with
what is done to the texts before and to the ids after, `json+canonicalize:PATH`.
"""

import dataclasses
import functools
import hashlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32

from mmjax import plugin_calls, registry
from mmjax.errors import UserError
from mmjax.io import paths

_SAMPLE = "a photo of a cat"
FIELD = "data.tokenizer"

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
        module = registry.tokenizers.module(self.spec.partition(":")[0].partition("+")[0])
        if module not in sys.modules or module == "__main__":
            raise UserError(
                f"{FIELD}={self.spec!r} is registered by {module}, which workers cannot import; put it into a module of"
                " your package and name that in plugins, or set data.workers=0"
            )
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
    where = f"{FIELD}={spec!r}"
    registry.tokenizers.validate_choice(FIELD, kind, spec)
    form = registry.tokenizers.form(kind)
    if not form and spec != kind and not options:
        raise UserError(f"{where} is not known; choose one of: {', '.join(registry.tokenizers.written())}")
    make = registry.tokenizers.load(kind, where=where)
    if kind == "json":
        make = functools.partial(make, options=options)
    elif options:
        raise UserError(f"{where}: {kind} takes no {options[0]!r}; only json can have one, json+{options[0]}:PATH")
    if not form:
        with plugin_calls.calling(registry.tokenizers, kind, make, "make(spec, context_length) -> Tokenizer"):
            tokenizer = _checked(make(spec, context_length), where)
        if kind in registry.tokenizers.added():
            _check_added(tokenizer, kind, make, context_length)
        return tokenizer
    if not path:
        raise UserError(f"{where} lacks the path of its file; write {named}{form}")
    expects = "make(spec, context_length, path=..., content=...) -> Tokenizer"
    with plugin_calls.calling(registry.tokenizers, kind, make, expects):
        tokenizer = _checked(make(spec, context_length, path=path, content=file), where)
    if kind in registry.tokenizers.added():
        _check_added(tokenizer, kind, make, context_length)
    return tokenizer


def _checked(tokenizer: Any, where: str) -> Tokenizer:
    if not isinstance(tokenizer, Tokenizer):
        raise UserError(f"{where}: what it names made a {type(tokenizer).__name__}, not a Tokenizer")
    return tokenizer


def _check_added(tokenizer: Tokenizer, kind: str, make: Any, context_length: int) -> None:
    """Checks what a plugin's tokenizer makes of a text.

    Raises:
      UserError: other numbers of ids than asked for, or ids that its vocabulary has not.
    """
    wrong = functools.partial(plugin_calls.wrong, registry.tokenizers, kind, make)
    if tokenizer.context_length != context_length:
        raise wrong(f"gives a Tokenizer of context_length={tokenizer.context_length}, not {context_length}")
    with plugin_calls.calling(registry.tokenizers, kind, make, "encode(texts) -> lists of ids"):
        ids, _ = tokenizer([_SAMPLE])
    if ids.min() < 0 or ids.max() >= tokenizer.vocab_size:
        raise wrong(f"{_SAMPLE!r} has an id of {max(ids.max(), -ids.min())}, but vocab_size={tokenizer.vocab_size}")


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
            f"{FIELD}={tokenizer.spec!r} begins texts with no id of its own, which {use} needs to predict the first"
            " word from; choose clip, bytes, words:PATH, json+bos:PATH, or a tokenizer.json that adds one"
        )


def read_file(spec: str, path: str) -> bytes:
    """Content of a tokenizer's file.

    Raises:
      UserError: it cannot be read.
    """
    try:
        return paths.as_path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{FIELD}={spec!r}: cannot read {path!r} ({type(error).__name__}); check the path") from error
