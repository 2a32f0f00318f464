"""VQA accuracy by the challenge's rule of today, against docs/evaluation.md read word by word."""

import itertools
import random
import re

import numpy as np
import pytest

from mmjax.metrics import vqa_accuracy
from mmjax.metrics.vqa_answers import normalize_answer
from tests.helpers import runs

DOCS = (runs.ROOT / "docs/evaluation.md").read_text().split("### VQA accuracy")[1]
MARKS = re.search(r"each of ``(.+?)`` is deleted", DOCS)[1].split()
WORDS = DOCS.split("```text\n")[1].split("```")[0].split()
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {name: str(number) for number, name in enumerate(NAMES)}


def repaired():
    """What a word becomes, by the word it becomes: each of the documented words, and its spellings."""
    table = {}
    for word in WORDS:
        pieces = word.split("'")
        for joint in range(1, len(pieces)):
            left, right = "'".join(pieces[:joint]), "'".join(pieces[joint:])
            table[left + right] = word
    return {**table, "somebody'd": "somebodyd"}


CONTRACTIONS = repaired()


def written_out(text):
    """Step 3 of the rule, letter by letter."""
    number = any(
        a.isdecimal() and comma == "," and b.isdecimal() for a, comma, b in zip(text, text[1:], text[2:], strict=False)
    )
    pairs = set(zip(text, text[1:], strict=False))
    letters = []
    for letter in text:
        if letter not in MARKS:
            letters.append(letter)
        elif not number and (letter, " ") not in pairs and (" ", letter) not in pairs:
            letters.append(" ")
    kept, periods = [], 0
    for letter, following in itertools.pairwise([*letters, ""]):
        if letter == "." and not following.isdecimal() and periods < 32:
            periods += 1
        else:
            kept.append(letter)
    words = []
    for word in "".join(kept).lower().split():
        word = "0" if word == "none" else NUMBERS.get(word, word)
        if word not in ("a", "an", "the"):
            words.append(CONTRACTIONS.get(word, word))
    return " ".join(words)


def accuracy(prediction, people):
    """The whole rule: each person is left out in turn."""
    prediction, *people = (text.translate({10: " ", 9: " "}).strip() for text in (prediction, *people))
    if any(answer != people[0] for answer in people):
        prediction, *people = map(written_out, (prediction, *people))
    scores = []
    for out in range(len(people)):
        met = sum(answer == prediction for person, answer in enumerate(people) if person != out)
        scores.append(1.0 if met >= 3 else met / 3)
    return sum(scores) / len(scores)


CASES = [
    ("ocean", {"the ocean": 8, "sea": 2}, 1.0),
    ("two", {"two": 9, "three": 1}, 1.0),
    ("Black.", {"black": 10}, 0.0),
    ("the ocean", {"the ocean": 10}, 1.0),
    ("a", {"a": 10}, 1.0),
    ("red", {"red ": 5, "blue": 5}, 1.0),
    ("none", {"none": 1, "2": 9}, 0.3),
    ("don't walk", {"dont walk": 9, "stop": 1}, 1.0),
    ("yes", {"Yes": 9, "no": 1}, 1.0),
    ("red\n", {" red": 4, "red\t": 6}, 1.0),  # equal once they are stripped
    ("Yes", {"yes": 5, "yes ": 5}, 0.0),  # so nothing is normalised
    ("couldnt've", {"couldn'tve": 3, "couldn't've": 1, "no": 6}, 1.0),
    ("", {"the": 2, "": 1, "no": 7}, 0.9),
]


@pytest.mark.parametrize(("prediction", "counts", "expected"), CASES)
def test_cases_of_the_challenges_code(prediction, counts, expected):
    people = [answer for answer, count in counts.items() for _ in range(count)]
    assert vqa_accuracy.vqa_metrics([prediction], [people], ["other"])["accuracy"] == pytest.approx(expected, abs=1e-12)
    assert accuracy(prediction, people) == pytest.approx(expected, abs=1e-12)


