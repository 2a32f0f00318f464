"""VQA v2: the official accuracy.

Accuracy is that of the challenge's evaluation code (Antol et al. 2015, Goyal et al. 2017), its oddities included,
because published numbers have them. Ten people answered each question there; other numbers of answers are scored by the
same rule. It is in `mmjax.data.answers`, since training aims at it.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from mmjax.data.answers import agreement, answer_key, answer_type, normalize_answer, strip_punctuation
from mmjax.errors import UserError, choose

TYPES = ("yes/no", "number", "other")


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

    An answer is as right as `agreement` says: of ten people, 0, 1, 2, 3, 4 or more who gave it make 0, 0.3, 0.6, 0.9
    or 1.

    Args:
      predictions: one answer a question. answers: what people answered, one or more a question. types: each question's
        answer type: "yes/no", "number" or "other" in VQA v2, or any of the data's own; inferred by `answer_type` when
        not given. normalize: "official": the prediction by `normalize_answer`, people's answers by `strip_punctuation`,
        and only where they are not all equal, as the official code does: VQA v2's are stored without articles and
        number words. "both": `answer_key` for both, for answers that nobody normalised before ("two" would never be met
        otherwise).

    Returns:
      `accuracy`, and of the types that occur `accuracy_yes/no`, `accuracy_number`, `accuracy_other`, then other ones by
      name; in [0, 1].

    Raises:
      UserError: no questions, numbers of predictions, answers and types that differ, a question without answers, or an
        unknown `normalize`.
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
        prediction = answer_key(prediction) if normalize == "both" else normalize_answer(prediction)
        if normalize == "both":
            own = [answer_key(answer) for answer in own]
        elif len(set(own)) > 1:
            own = [strip_punctuation(answer) for answer in own]
        found[i] = agreement(sum(answer == prediction for answer in own), len(own))
    kinds = np.array(types)
    there = [kind for kind in TYPES if (kinds == kind).any()] + sorted(set(types) - set(TYPES))
    by_type = {f"accuracy_{kind}": float(found[kinds == kind].mean()) for kind in there}
    return VqaScores({"accuracy": float(found.mean())} | by_type, found, list(types))


def _check_answers(answers: Sequence[Sequence[str]]) -> None:
    for i, own in enumerate(answers):
        if isinstance(own, str):
            raise UserError(f"vqa: answers[{i}]={own!r} is a string; expected a list of answers to each question")
        if not len(own):
            raise UserError(f"vqa: answers[{i}] is empty; every question needs an answer")
