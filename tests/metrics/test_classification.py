"""Metrics against scikit-learn and against brute force in exact arithmetic."""

import numpy as np
import pytest
from sklearn import metrics as sk

from mmjax.evaluation.evaluators import retrieval
from mmjax.metrics import classification, exact_dot
from mmjax.metrics import ranks as ranks_lib

RECALLS = [f"{side}_retrieval_recall@{k}" for side in ("image", "text") for k in (1, 5, 10)]


def unit(rng, *shape):
    rows = rng.normal(size=shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def coarse(rng, *shape):
    """Embeddings of few small whole numbers: inner products are exact in any arithmetic, and ties abound."""
    return rng.integers(-1, 2, size=shape).astype(np.float32)


def brute_ranks(queries, gallery, positives):
    scores = queries.astype(np.float64) @ gallery.astype(np.float64).T
    ranks = []
    for row, items in zip(scores, positives, strict=True):
        order = sorted(range(len(gallery)), key=lambda g: (-row[g], g))
        ranks.append(min(order.index(g) for g in items) + 1)
    return np.array(ranks)


@pytest.mark.parametrize("classes", [3, 10])
def test_classification_agrees_with_scikit_learn(classes):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(500, classes)).astype(np.float32)
    labels = rng.integers(0, classes - 1, size=500)  # the last class has no examples
    result = classification.classification_metrics(scores, labels)
    predictions = scores.argmax(axis=1)
    assert result["acc1"] == pytest.approx(sk.accuracy_score(labels, predictions))
    with pytest.warns(UserWarning):
        assert result["mean_per_class_recall"] == pytest.approx(sk.balanced_accuracy_score(labels, predictions))
    if classes < 5:
        assert "acc5" not in result
    else:
        expected = sk.top_k_accuracy_score(labels, scores, k=5, labels=np.arange(classes))
        assert result["acc5"] == pytest.approx(expected)
    matrix = classification.confusion_matrix(predictions, labels, classes)
    np.testing.assert_array_equal(matrix, sk.confusion_matrix(labels, predictions, labels=np.arange(classes)))


def test_classification_ties_go_to_the_lower_class():
    constant = np.zeros((12, 6), np.float32)
    result = classification.classification_metrics(constant, np.arange(12) % 6)
    assert result == {"acc1": 1 / 6, "acc5": 5 / 6, "mean_per_class_recall": 1 / 6}


def reference(scores, labels):
    """scikit-learn's macro F1, one-vs-rest AUROC and average precision, of classes that it has a value for."""
    scores = scores.astype(np.float64)
    ordered = np.sort(scores, axis=1)  # equal scores in any order have equal probabilities
    exp = np.exp(scores - ordered[:, -1:])
    probabilities = exp / np.exp(ordered - ordered[:, -1:]).sum(axis=1, keepdims=True)
    targets = labels[:, None] == np.arange(scores.shape[1])
    shown = targets.any(axis=0)
    aurocs = [sk.roc_auc_score(t, p) for t, p in zip(targets.T, probabilities.T, strict=True) if 0 < t.mean() < 1]
    precisions = [
        sk.average_precision_score(t, p) for t, p in zip(targets.T[shown], probabilities.T[shown], strict=True)
    ]
    return {
        "macro_f1": sk.f1_score(labels, scores.argmax(axis=1), average="macro"),
        "auroc": np.mean(aurocs),
        "mean_average_precision": np.mean(precisions),
    }


@pytest.mark.parametrize("classes", [2, 3, 9])
@pytest.mark.parametrize("kind", ["ties", "real", "absent"])
def test_supervised_metrics_are_scikit_learns(classes, kind):
    for seed in range(6):
        rng = np.random.default_rng([seed, classes])
        scores = rng.normal(size=(80, classes)).astype(np.float32) * 3
        if kind != "real":
            scores = np.round(scores)
        labels = rng.integers(0, classes - (kind == "absent" and classes > 2), size=80)
        result = classification.supervised_metrics(scores, labels)
        expected = reference(scores, labels)
        assert {name: result[name] for name in expected} == pytest.approx(expected, abs=1e-12)
        assert result.items() >= classification.classification_metrics(scores, labels).items()
    if classes == 2:
        assert result["auroc"] == pytest.approx(sk.roc_auc_score(labels, scores[:, 1] - scores[:, 0]))
    if kind == "real":
        probabilities = np.exp(scores.astype(np.float64))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        with_two = probabilities if classes > 2 else probabilities[:, 1]
        assert result["auroc"] == pytest.approx(sk.roc_auc_score(labels, with_two, multi_class="ovr"))


