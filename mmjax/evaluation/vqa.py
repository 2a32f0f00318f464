"""VQA v2: the official accuracy and normalisation of answers, and what training on it needs.

Accuracy is that of the challenge's evaluation code (Antol et al. 2015, Goyal et al. 2017), its oddities included,
because published numbers have them. Ten people answered each question there; other numbers of answers are scored by the
same rule.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Float64

from mmjax.errors import UserError, choose

TYPES = ("yes/no", "number", "other")
_ENOUGH = 3  # people who gave an answer make it right

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA = re.compile(r"\d,\d")
# The official pattern means to spare a period between digits. Its first group is mistyped, which leaves the second one.
_PERIOD = re.compile(r"\.(?!\d)")
_PERIODS = 32  # The official call passes the flag re.UNICODE, of value 32, where the number of replacements stands.
_ARTICLES = {"a", "an", "the"}
_NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_ENDINGS = {
    "n't've": "could had might should would",
    "'d've": "he it she somebody someone something there they we who you",
    "n't": "ai are ca could did does do had has have is might must need ought sha should was were wo would",
    "'ve": "could might must not should they we what where who would you",
    "'ll": "how it somebody someone something they what who why you",
    "'re": "there they what why you",
    "'d": "he how it someone something there they where who you",
    "'s": "he how somebody someone that there what when where who why",
}
_IRREGULAR = ("ma'am", "o'clock", "'ow's'at", "'twas", "y'all", "y'all'd've", "y'all'll")
_APOSTROPHES = [*_IRREGULAR, *(stem + end for end, stems in _ENDINGS.items() for stem in stems.split())]


def _lacking_one(word: str) -> list[str]:
    return [word[:i] + word[i + 1 :] for i, letter in enumerate(word) if letter == "'"]


# Each word lacking one of its apostrophes gets it back. The official table has one entry the wrong way round.
_CONTRACTIONS = {lacking: word for word in _APOSTROPHES for lacking in _lacking_one(word)} | {"somebody'd": "somebodyd"}


@dataclasses.dataclass(frozen=True)
class VqaScores:
    """What predictions scored: `metrics` as in `vqa_metrics`, every question's accuracy [N] and its answer type."""

    metrics: dict[str, float]
    accuracies: Float64[np.ndarray, " N"]
    types: list[str]


def vqa_metrics(
    predictions: Sequence[str],
    answers: Sequence[Sequence[str]],
    types: Sequence[str] | None = None,
    *,
    normalize: str = "official",
) -> dict[str, float]:
    """VQA accuracy, over all questions and by type of answer.

    An answer is as right as min(1, n / 3) where n people gave it, averaged over the subsets that leave one person out:
    of ten, 0, 1, 2, 3, 4 or more who gave it make 0, 0.3, 0.6, 0.9, 1. Of fewer than four answers all others must agree
    instead of three, and a single one must be met.

    Args:
      predictions: one answer a question. answers: what people answered, one or more a question. types: each question's
        answer type, "yes/no", "number" or "other"; inferred by `answer_type` when not given. normalize: "official": the
        prediction by `normalize_answer`, people's answers by `strip_punctuation`, and only where they are not all
        equal, as the official code does: VQA v2's are stored without articles and number words. "both":
        `normalize_answer` for both, for answers that nobody normalised before ("two" would never be met otherwise).

    Returns:
      `accuracy`, and `accuracy_yes/no`, `accuracy_number`, `accuracy_other` of the types that occur, in [0, 1].

    Raises:
      UserError: no questions, numbers of predictions, answers and types that differ, a question without answers, or an
        unknown type or `normalize`.
    """
    return score_answers(predictions, answers, types, normalize=normalize).metrics


def score_answers(
    predictions: Sequence[str],
    answers: Sequence[Sequence[str]],
    types: Sequence[str] | None = None,
    *,
    normalize: str = "official",
) -> VqaScores:
    """`vqa_metrics` with every question's accuracy and type."""
    choose("normalize", normalize, ("official", "both"))
    if not len(predictions) or len(predictions) != len(answers):
        raise UserError(f"vqa: {len(predictions)} predictions for {len(answers)} questions' answers; give one each")
    _check_answers(answers)
    if types is None:
        types = [answer_type(own) for own in answers]
    elif len(types) != len(answers):
        raise UserError(f"vqa: {len(types)} answer types for {len(answers)} questions; give one each, or none at all")
    found = np.zeros(len(predictions))
    for i, (prediction, own) in enumerate(zip(predictions, answers, strict=True)):
        choose(f"types[{i}]", types[i], TYPES)
        prediction = normalize_answer(prediction)
        if normalize == "both":
            own = [normalize_answer(answer) for answer in own]
        elif len(set(own)) > 1:
            own = [strip_punctuation(answer) for answer in own]
        found[i] = agreement(sum(answer == prediction for answer in own), len(own))
    kinds = np.array(types)
    by_type = {f"accuracy_{kind}": float(found[kinds == kind].mean()) for kind in TYPES if (kinds == kind).any()}
    return VqaScores({"accuracy": float(found.mean())} | by_type, found, list(types))


