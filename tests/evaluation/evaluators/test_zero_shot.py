"""Prompts per class, prompts in parts, several labels an image."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from mmjax.errors import UserError
from mmjax.evaluation.evaluators import zero_shot
from mmjax.metrics import classification

EMBEDDINGS = {}


def embed(texts):
    rng = np.random.default_rng(0)
    for i in range(100):
        EMBEDDINGS.setdefault(f"prompt {i}", rng.normal(size=6).astype(np.float32))
    return np.stack([EMBEDDINGS[text] for text in texts])


def test_every_class_may_have_prompts_of_its_own(monkeypatch):
    prompts_by_class = {
        "cat": ["prompt 1", "prompt 2", "prompt 3"],
        "dog": ["prompt 4"],
        "cow": ["prompt 5", "prompt 1"],
    }
    result = zero_shot.zero_shot_weights(embed, ["dog", "cow", "cat"], prompts_by_class)
    for row, name in zip(result, ["dog", "cow", "cat"], strict=True):
        unit = [v / np.linalg.norm(v) for v in embed(prompts_by_class[name]).astype(np.float64)]
        mean = np.mean(unit, axis=0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), rtol=1e-6)
    # However the prompts are divided over calls, no class's are taken apart and nothing changes.
    for size in (1, 2, 4):
        calls = []
        monkeypatch.setattr(zero_shot, "_PROMPTS_PER_CALL", size)
        noted = lambda texts, calls=calls: calls.append(len(texts)) or embed(texts)
        np.testing.assert_array_equal(
            zero_shot.zero_shot_weights(noted, ["dog", "cow", "cat"], prompts_by_class), result
        )
        assert calls == {1: [1, 2, 3], 2: [1, 2, 3], 4: [3, 3]}[size]


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ({"cats": ["prompt 1"], "dog": ["prompt 2"]}, r"class 'cat' has no prompts \(did you mean 'cats'\?\)"),
        ({"cat": [], "dog": ["prompt 2"]}, "class 'cat' has no prompts"),
        ({"cat": "prompt 1", "dog": ["prompt 2"]}, "are one string; give a list"),
        ({}, "^templates: .*at least one"),
    ],
)
def test_classes_without_prompts_are_named(templates, message):
    with pytest.raises(UserError, match=message):
        zero_shot.zero_shot_weights(embed, ["cat", "dog"], templates)


@pytest.mark.parametrize("block", [1, 7, 4096])
def test_images_are_classified_in_blocks_without_a_difference(monkeypatch, block):
    monkeypatch.setattr(zero_shot, "_IMAGES_PER_BLOCK", block)
    images, labels = np.random.default_rng(1).normal(size=(50, 6)), np.random.default_rng(2).integers(0, 8, 50)
    names = {str(i): [f"prompt {i}", f"prompt {i + 20}"] for i in range(9)}
    result = zero_shot.evaluate_zero_shot(images, labels, embed_texts=embed, class_names=list(names), templates=names)
    scores = images @ zero_shot.zero_shot_weights(embed, list(names), names).T.astype(np.float64)
    np.testing.assert_array_equal(result.predictions, scores.argmax(axis=1))
    f1 = classification.macro_f1(result.confusion)
    assert result.metrics == classification.classification_metrics(scores, labels) | {"macro_f1": f1}


def test_average_precision_of_several_labels_is_that_of_scikit_learn():
    rng = np.random.default_rng(3)
    scores, targets = rng.normal(size=(200, 8)), rng.random((200, 8)) < rng.random(8)
    targets[:, 5] = False  # a class without images has no average precision
    seen = np.flatnonzero(targets.any(axis=0))
    expected = np.mean([average_precision_score(targets[:, c], scores[:, c]) for c in seen])
    assert classification.multilabel_metrics(scores, targets)["mean_average_precision"] == pytest.approx(expected)
    assert 5 not in seen


def test_average_precision_with_ties_takes_the_lower_image_first():
    for seed in range(100):
        rng = np.random.default_rng(seed)
        scores, targets = rng.integers(0, 3, (12, 4)).astype(np.float32), rng.random((12, 4)) < 0.4
        targets[0] = True
        result = []
        for c in range(4):
            right = [bool(targets[i, c]) for i in sorted(range(12), key=lambda i, c=c: (-scores[i, c], i))]
            result.append(np.mean([np.mean(right[: n + 1]) for n in range(12) if right[n]]))
        assert classification.multilabel_metrics(scores, targets)["mean_average_precision"] == pytest.approx(
            np.mean(result)
        )


def test_several_labels_need_scores_and_some_target():
    with pytest.raises(ValueError, match="show some class"):
        classification.multilabel_metrics(np.zeros((3, 2)), np.zeros((3, 2), bool))
    with pytest.raises(ValueError, match="not finite"):
        classification.multilabel_metrics(np.full((3, 2), np.inf), np.ones((3, 2), bool))
