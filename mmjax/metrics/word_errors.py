"""Word and character error rates of transcripts, with the alignments that they are counted by."""

import dataclasses
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mmjax.errors import validate_choice

NORMALIZATIONS = ("none", "basic")

_IN_BRACKETS = re.compile(r"[<\[][^>\]]*[>\]]")
_IN_PARENTHESES = re.compile(r"\([^)]+?\)")


class Edits(NamedTuple):
    """Counts of an alignment; in all, each item of the reference is a hit, a substitution or a deletion."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def errors(self) -> int:
        """The edits that make the hypothesis of the reference."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def length(self) -> int:
        """Items of the reference."""
        return self.hits + self.substitutions + self.deletions


@dataclasses.dataclass(frozen=True)
class TranscriptScores:
    """Scores of transcripts.

    Attributes:
      words, characters: counts over all of them.
      alignments: of each, as `align` gives them, by words.
    """

    words: Edits
    characters: Edits
    alignments: list[list[tuple[str | None, str | None]]]

    @property
    def metrics(self) -> dict[str, float]:
        """`wer` and `cer`, errors by items of the references, which may exceed 1; WER's parts; `sentence_accuracy`."""
        rates = {name: getattr(self.words, f"{name}s") / self.words.length for name in _PARTS}
        right = [all(reference == hypothesis for reference, hypothesis in pairs) for pairs in self.alignments]
        return {
            "wer": self.words.errors / self.words.length,
            "cer": self.characters.errors / self.characters.length,
            **{f"{name}_rate": rate for name, rate in rates.items()},
            "sentence_accuracy": float(np.mean(right)),
        }


_PARTS = ("substitution", "deletion", "insertion")


def normalize_transcript(text: str, normalization: str = "none") -> str:
    """A transcript as it is compared: words with one space between them.

    Args:
      text: written by a person or by a model.
      normalization: `none` leaves all characters as they are; `basic` is Whisper's (arXiv:2212.04356, appendix C) for
        all languages: lower case, without what stands in brackets, and with spaces for marks, symbols and punctuation.

    Raises:
      UserError: the normalization is not known.
    """
    if validate_choice("normalization", normalization, NORMALIZATIONS) == "basic":
        # One after the other, as Whisper has it: brackets inside parentheses go first, and may unite two pairs.
        text = _IN_PARENTHESES.sub("", _IN_BRACKETS.sub("", text.lower()))
        text = unicodedata.normalize("NFKC", text)
        text = "".join(" " if unicodedata.category(letter)[0] in "MSP" else letter for letter in text).lower()
    return " ".join(text.split())


def score_transcripts(
    references: Sequence[str], hypotheses: Sequence[str], normalization: str = "none"
) -> TranscriptScores:
    """Scores transcripts of a whole set: all errors by all words, not a mean over sentences.

    A reference without words adds the words of its hypothesis as insertions, and nothing to what is divided by.

    Args:
      references: what was said.
      hypotheses: what was written, one for each; empty ones count as deletions alone.
      normalization: of both, see `normalize_transcript`.

    Raises:
      UserError: the normalization is not known.
      ValueError: no reference has a word, so that there is no rate; or there are more of one than of the other.
    """
    pairs = [
        (normalize_transcript(reference, normalization), normalize_transcript(hypothesis, normalization))
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    ]
    if not any(reference for reference, _ in pairs):
        raise ValueError(f"{len(pairs)} references without a word: error rates are shares of the words of references")
    alignments = [align(reference.split(), hypothesis.split()) for reference, hypothesis in pairs]
    characters = _total(count_edits(align(*pair)) for pair in pairs)
    return TranscriptScores(_total(map(count_edits, alignments)), characters, alignments)


def _total(parts) -> Edits:
    return Edits(*(sum(values) for values in zip(*parts, strict=True)))


def count_edits(alignment: Sequence[tuple[str | None, str | None]]) -> Edits:
    """The counts of an alignment."""
    kinds = [
        "insertions" if reference is None else "deletions" if hypothesis is None else "substitutions"
        for reference, hypothesis in alignment
        if reference != hypothesis
    ]
    counts = {kind: kinds.count(kind) for kind in ("substitutions", "deletions", "insertions")}
    return Edits(hits=len(alignment) - len(kinds), **counts)


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> list[tuple[str | None, str | None]]:
    """An alignment with the fewest substitutions, deletions and insertions.

    Of several the one that rapidfuzz takes, and jiwer by it, so that the counts of either kind are equal, too: equal
    beginnings and ends are hits; from the end on, deletions come before all else, then what is a hit or a substitution
    unless only an insertion leads to the least.

    Args:
      reference: words, or characters.
      hypothesis: the same.

    Returns:
      Pairs of items in their order: (item, None) is a deletion, (None, item) an insertion.
    """
    first = _common(reference, hypothesis)
    last = _common(reference[first:][::-1], hypothesis[first:][::-1])
    middle = reference[first : len(reference) - last], hypothesis[first : len(hypothesis) - last]
    hits: list[tuple[str | None, str | None]] = [(item, item) for item in reference]
    return [*hits[:first], *_align_middle(*middle), *hits[len(hits) - last :]]


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """How many items at the beginning are equal."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((number for number, (x, y) in pairs if x != y), min(len(a), len(b)))


def _align_middle(reference: Sequence[str], hypothesis: Sequence[str]) -> list[tuple[str | None, str | None]]:
    distances = _distances(reference, hypothesis)
    pairs: list[tuple[str | None, str | None]] = []
    i, j = len(reference), len(hypothesis)
    while i or j:
        if not j or (i and distances[i][j] == distances[i - 1][j] + 1):
            i -= 1
            pairs.append((reference[i], None))
            continue
        j -= 1
        if not i or (j and distances[i][j] == distances[i - 1][j] - 1):
            pairs.append((None, hypothesis[j]))
        else:
            i -= 1
            pairs.append((reference[i], hypothesis[j]))
    return pairs[::-1]


def _distances(reference: Sequence[str], hypothesis: Sequence[str]) -> list[list[int]]:
    """Levenshtein's distances [R + 1, H + 1] of all beginnings of one to all of the other."""
    numbers = {item: number for number, item in enumerate({*reference, *hypothesis})}
    theirs, columns = np.array([numbers[item] for item in hypothesis], np.int64), np.arange(len(hypothesis) + 1)
    rows = [columns]
    for count, item in enumerate(reference, start=1):
        before = rows[-1]
        cheapest = np.minimum(before[1:] + 1, before[:-1] + (theirs != numbers[item]))
        # Insertions: each column may come from any to its left, at one an item.
        steps = np.concatenate([[count], cheapest]) - columns
        rows.append(np.minimum.accumulate(steps) + columns)
    return [row.tolist() for row in rows]
