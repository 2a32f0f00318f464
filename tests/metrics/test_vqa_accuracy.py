"""VQA accuracy against a brute force of leaving one person out, and normalisation against the public code's outputs."""

import random

import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.metrics import classification, vqa_accuracy
from mmjax.metrics.vqa_answers import agreement, normalize_answer

# Outputs of LAVIS's VQAEval.processDigitArticle(processPunctuation(text.strip())), salesforce-lavis 1.0.2.
NORMALIZED = {
    "Yes.": "yes",
    "A red dog": "red dog",
    "Two": "2",
    "none": "0",
    "1,000 people": "1000 people",
    "3.5": "3.5",
    "5.": "5",
    "black/white": "black white",
    "black / white": "black white",
    "t-shirt": "t shirt",
    "dont know": "don't know",
    "couldn'tve": "couldn't've",
    "Im here": "im here",
    "shes": "shes",
    "somebody'd": "somebodyd",
    "u.s.": "us",
    "blue, green": "blue green",
    "blue,green": "blue green",
    "(left)": "left",
    "wow!": "wow",
    "10:30": "10:30",
    "the": "",
    "50%": "50%",
    "$5": "$5",
    "it's a-b 1,2": "it's ab 12",
    "........................................": "........",
    "new\nyork\tcity": "new york city",
    "twas ten": "'twas 10",
    " no ": "no",
    "man's": "man's",
    "a.m.": "am",
}


@pytest.mark.parametrize("text", NORMALIZED)
def test_answers_are_normalised_as_by_the_public_code(text):
    assert normalize_answer(text) == NORMALIZED[text]


def leave_one_out(prediction, answers):
    scores = []
    for i in range(len(answers)):
        others = answers[:i] + answers[i + 1 :]
        scores.append(min(1, sum(other == prediction for other in others) / 3))
    return sum(scores) / len(scores)


@pytest.mark.parametrize("people", [4, 5, 10, 13])
def test_accuracy_is_the_mean_over_leaving_one_out(people):
    rng = random.Random(people)
    answers = [[rng.choice(["red", "blue", "dog"]) for _ in range(people)] for _ in range(100)]
    answers.append(["red"] * people)
    predictions = [rng.choice(["red", "blue", "cat"]) for _ in answers]
    scores = vqa_accuracy.score_answers(predictions, answers)
    expected = [leave_one_out(*pair) for pair in zip(predictions, answers, strict=True)]
    np.testing.assert_allclose(scores.accuracies, expected, atol=1e-12)
    assert scores.metrics["accuracy"] == pytest.approx(np.mean(expected))


def test_accuracy_of_ten_and_of_few_answers():
    assert [agreement(n, 10) for n in range(6)] == pytest.approx([0, 0.3, 0.6, 0.9, 1, 1])
    for people in (1, 2, 3):
        assert agreement(0, people) == 0 and agreement(people, people) == 1


def test_accuracy_by_type_of_answer():
    answers = [["yes"] * 10, ["2"] * 10, ["red"] * 7 + ["blue"] * 3]
    results = vqa_accuracy.vqa_metrics(["yes", "three", "Blue."], answers)
    expected = {"accuracy": 1.9 / 3, "accuracy_yes/no": 1, "accuracy_number": 0, "accuracy_other": 0.9}
    assert results == pytest.approx(expected)
    assert vqa_accuracy.vqa_metrics(["yes"], answers[:1], ["other"]) == {"accuracy": 1, "accuracy_other": 1}
    results = vqa_accuracy.vqa_metrics(
        ["yes", "no", "2"], [["yes"], ["yes"], ["2"]], ["verify", "other", "count"]
    )  # a set's own types
    assert list(results.items())[1:] == [("accuracy_other", 0), ("accuracy_count", 1), ("accuracy_verify", 1)]


def test_answers_of_ones_own_are_normalised_on_request():
    assert vqa_accuracy.vqa_metrics(["2"], [["Two"]])["accuracy"] == 0  # the official code's way where people agree
    assert vqa_accuracy.vqa_metrics(["2"], [["Two"]], normalize="both")["accuracy"] == 1
    letters = vqa_accuracy.score_answers(
        ["A", "the"], [["a"], ["A"]], normalize="both"
    )  # of which nothing would be left
    assert letters.accuracies.tolist() == [1, 0]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([], []), "0 predictions"),
        ((["a"], [[]]), r"answers\[0\] is empty"),
        ((["a"], ["abc"]), "is a string"),
        (("a", [["a"]]), "predictions='a' is a string; give a list"),
        ((["a", 1], [["a"], ["1"]]), r"predictions\[1\]=1 is no string"),
        (([None], [["a"]]), r"predictions\[0\]=None is no string"),
        ((["a", "b"], [["a"], ["b", "c", 2.5]]), r"answers\[1\]\[2\]=2.5 is no string"),
        ((["a"], [[None]]), r"answers\[0\]\[0\]=None is no string"),
        ((["a"], [None]), r"answers\[0\]=None is no list"),
        ((["a"], [["a"]], [None]), r"types\[0\]=None is no string"),
        ((["a"], [["a"]], []), "0 answer types"),
    ],
)
def test_mistakes_are_told(arguments, message):
    for normalize in vqa_accuracy.RULES:
        with pytest.raises(UserError, match=message):
            vqa_accuracy.vqa_metrics(*arguments, normalize=normalize)


def test_matching_accuracy_of_logits_and_scores():
    labels = np.array([1, 0, 0, 0])
    logits = np.array([[0, 1], [1, 0], [0, 1], [2, 2]], np.float32)
    results = classification.matching_metrics(logits, labels)
    expected = {"itm_accuracy": 0.75, "itm_accuracy_match": 1, "itm_accuracy_mismatch": 2 / 3}
    assert results == pytest.approx(expected | {"itm_balanced_accuracy": 5 / 6})
    assert classification.matching_metrics(logits[:, 1] - logits[:, 0], labels == 1) == results
    assert "itm_accuracy_mismatch" not in classification.matching_metrics(logits[:1], labels[:1])
    with pytest.raises(ValueError, match="not finite"):
        classification.matching_metrics(logits * np.nan, labels)
    with pytest.raises(ValueError, match=r"labels lie in \[0, 2\]"):
        classification.matching_metrics(logits, 2 * labels)


def test_perplexity_of_a_uniform_guess_is_the_vocabulary():
    assert classification.perplexity(7 * np.log(50), 7) == pytest.approx(50)
    assert classification.perplexity(1e6, 10) == np.finfo(np.float32).max  # JSON has no infinity
    with pytest.raises(ValueError, match="0 tokens"):
        classification.perplexity(0.0, 0)
