"""Answers to questions about images: lists of them, and how right each one is by VQA v2's rule."""

import collections
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float32

from mmjax.data.patterns import reason
from mmjax.data.reading import Reader
from mmjax.errors import UserError

HUMANS = 10  # who answered each question of VQA v2
MAX_ANSWERS = 3129  # the usual size of VQA v2's list

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def tidy(answer: str) -> str:
    """An answer as it is looked up in a list: lower case, whitespace collapsed, no full stop at its end."""
    return " ".join(answer.lower().split()).removesuffix(".").rstrip()


def soft_scores(answers: Sequence[str], places: Mapping[str, int]) -> Float32[np.ndarray, " A"]:
    """How right each answer of a list is, by VQA v2's rule (Antol et al. 2015).

    The rule counts an answer as right when three of the other people gave it: the mean over all subsets that leave one
    person out of min(1, matches / 3). Of ten people, 1, 2, 3, 4 and more who gave it make 0.3, 0.6, 0.9 and 1.

    Args:
      answers: what people answered, with repetitions.
      places: the list: each answer, as `tidy` writes it, with its place.
    """
    scores = np.zeros(len(places), np.float32)
    people = len(answers)
    for answer, count in collections.Counter(map(tidy, answers)).items():
        if answer in places:
            left_out = count * min(1.0, (count - 1) / 3) + (people - count) * min(1.0, count / 3)
            scores[places[answer]] = left_out / people
    return scores


def answer_places(names: Sequence[str]) -> dict[str, int]:
    """Where each answer of a list stands, for `soft_scores`."""
    return {tidy(name): place for place, name in enumerate(names)}


def answer_type(answers: Sequence[str]) -> str:
    """`yes/no`, `number` or `other`: the kind of the answer that most people gave."""
    most = main_answer(answers)
    return "yes/no" if most in ("yes", "no") else "number" if _NUMBER.fullmatch(most) else "other"


def main_answer(answers: Sequence[str]) -> str:
    """The answer that most people gave, tidied; of those given equally often, the one given first."""
    return collections.Counter(map(tidy, answers)).most_common(1)[0][0]


def common_answers(answers: Iterable[str], limit: int = MAX_ANSWERS) -> list[str]:
    """The most frequent answers, sorted; of those equally frequent at the limit, the first in the alphabet."""
    counts = collections.Counter(answers)
    return sorted(sorted(counts, key=lambda answer: (-counts[answer], answer))[:limit])


def read_answers(path: str, *, field: str = "data.answers") -> tuple[str, ...]:
    """Reads a list of answers: a text file in UTF-8 with one a line. Blank lines are left out.

    Args:
      path: local or an fsspec URL.
      field: config field to name in errors.

    Raises:
      UserError: the file cannot be read, holds fewer than two answers, or one of them twice.
    """
    where = f"{field}={path!r}"
    try:
        text = Reader().read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{where}: cannot be read ({reason(error)}); give a file with one answer a line") from error
    seen: dict[str, int] = {}
    for line, content in enumerate(text.splitlines(), start=1):
        answer = tidy(content)
        if answer in seen:
            raise UserError(f"{where}: line {line}, {answer!r}, is line {seen[answer]} again; name it once")
        if answer:
            seen[answer] = line
    if len(seen) < 2:
        raise UserError(f"{where}: {len(seen)} answers leave nothing to choose from; write one answer a line")
    return tuple(seen)
