"""Tokenizers: text -> ids int32 [n, L] and mask bool [n, L]; where a text ends. `make_tokenizer` has their kinds."""

import dataclasses
import functools
import hashlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32

from mmjax import registry
from mmjax.data.bad_example import BadExample, one_example
from mmjax.errors import UserError

FIELD = "data.tokenizer"
# In place of an end-of-text id: the largest id of each text, whichever that is. OpenAI's CLIP, OpenCLIP's
# `pool_type="argmax"` and Hugging Face's `eos_token_id: 2` have this rule.
LARGEST_ID = -1
_SURROGATE = re.compile("[\ud800-\udfff]")
_SHOWN = 60  # characters

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

        Raises:
          BadExample: a text cannot be encoded; `encoding` for one that is not Unicode.
        """
        if isinstance(texts, str):
            raise TypeError("pass a list of texts, not one string")
        rows = self._encode(list(texts))
        ids = np.full((len(rows), self.context_length), self.pad_id, dtype=np.int32)
        mask = np.zeros(ids.shape, dtype=bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = True
        return ids, mask

    def words(self, text: str) -> list[int]:
        """Ids of a text without bos and eos: at most as many as there is room for between them."""
        row = self._encode([text])[0]
        return row[row[:1] == [self.bos_id] : len(row) - (row[-1:] == [self.eos_id])]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        try:
            with one_example():
                return self.encode(texts)
        except BadExample as error:
            for text in texts if len(texts) > 1 else ():
                self._encode([text])
            shown = f"text {texts[0][:_SHOWN]!r}" if len(texts) == 1 else f"{len(texts)} texts"
            if any(map(_SURROGATE.search, texts)):  # each library has its kind of error for them
                raise BadExample("encoding", f"{shown} holds half of a surrogate pair") from error
            raise error.with_path(shown) from error.__cause__

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
        if getattr(sys.modules.get(module), "__spec__", None) is None or module == "__main__":  # a recipe's has none
            raise UserError(
                f"{FIELD}={self.spec!r} is registered by {module}, which workers cannot import; put it into a module of"
                " your package and name that in plugins, or set data.workers=0"
            )
        from mmjax.data.text.make_tokenizer import make_tokenizer  # which makes tokenizers of this class

        # The encoders hold native objects; a worker builds its own from the same file.
        return functools.partial(make_tokenizer, file=self.file_bytes), (self.spec, self.context_length)


def end_of_text_position(ids: Any, eos_id: int) -> Any:
    """First position of the end of text in each row, which towers of CLIP's kind pool at; 0 where it does not occur.

    Args:
      ids: token ids [..., L], of NumPy or JAX.
      eos_id: id of the end-of-text token, or `LARGEST_ID`.

    Returns:
      Positions [...].
    """
    return (ids if eos_id == LARGEST_ID else ids == eos_id).argmax(axis=-1)
