"""BLEU, ROUGE-L and CIDEr-D of generated captions, by the protocol of COCO's caption evaluation.

The numbers are those of pycocoevalcap's scorers (`.bleu`, `.rouge`, `.cider`), its choices included: they differ from
the papers where it does, and published results are its. METEOR is in `meteor`, for it needs Java.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

from mmjax.errors import UserError
from mmjax.metrics.ptb_tokenizer import ptb_tokenize

_ORDER = 4  # n-grams of one to four words
_SIGMA = 6.0  # of CIDEr-D's length penalty, in words
_BETA = 1.2  # of ROUGE-L: recall weighs beta^2 times as much as precision
_TINY, _SMALL = 1e-15, 1e-9  # with which pycocoevalcap's BLEU avoids dividing by zero


@dataclasses.dataclass(frozen=True)
class CaptionScores:
    """Scores of captions.

    Attributes:
      metrics: by name, see `caption_metrics`.
      examples: by the same names, float64 [N]: every candidate's own score. The mean over examples is the metric, but
        for BLEU, whose counts are summed over all captions before the ratio is taken.
    """

    metrics: dict[str, float]
    examples: dict[str, Float64[np.ndarray, " N"]]


def caption_metrics(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, tokenized: bool = False
) -> dict[str, float]:
    """Metrics of captioning, each candidate compared with the references of its image.

    Args:
      candidates: one caption an image; may be empty strings.
      references: one or more captions an image.
      tokenized: the captions are words separated by single spaces already. Otherwise `ptb_tokenize` makes them so.

    Returns:
      `bleu_1` to `bleu_4`, `rouge_l`, `cider_d` (see the functions of these names) and `exact_match`, the share of
      candidates that equal one of their references after tokenisation. All are in [0, 1] except `cider_d`, in [0, 10].

    Raises:
      UserError: no captions, numbers of candidates and references that differ, or an image without a reference.
    """
    return score_captions(candidates, references, tokenized=tokenized).metrics


def score_captions(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, tokenized: bool = False
) -> CaptionScores:
    """`caption_metrics` with the score of every example."""
    candidates, references = tokenize_captions(candidates, references, tokenized=tokenized)
    grams = _Grams(candidates, references)
    corpus, examples = _bleu(grams)
    examples |= {"rouge_l": rouge_l(candidates, references)[1], "cider_d": _cider_d(grams)}
    examples["exact_match"] = np.array(
        [c in texts for c, texts in zip(candidates, references, strict=True)], np.float64
    )
    return CaptionScores({name: float(values.mean()) for name, values in examples.items()} | corpus, examples)


def tokenize_captions(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, tokenized: bool
) -> tuple[list[str], list[list[str]]]:
    """Checks captions and tokenises them; see `caption_metrics`."""
    if isinstance(candidates, str) or any(isinstance(texts, str) for texts in references):
        raise UserError("captions: expected a list of candidates and a list of lists of references, got a plain string")
    if not len(candidates) or len(candidates) != len(references):
        raise UserError(
            f"captions: {len(candidates)} candidates with {len(references)} lists of references; give one each"
        )
    for i, texts in enumerate(references):
        if not len(texts):
            raise UserError(f"captions: references[{i}] is empty; every candidate needs a reference")
    if tokenized:
        return list(candidates), [list(texts) for texts in references]
    flat = iter(ptb_tokenize([*candidates, *(text for texts in references for text in texts)]))
    return [next(flat) for _ in candidates], [[next(flat) for _ in texts] for texts in references]


def bleu(
    candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[str, float], dict[str, Float64[np.ndarray, " N"]]]:
    """Corpus BLEU-1 to BLEU-4 of tokenised captions.

    The geometric mean of the precisions of n-grams, counts clipped by the largest of any reference and summed over all
    captions, times the brevity penalty with the closest reference length, the shorter one of two as close (Papineni et
    al. 2002). Without smoothing, but for the 1e-15 that pycocoevalcap adds to a numerator.

    Returns:
      `bleu_1` to `bleu_4` of the corpus, and of every caption by itself.
    """
    return _bleu(_Grams(candidates, references))


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, Float64[np.ndarray, " N"]]:
    """CIDEr-D of tokenised captions (Vedantam et al. 2015), in [0, 10]: pycocoevalcap's scale, 1.2 being "120".

    The cosine of the tf-idf vectors of n-grams, the candidate's clipped by the reference's, times exp(-(difference of
    lengths)^2 / 72), averaged over n = 1 to 4 and over references, times 10. Document frequencies are counted over the
    images of `references`, so a score belongs to its whole set, and a single image scores 0. The length is the number
    of bigrams, and nothing is stemmed, as in pycocoevalcap.

    Returns:
      The mean over captions, and every caption's score.
    """
    scores = _cider_d(_Grams(candidates, references))
    return float(scores.mean()), scores


def rouge_l(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, Float64[np.ndarray, " N"]]:
    """ROUGE-L of tokenised captions (Lin 2004): F with beta = 1.2 of the longest common subsequence.

    Precision and recall are the largest over the references, each by itself, as in pycocoevalcap. An empty caption
    counts as one empty word there: it scores 1 against an empty reference, 0 against others.

    Returns:
      The mean over captions, and every caption's score.
    """
    scores = np.zeros(len(candidates))
    for i, (candidate, texts) in enumerate(zip(candidates, references, strict=True)):
        words = candidate.split(" ")
        others = [text.split(" ") for text in texts]
        common = [_common_subsequence(words, other) for other in others]
        precision = max(common) / len(words)
        recall = max(length / len(other) for length, other in zip(common, others, strict=True))
        if precision and recall:
            scores[i] = (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)
    return float(scores.mean()), scores


def _common_subsequence(first: list[str], second: list[str]) -> int:
    """Length of the longest common subsequence, by Hyyrö's bit-parallel recurrence (2004) on Python's long integers."""
    where: dict[str, int] = {}
    for i, word in enumerate(first):
        where[word] = where.get(word, 0) | 1 << i
    full = row = (1 << len(first)) - 1
    for word in second:
        match = row & where.get(word, 0)
        row = ((row + match) | (row - match)) & full
    return len(first) - row.bit_count()


class _Grams:
    """How often which n-gram is in which caption, for all captions at once.

    Sentences are numbered candidates first, then all references in order. `counts[n - 1]` holds, for every n-gram of a
    sentence, sorted: the sentence [M], the n-gram's number [M] and how often it occurs there [M].
    """

    def __init__(self, candidates: Sequence[str], references: Sequence[Sequence[str]]):
        self.images = len(candidates)
        self.image = np.concatenate(
            [np.arange(self.images), np.repeat(np.arange(self.images), [*map(len, references)])]
        )
        number: dict[str, int] = {}
        split = [text.split() for text in [*candidates, *(text for texts in references for text in texts)]]
        words = np.array([number.setdefault(word, len(number)) for words in split for word in words], np.int64)
        self.lengths = np.array([*map(len, split)], np.int64)
        sentences = np.repeat(np.arange(len(split)), self.lengths)
        self.counts, self.kinds = [], []
        grams, width = words, len(number) + 1
        for n in range(1, _ORDER + 1):
            if n > 1:  # An n-gram is an (n-1)-gram and the word after it, within one sentence.
                last = words[n - 1 :]
                inside = sentences[: len(last)] == sentences[n - 1 :]
                pairs = np.where(inside, grams[: len(last)] * width + last, -1)
                grams = np.unique(pairs, return_inverse=True)[1]
                # The first number is that of the pairs that cross sentences, where there are any.
                starts, kept = sentences[: len(last)][inside], grams[inside]
            else:
                starts, kept = sentences, grams
            kinds = int(grams.max(initial=-1)) + 1
            keys, counts = np.unique(starts * max(kinds, 1) + kept, return_counts=True)
            self.counts.append((*np.divmod(keys, max(kinds, 1)), counts))
            self.kinds.append(max(kinds, 1))


def _lookup(keys: Int64[np.ndarray, " M"], wanted: Int64[np.ndarray, " K"]) -> tuple[np.ndarray, np.ndarray]:
    """Whether each wanted key is among the sorted keys, and where."""
    positions = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
    return (keys[positions] == wanted) if len(keys) else np.zeros(len(wanted), bool), positions


def _bleu(grams: _Grams) -> tuple[dict[str, float], dict[str, Float64[np.ndarray, " N"]]]:
    lengths = grams.lengths[: grams.images]
    right = np.zeros((_ORDER, grams.images))
    for n, ((sentences, kinds, counts), width) in enumerate(zip(grams.counts, grams.kinds, strict=True)):
        mine = sentences < grams.images
        keys, first = np.unique(grams.image[sentences[~mine]] * width + kinds[~mine], return_inverse=True)
        most = np.zeros(len(keys), np.int64)
        np.maximum.at(most, first, counts[~mine])
        known, positions = _lookup(keys, sentences[mine] * width + kinds[mine])
        clipped = np.minimum(counts[mine][known], most[positions[known]])
        right[n] = np.bincount(sentences[mine][known], weights=clipped, minlength=grams.images)
    all_ = np.maximum(lengths - np.arange(_ORDER)[:, None], 0)
    closest = _closest_lengths(grams)
    corpus = _bleu_of(right.sum(axis=1), all_.sum(axis=1), lengths.sum(), closest.sum())
    examples = _bleu_of(right, all_, lengths, closest)
    names = [f"bleu_{n}" for n in range(1, _ORDER + 1)]
    return dict(zip(names, map(float, corpus), strict=True)), dict(zip(names, examples, strict=True))


def _bleu_of(
    right: np.ndarray, all_: np.ndarray, length: np.ndarray | np.integer, reference: np.ndarray | np.integer
) -> np.ndarray:
    order = np.arange(1, _ORDER + 1).reshape(-1, *[1] * (right.ndim - 1))
    means = np.cumprod((right + _TINY) / (all_ + _SMALL), axis=0) ** (1 / order)
    ratio = (length + _TINY) / (reference + _SMALL)
    return means * np.exp(np.minimum(0, 1 - 1 / ratio))


def _closest_lengths(grams: _Grams) -> Int64[np.ndarray, " N"]:
    """The length of each candidate's reference that is closest to its own; the shorter one of two."""
    owner, lengths = grams.image[grams.images :], grams.lengths[grams.images :]
    order = np.lexsort((lengths, np.abs(lengths - grams.lengths[owner]), owner))
    first = np.searchsorted(owner[order], np.arange(grams.images))
    return lengths[order[first]]


