"""Answers to questions about images: VQA v2's normalisation and rule, and lists of answers to choose from.

Normalisation is that of the challenge's evaluation code (Antol et al. 2015, Goyal et al. 2017), its oddities included,
because published numbers have them; training and evaluation look answers up by the same one.
"""

import collections
import functools
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float32

from mmjax.errors import UserError
from mmjax.io.patterns import error_reason
from mmjax.io.reader import Reader

HUMANS = 10  # who answered each question of VQA v2
MAX_ANSWERS = 3129  # the usual size of VQA v2's list

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*", re.ASCII)
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


def _without_one_apostrophe(word: str) -> list[str]:
    return [word[:i] + word[i + 1 :] for i, letter in enumerate(word) if letter == "'"]


# Each word lacking one of its apostrophes gets it back. The official table has one entry the wrong way round.
_CONTRACTIONS = {misspelt: word for word in _APOSTROPHES for misspelt in _without_one_apostrophe(word)} | {
    "somebody'd": "somebodyd"
}


def agreement(matches: int, people: int) -> float:
    """How right an answer is that `matches` of `people` gave, by VQA v2's rule.

    It counts as min(1, n / 3) where n people gave it, averaged over the subsets that leave one person out; this is the
    closed form. Of fewer than four people all others must agree instead of three, and a single one must be met.
    """
    if people == 1:
        return float(matches)
    needed = min(_ENOUGH, people - 1)
    without_a_match = matches * min(1.0, max(matches - 1, 0) / needed)
    return (without_a_match + (people - matches) * min(1.0, matches / needed)) / people


def strip_answer(answer: str) -> str:
    """An answer on one line, without white space at its ends: all that the official code does where people agree."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


@functools.lru_cache(maxsize=1 << 16)
def normalize_answer(answer: str) -> str:
    """An answer as the official code compares it where people disagree; docs/evaluation.md lists every word.

    `strip_answer`, then `strip_punctuation`; lower case; words are what stands between white space; "none" and "zero"
    become "0", "one" to "ten" become "1" to "10"; "a", "an" and "the" go; a contraction that lacks one of its
    apostrophes gets it back ("dont", "couldnt've", but not "couldntve", nor "im" or "shes", which its table misses);
    "somebody'd" loses its own.
    """
    words = strip_punctuation(strip_answer(answer)).lower().split()
    words = [_NUMBERS.get(word, word) for word in words]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def strip_punctuation(answer: str) -> str:
    """An answer without punctuation, by the official code.

    Each of its 21 marks ; / [ ] " { } ( ) = + \\ _ - > < @ ` , ? ! is removed everywhere where it stands beside a space
    anywhere in the answer, and becomes a space otherwise; with a comma between two digits anywhere every mark is
    removed. Then periods go that no digit follows, the first 32 of them. Other marks stay: ' : $ % & * # and more.
    """
    text = answer
    within_number = _DIGIT_COMMA.search(answer) is not None
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if beside_space or within_number else " ")
    return _PERIOD.sub("", text, count=_PERIODS)


def answer_key(answer: str) -> str:
    """An answer as it is looked up in a list: normalised, unless nothing is left of it ("A" of a choice of letters)."""
    return normalize_answer(answer) or " ".join(answer.lower().split())


def soft_scores(answers: Sequence[str], index: Mapping[str, int]) -> Float32[np.ndarray, " A"]:
    """Training targets of a question: how right each answer of a list is, see `agreement`.

    Of ten people, 1, 2, 3, 4 and more who gave an answer make 0.3, 0.6, 0.9 and 1, as in ViLT, for binary cross-entropy
    with each answer by itself. Answers outside the list are left out, so all may be zero. ViLT's `write_vqa.py`
    normalises the list alone and counts people's answers as they are written; here both are normalised, so that
    spellings of one answer count together ("two" three times and "2" once make 1, there 0.3).

    Args:
      answers: what people answered, with repetitions.
      index: of each answer in the list, as `answer_key` writes it.
    """
    scores = np.zeros(len(index), np.float32)
    for answer, count in collections.Counter(map(answer_key, answers)).items():
        if answer in index:
            scores[index[answer]] = agreement(count, len(answers))
    return scores


def answer_index(names: Sequence[str]) -> dict[str, int]:
    """The index of each answer in a list, for `soft_scores`.

    Raises:
      UserError: two of them are one answer once they are normalised.
    """
    index: dict[str, int] = {}
    for i, name in enumerate(names):
        first = index.setdefault(answer_key(name), i)
        if first != i:
            raise UserError(f"data.answers: {names[first]!r} and {name!r} are one answer; name it once")
    return index


def answer_type(answers: Sequence[str]) -> str:
    """`yes/no`, `number` or `other`: the kind of the answer that most people gave; "three" is a number, too.

    VQA v2's own types, which people chose by the question too, differ for few questions; prefer them.
    """
    most = main_answer(answers)
    return "yes/no" if most in ("yes", "no") else "number" if _NUMBER.fullmatch(most) else "other"


def main_answer(answers: Sequence[str]) -> str:
    """The answer that most people gave, normalised; of those given equally often, the one given first.

    Blank answers count as people, not as an answer.
    """
    counts = collections.Counter(filter(None, map(answer_key, answers)))
    return counts.most_common(1)[0][0] if counts else ""


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
        raise UserError(
            f"{where}: cannot be read ({error_reason(error)}); give a file with one answer a line"
        ) from error
    seen: dict[str, int] = {}
    for line, content in enumerate(text.splitlines(), start=1):
        answer = answer_key(content)
        if answer in seen:
            raise UserError(f"{where}: line {line}, {answer!r}, is line {seen[answer]} again; name it once")
        if answer:
            seen[answer] = line
    if len(seen) < 2:
        raise UserError(f"{where}: {len(seen)} answers leave nothing to choose from; write one answer a line")
    return tuple(seen)