def agreement(matches: int, people: int) -> float:
    """How right an answer is that `matches` of `people` gave; see `vqa_metrics`.

    The closed form of the mean over the subsets that leave one person out.
    """
    if people == 1:
        return float(matches)
    needed = min(_ENOUGH, people - 1)
    without_a_match = matches * min(1.0, max(matches - 1, 0) / needed)
    return (without_a_match + (people - matches) * min(1.0, matches / needed)) / people


def normalize_answer(answer: str) -> str:
    """An answer as the official code compares it.

    White space at the ends goes, then `strip_punctuation`; lower case; "zero" (and "none") to "ten" become digits;
    articles go; contractions that lack an apostrophe get it back ("dont", but not "im" or "shes", which its table
    misses).
    """
    words = strip_punctuation(answer.replace("\n", " ").replace("\t", " ").strip()).lower().split()
    words = [_NUMBERS.get(word, word) for word in words]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def strip_punctuation(answer: str) -> str:
    """An answer without punctuation, by the official code.

    Each of its 21 marks is removed where it stands beside a space anywhere in the answer, and becomes a space
    otherwise; with a comma between digits anywhere every mark is removed. Then periods go that no digit follows, at
    most 32 of them.
    """
    text = answer
    within_number = _DIGIT_COMMA.search(answer) is not None
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if beside_space or within_number else " ")
    return _PERIOD.sub("", text, count=_PERIODS)


def answer_type(answers: Sequence[str]) -> str:
    """The type of a question by its most frequent answer, the first of several.

    "yes/no" for yes or no, "number" for digits (also with a period or comma) after normalisation, "other" for the rest.
    The data's own types, which people chose by the question too, differ for few questions; prefer them.
    """
    best = majority(answers)
    if best in ("yes", "no"):
        return "yes/no"
    return "number" if re.fullmatch(r"\d+(?:[.,]\d+)*", best, re.ASCII) else "other"


def majority(answers: Sequence[str]) -> str:
    """The most frequent answer after normalisation, the first of several."""
    return Counter(map(normalize_answer, answers)).most_common(1)[0][0]


def build_vocabulary(answers: Sequence[Sequence[str]], min_count: int = 9) -> list[str]:
    """The answers that a classifier chooses from: those that are the majority of at least `min_count` questions.

    From VQA v2's training and validation questions nine make the usual 3,129 answers (Teney et al. 2018, ViLT).

    Args:
      answers: what people answered, one or more a question.
      min_count: of questions.

    Returns:
      Normalised answers in order of first appearance.

    Raises:
      UserError: a question without answers, or no answer is that frequent.
    """
    _check_answers(answers)
    counts = Counter(map(majority, answers))
    vocabulary = [answer for answer, count in counts.items() if count >= min_count]
    if not vocabulary:
        most = max(counts.values(), default=0)
        raise UserError(
            f"min_count={min_count}: the most frequent answer is the majority of {most} questions; lower it"
        )
    return vocabulary


def soft_scores(answers: Sequence[str], vocabulary: Sequence[str]) -> Float32[np.ndarray, " A"]:
    """Training targets of one question: how right every answer of the vocabulary is.

    Of ten answers these are ViLT's 0, 0.3, 0.6, 0.9 and 1, for binary cross-entropy with each answer by itself. The
    answers are normalised; those outside the vocabulary are left out, so all may be zero: ViLT leaves out such
    questions.

    Raises:
      UserError: no answers.
    """
    _check_answers([answers])
    counts = Counter(map(normalize_answer, answers))
    return np.array([agreement(counts[answer], len(answers)) for answer in vocabulary], np.float32)


def _check_answers(answers: Sequence[Sequence[str]]) -> None:
    for i, own in enumerate(answers):
        if isinstance(own, str):
            raise UserError(f"vqa: answers[{i}]={own!r} is a string; expected a list of answers to each question")
        if not len(own):
            raise UserError(f"vqa: answers[{i}] is empty; every question needs an answer")