def test_examples_that_are_sure_are_still_in_order():
    # softmax would give all of them 1.
    scores = np.array([[0, 50, 0], [0, 60, 0], [0, 70, 1], [80, 0, 0]], np.float32)
    odds = classification.log_odds(scores)
    assert odds[:, 1].tolist() == pytest.approx([50 - np.log(2), 60 - np.log(2), 69 - np.log1p(np.exp(-1)), -80])
    assert classification.supervised_metrics(scores, np.array([1, 0, 1, 0]))["auroc"] == 3 / 4


def test_metrics_without_a_rest_are_left_out():
    names = set(classification.supervised_metrics(np.zeros((4, 1), np.float32), np.zeros(4, np.int64)))
    assert names == {"acc1", "mean_per_class_recall", "macro_f1"}
    of_one = classification.supervised_metrics(np.eye(3, dtype=np.float32)[[1, 1]], np.array([1, 1]))
    assert "auroc" not in of_one and of_one["mean_average_precision"] == 1
    with pytest.raises(ValueError, match="macro F1 of no examples"):
        classification.macro_f1(np.zeros((2, 2), np.int64))


def test_classification_refuses_what_it_cannot_score():
    with pytest.raises(ValueError, match="not finite"):
        classification.classification_metrics(np.full((2, 3), np.nan, np.float32), np.array([0, 1]))
    with pytest.raises(ValueError, match=r"labels lie in \[0, 3\]"):
        classification.classification_metrics(np.zeros((2, 3), np.float32), np.array([0, 3]))
    with pytest.raises(ValueError, match="should be"):
        classification.classification_metrics(np.zeros((0, 3), np.float32), np.zeros(0, np.int64))


@pytest.mark.parametrize("block", [7, 64, 2048])
def test_ranks_with_ties_and_several_positives(block):
    rng = np.random.default_rng(1)
    queries, gallery = coarse(rng, 60, 4), coarse(rng, 150, 4)
    positives = [rng.choice(150, size=rng.integers(1, 6), replace=False) for _ in range(60)]
    expected = brute_ranks(queries, gallery, positives)
    np.testing.assert_array_equal(ranks_lib.retrieval_ranks(queries, gallery, positives, block=block), expected)
    csr = np.concatenate(positives), np.cumsum([0, *map(len, positives)])
    np.testing.assert_array_equal(ranks_lib.retrieval_ranks(queries, gallery, csr, block=block), expected)


def test_ranks_of_real_embeddings_agree_with_float64():
    rng = np.random.default_rng(2)
    queries, gallery = unit(rng, 80, 48), unit(rng, 300, 48)
    positives = [[q, q + 100] for q in range(80)]
    expected = brute_ranks(queries, gallery, positives)
    np.testing.assert_array_equal(ranks_lib.retrieval_ranks(queries, gallery, positives), expected)
    # Ranks do not depend on the scale of either side.
    np.testing.assert_array_equal(ranks_lib.retrieval_ranks(queries * 1e-3, gallery * 37, positives), expected)


def test_duplicates_tie_exactly_wherever_they_stand():
    rng = np.random.default_rng(3)
    base = unit(rng, 5, 512)
    gallery = base[np.arange(205) % 5]  # 41 copies of each row, at every place of a tile
    positives = [[q + 5 * 7] for q in range(5)]  # seven copies come before it
    for block in (1, 3, 16, 100, 1000):
        ranks = ranks_lib.retrieval_ranks(base, gallery, positives, block=block)
        np.testing.assert_array_equal(ranks, 8)
        indices, scores = exact_dot.top_matches(base, gallery, 4, block=block)
        np.testing.assert_array_equal(indices, np.arange(5)[:, None] + [0, 5, 10, 15])
        np.testing.assert_array_equal(scores, scores[:, :1].repeat(4, axis=1))


def test_top_matches_and_similarity_agree_with_float64():
    rng = np.random.default_rng(4)
    queries, gallery = unit(rng, 20, 64) * 3, unit(rng, 90, 64)
    right = queries.astype(np.float64) @ gallery.astype(np.float64).T
    np.testing.assert_allclose(exact_dot.similarity(queries, gallery, block=7), right, atol=3e-7)
    np.testing.assert_array_equal(
        exact_dot.similarity(queries, gallery, block=7), exact_dot.similarity(queries, gallery, block=2048)
    )
    for block in (8, 2048):
        indices, scores = exact_dot.top_matches(queries, gallery, 10, block=block)
        np.testing.assert_array_equal(indices, np.argsort(-right, axis=1)[:, :10])
        np.testing.assert_allclose(scores, -np.sort(-right, axis=1)[:, :10], atol=3e-7)
    assert exact_dot.top_matches(queries, gallery[:3], 10)[0].shape == (20, 3)