def random_answer(rng):
    """Two or three pieces out of which the rule makes something else, put together in some way."""
    kinds = (
        lambda: rng.choice(list(CONTRACTIONS) + WORDS),
        lambda: rng.choice([*NUMBERS, "none", "0", "2", "1,000", "3.5", "5.", ".5", "1,a", "10:30", "u.s."]),
        lambda: rng.choice(["a", "an", "the", "The", "A", "ocean", "Black", "black", "t-shirt", "it's", "$", "'", "é"]),
        lambda: rng.choice([*MARKS, ".", "...", ":", "%"]),
    )
    pieces = [rng.choice(kinds)() for _ in range(rng.randint(1, 3))]
    text = pieces[0]
    for piece in pieces[1:]:
        text += rng.choice(["", " ", " ", "  ", "\t", "\n"]) + piece
    return rng.choice(["", "", "", " "]) + text + rng.choice(["", "", "", " ", "\n", ".", "." * 40])


def respelled(rng, answer):
    """The same answer as another person may have written it, mostly."""
    ways = (
        lambda text: text,
        lambda text: text,
        str.upper,
        str.strip,
        lambda text: f"the {text}",
        lambda text: f"{text}.",
        lambda text: text.replace("'", "", 1),
        lambda text: f"{text}!",
        written_out,
    )
    return rng.choice(ways)(answer)


def test_random_answers_score_as_by_the_rule_written_out():
    rng = random.Random(12)
    predictions, people = [], []
    for _ in range(2000):
        base = [random_answer(rng) for _ in range(rng.randint(1, 3))]
        same = rng.random() < 0.15
        people.append(base[:1] * 10 if same else [respelled(rng, rng.choice(base)) for _ in range(10)])
        predictions.append(respelled(rng, rng.choice(base)))
    kinds = [rng.choice(vqa_accuracy.TYPES) for _ in predictions]
    scores = vqa_accuracy.score_answers(predictions, people, kinds)
    expected = np.array([accuracy(*pair) for pair in zip(predictions, people, strict=True)])
    np.testing.assert_allclose(scores.accuracies, expected, atol=1e-12)
    assert {0, 3, 6, 9, 10} <= set(np.round(10 * expected).astype(int))  # every score occurs
    for kind in vqa_accuracy.TYPES:
        chosen = np.array(kinds) == kind
        assert scores.metrics[f"accuracy_{kind}"] == pytest.approx(expected[chosen].mean(), abs=1e-12)
    before = vqa_accuracy.score_answers(predictions, people, kinds, normalize="official_before_2021").accuracies
    assert (before != scores.accuracies).sum() > 100  # the test reaches what the two rules differ in
    texts = [text for answers in people for text in answers]
    assert [normalize_answer(text) for text in texts] == [
        written_out(text.translate({10: " ", 9: " "}).strip()) for text in texts
    ]


def test_the_rule_before_2021_keeps_its_name_and_numbers():
    old = {"normalize": "official_before_2021"}
    assert vqa_accuracy.vqa_metrics(["two"], [["two"] * 9 + ["three"]], ["other"], **old)["accuracy"] == 0
    assert vqa_accuracy.vqa_metrics(["Black."], [["black"] * 10], ["other"], **old)["accuracy"] == 1
    assert vqa_accuracy.vqa_metrics(["red"], [["red "] * 5 + ["blue"] * 5], ["other"], **old)["accuracy"] == 0
    assert vqa_accuracy.vqa_metrics(["yes"], [["yes."] * 9 + ["no"]], ["other"], **old)["accuracy"] == 1


def test_docs_name_every_word_that_is_changed():
    assert len(WORDS) == len(set(WORDS)) and len(MARKS) == 21
    changed = {lacking for lacking, word in CONTRACTIONS.items() if normalize_answer(lacking) == word}
    assert changed == set(CONTRACTIONS) and len(changed) == 114
