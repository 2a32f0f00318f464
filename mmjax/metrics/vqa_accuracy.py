"""The official accuracy of VQA v2.

Accuracy is that of the challenge's evaluation code (Antol et al. 2015, Goyal et al. 2017), its oddities included,
because published numbers have them: GT-Vision-Lab/VQA as it is since 2021 (commit a013f00). Ten people answered each
question there; other numbers of answers are scored by the same rule. Words and marks are in `vqa_answers`, since
training looks answers up by them; docs/evaluation.md writes the whole rule out.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from mmjax.errors import UserError, validate_choice
from mmjax.metrics.vqa_answers import (
    agreement,
    answer_key,
    answer_type,
    normalize_answer,
    strip_answer,
    strip_punctuation,
)

RULES = ("official", "official_before_2021", "both")
TYPES = ("yes/no", "number", "other")


@dataclasses.dataclass(frozen=True)
class VqaScores:
    """Scores of predictions: `metrics` as in `vqa_metrics`, every question's accuracy [N] and its answer type."""

    metrics: dict[str, float]
    accuracies: Float64[np.ndarray, " N"]
    types: list[str]


def vqa_metrics(
    predictions: Sequence[Any],
    answers: Sequence[Any],
    types: Sequence[Any] | None = None,
    *,
    normalize: str = "official",
) -> dict[str, float]:
    """VQA accuracy, over all questions and by type of answer.

    An answer is as right as `agreement` says: of ten people, 0, 1, 2, 3, 4 or more who gave it make 0, 0.3, 0.6, 0.9
    or 1.

    Args:
      predictions: one answer a question, as strings.
      answers: people's answers, one or more a question.
      types: each question's answer type: "yes/no", "number" or "other" in VQA v2, or any of the data's own; inferred
        by `answer_type` when None.
      normalize: how answers are changed before they are compared.
        "official": white space at the ends goes (`strip_answer`); then, where people's answers are not all equal,
        prediction and answers go through `normalize_answer`; where they are, nothing else is done to either, so
        "Black." misses ten times "black".
        "official_before_2021": the challenge's code before its commit a013f00, and LAVIS's copy of it: the prediction
        always by `normalize_answer`, people's answers by `strip_punctuation` and only where they are not all equal.
        "both": `answer_key` for both, always: for answers of your own, which nobody has normalised ("Two", ten times,
        would never be met otherwise).

    Returns:
      `accuracy`, and of the types that occur `accuracy_yes/no`, `accuracy_number`, `accuracy_other`, then other ones by
      name; in [0, 1]. Each is a mean over its questions of what `agreement` gives, the mean over the subsets of people.

    Raises:
      UserError: no questions, numbers of predictions, answers and types that differ, a question without answers, one
        of them that is no string, or an unknown `normalize`.
    """
    return score_answers(predictions, answers, types, normalize=normalize).metrics


def score_answers(
    predictions: Sequence[Any],
    answers: Sequence[Any],
    types: Sequence[Any] | None = None,
    *,
    normalize: str = "official",
) -> VqaScores:
    """`vqa_metrics` with every question's accuracy and type."""
    validate_choice("normalize", normalize, RULES)
    if isinstance(predictions, str):
        raise UserError(f"vqa: predictions={predictions!r} is a string; give a list with an answer to each question")
    if not len(predictions) or len(predictions) != len(answers):
        raise UserError(f"vqa: {len(predictions)} predictions for {len(answers)} questions' answers; give one each")
    _check_strings("predictions", predictions)
    _check_answers(answers)
    if types is None:
        types = [answer_type(people) for people in answers]
    elif len(types) != len(answers):
        raise UserError(f"vqa: {len(types)} answer types for {len(answers)} questions; give one each, or none at all")
    _check_strings("types", types)
    compared = _COMPARED[normalize]
    accuracies = np.zeros(len(predictions))
    for i, (prediction, people) in enumerate(zip(predictions, answers, strict=True)):
        prediction, people = compared(prediction, people)
        accuracies[i] = agreement(sum(answer == prediction for answer in people), len(people))
    kinds = np.array(types)
    present = [kind for kind in TYPES if (kinds == kind).any()] + sorted(set(types) - set(TYPES))
    by_type = {f"accuracy_{kind}": float(accuracies[kinds == kind].mean()) for kind in present}
    return VqaScores({"accuracy": float(accuracies.mean())} | by_type, accuracies, list(types))


def _official(prediction: str, answers: Sequence[str]) -> tuple[str, list[str]]:
    prediction, answers = strip_answer(prediction), [strip_answer(answer) for answer in answers]
    if len(set(answers)) == 1:
        return prediction, answers
    return normalize_answer(prediction), [normalize_answer(answer) for answer in answers]


def _official_before_2021(prediction: str, answers: Sequence[str]) -> tuple[str, list[str]]:
    if len(set(answers)) == 1:
        return normalize_answer(prediction), list(answers)
    return normalize_answer(prediction), [strip_punctuation(answer) for answer in answers]


def _both(prediction: str, answers: Sequence[str]) -> tuple[str, list[str]]:
    return answer_key(prediction), [answer_key(answer) for answer in answers]


# What is compared, by rule.
_COMPARED: dict[str, Callable[[str, Sequence[str]], tuple[str, list[str]]]] = dict(
    zip(RULES, (_official, _official_before_2021, _both), strict=True)
)


def _check_answers(answers: Sequence[Any]) -> None:
    for i, people in enumerate(answers):
        if isinstance(people, str):
            raise UserError(f"vqa: answers[{i}]={people!r} is a string; expected a list of answers to each question")
        if not isinstance(people, Sequence | np.ndarray):
            raise UserError(f"vqa: answers[{i}]={people!r} is no list; expected a list of answers to each question")
        if not len(people):
            raise UserError(f"vqa: answers[{i}] is empty; every question needs an answer")
        _check_strings(f"answers[{i}]", people)


def _check_strings(name: str, values: Iterable[Any]) -> None:
    for i, value in enumerate(values):
        if not isinstance(value, str):
            raise UserError(f"vqa: {name}[{i}]={value!r} is no string; write it as one, such as {str(value)!r}")