@pytest.mark.parametrize("sides", [(4, None), (None, 4), (2, 3)])
def test_the_score_of_several_vectors_is_the_largest(sides):
    rng = np.random.default_rng(5)
    queries, gallery = (
        unit(rng, count * (many or 1), 48).reshape(count, *([many] if many else []), 48)
        for count, many in zip((60, 170), sides, strict=True)
    )
    stretched = [x.reshape(len(x), -1, 48).astype(np.float64) for x in (queries, gallery)]
    right = np.einsum("qve,gwe->qgvw", *stretched).max(axis=(2, 3))
    for block in (9, 2048):
        np.testing.assert_allclose(exact_dot.similarity(queries, gallery, block=block), right, atol=3e-7)
        indices, _ = exact_dot.top_matches(queries, gallery, 10, block=block)
        np.testing.assert_array_equal(indices, np.argsort(-right, axis=1)[:, :10])
        positives = [[q, q + 100] for q in range(60)]
        expected = [1 + min((right[q] > right[q, p]).sum() for p in matching) for q, matching in enumerate(positives)]
        np.testing.assert_array_equal(ranks_lib.retrieval_ranks(queries, gallery, positives, block=block), expected)
    # Copies tie, wherever the vector stands that decides.
    turned = gallery[:, ::-1] if sides[1] else gallery
    both = np.concatenate([gallery, turned])
    ranks = ranks_lib.retrieval_ranks(queries, both, [[q + 170] for q in range(60)], block=50)
    matching = np.array([right[q, q] for q in range(60)])
    np.testing.assert_array_equal(ranks, 2 + 2 * (right > matching[:, None]).sum(axis=1))


@pytest.mark.parametrize("block", [6, 2048])
def test_a_constant_encoder_scores_exactly_chance(block):
    images = np.broadcast_to(unit(np.random.default_rng(5), 40), (40, 40))
    result = retrieval.retrieval_metrics(images, images, np.arange(40), block=block)
    for name in RECALLS:
        assert result[name] == int(name.partition("@")[2]) / 40
    assert result["image_retrieval_median_rank"] == result["text_retrieval_mean_rank"] == 20.5


def test_retrieval_with_several_captions_per_image():
    rng = np.random.default_rng(6)
    images = unit(rng, 30, 16)
    text_image = np.concatenate([np.arange(30), rng.integers(0, 30, size=70)])
    rng.shuffle(text_image)
    texts = images[text_image] + 1.5 * unit(rng, 100, 16)
    result = retrieval.retrieval_metrics(images, texts, text_image)
    ranks = {
        "image": brute_ranks(texts, images, [[i] for i in text_image]),
        "text": brute_ranks(images, texts, [np.flatnonzero(text_image == i) for i in range(30)]),
    }
    for side, expected in ranks.items():
        for k in (1, 5, 10):
            assert result[f"{side}_retrieval_recall@{k}"] == np.mean(expected <= k)
        assert result[f"{side}_retrieval_median_rank"] == np.median(expected)
        assert result[f"{side}_retrieval_mean_rank"] == pytest.approx(np.mean(expected))
    assert 0.2 < result["image_retrieval_recall@1"] < 1  # the test can see a difference


def test_images_with_equal_ids_share_their_texts():
    rng = np.random.default_rng(7)
    once = unit(rng, 4, 8)
    images, ids = once.repeat(3, axis=0), np.repeat(np.array([9, 2**64 - 1, 0, 5], np.uint64), 3)
    strict = retrieval.retrieval_metrics(images, images, np.arange(12))
    shared = retrieval.retrieval_metrics(images, images, np.arange(12), image_ids=ids)
    assert strict["image_retrieval_recall@1"] == strict["text_retrieval_recall@1"] == 1 / 3
    assert shared["image_retrieval_recall@1"] == shared["text_retrieval_recall@1"] == 1


def test_retrieval_refuses_what_it_cannot_rank():
    rows = np.eye(3, dtype=np.float32)
    with pytest.raises(ValueError, match="1 of 3 queries have no positive in the gallery, the first is query 2"):
        retrieval.retrieval_metrics(rows, rows[:2], np.array([0, 1]))
    with pytest.raises(ValueError, match="outside"):
        ranks_lib.retrieval_ranks(rows, rows, [[0], [1], [3]])
    with pytest.raises(ValueError, match="expected 3 queries"):
        ranks_lib.retrieval_ranks(rows, rows, [[0]])
    broken = rows.copy()
    broken[1, 1] = np.nan
    with pytest.raises(ValueError, match="gallery: 1 of 3 embeddings are not finite, the first at 1"):
        ranks_lib.retrieval_ranks(rows, broken, [[0], [1], [2]])