def _cider_d(grams: _Grams) -> Float64[np.ndarray, " N"]:
    images, sentences = grams.images, len(grams.image)
    owner = grams.image[images:]
    total = np.zeros(sentences - images)
    for (where, kinds, counts), width in zip(grams.counts, grams.kinds, strict=True):
        keys = grams.image[where] * width + kinds
        mine = where < images
        seen = np.bincount(np.unique(keys[~mine]) % width, minlength=width)
        weights = counts * (np.log(images) - np.log(np.maximum(seen, 1)))[kinds]
        norms = np.sqrt(np.bincount(where, weights=weights**2, minlength=sentences))
        known, positions = _lookup(keys[mine], keys[~mine])
        theirs = weights[~mine][known]
        products = np.minimum(weights[mine][positions[known]], theirs) * theirs
        dots = np.bincount(where[~mine][known] - images, weights=products, minlength=sentences - images)
        scale = norms[owner] * norms[images:]
        total += np.divide(dots, scale, out=np.zeros(len(dots)), where=scale > 0)
    bigrams = np.maximum(grams.lengths - 1, 0)
    total *= np.exp(-((bigrams[owner] - bigrams[images:]) ** 2) / (2 * _SIGMA**2))
    return 10 * np.bincount(owner, weights=total, minlength=images) / np.bincount(owner, minlength=images) / _ORDER
