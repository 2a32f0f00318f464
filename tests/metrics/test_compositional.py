"""Per-example metrics (Winoground, SugarCrepe, CLIPScore) by their definitions, and their intervals."""

import numpy as np
import pytest
import scipy.stats

from mmjax.evaluation.evaluators import retrieval
from mmjax.metrics import bootstrap, clip_score, compositional


def test_winoground_scores_are_those_of_the_paper():
    rng = np.random.default_rng(0)
    images, texts = (rng.integers(-2, 3, (300, 2, 3)).astype(np.float32) for _ in range(2))  # many ties
    right = {"text_acc": [], "image_acc": [], "acc": []}
    for i, t in zip(images, texts, strict=True):
        s = lambda caption, image, i=i, t=t: int(np.dot(t[caption], i[image]))
        text = s(0, 0) > s(1, 0) and s(1, 1) > s(0, 1)
        image = s(0, 0) > s(0, 1) and s(1, 1) > s(1, 0)
        for name, value in (("text_acc", text), ("image_acc", image), ("acc", text and image)):
            right[name].append(value)
    result = compositional.winoground_correct(compositional.winoground_scores(images, texts))
    for name, values in right.items():
        np.testing.assert_array_equal(result[name], values)
    assert 0 < np.mean(right["acc"]) < np.mean(right["text_acc"]) < 1


def test_a_constant_model_has_no_score():
    same = np.full((10, 2, 64), 0.125, np.float32)
    assert set(compositional.winoground_metrics(same, same).values()) == {0.0}
    assert compositional.sugarcrepe_metrics(same[:, 0], same[:, 0], same[:, 1])["acc"] == 0


def test_sugarcrepe_by_category():
    rng = np.random.default_rng(1)
    images, positives, negatives = rng.normal(size=(3, 90, 8))
    positives = images + positives
    categories = rng.choice(["swap_obj", "add_att", "replace_rel"], 90, p=[0.6, 0.3, 0.1]).tolist()
    right = [a @ b > a @ c for a, b, c in zip(images, positives, negatives, strict=True)]
    result = compositional.sugarcrepe_metrics(images, positives, negatives, categories)
    assert result["acc"] == np.mean(right)
    means = []
    for name in ("swap_obj", "add_att", "replace_rel"):
        means.append(np.mean([r for r, category in zip(right, categories, strict=True) if category == name]))
        assert result[f"acc_{name}"] == pytest.approx(means[-1])
    assert result["mean_category_acc"] == pytest.approx(np.mean(means))
    with pytest.raises(ValueError, match="1 categories for 90 examples"):
        compositional.sugarcrepe_metrics(images, positives, negatives, ["add_att"])


def test_clip_score_and_its_harmonic_mean_with_the_nearest_reference():
    images, captions = np.array([[2.0, 0], [0, 3], [1, 0], [1, 1]]), np.array([[4.0, 0], [0, -1], [1, 1], [1, 0]])
    half = 0.5**0.5
    np.testing.assert_allclose(clip_score.clip_scores(images, captions), [2.5, 0, 2.5 * half, 2.5 * half])
    references = [[[0, 1], [1, 0]], [[0, -2]], [[0, 7]], [[-1, 0], [-1, -1], [0, -1]]]
    result = clip_score.ref_clip_scores(images, captions, [np.array(rows, float) for rows in references])
    s = 2.5 * half
    np.testing.assert_allclose(result, [scipy.stats.hmean([2.5, 1]), 0, scipy.stats.hmean([s, half]), 0])
    with pytest.raises(ValueError, match="references for 3 of 4 captions"):
        clip_score.ref_clip_scores(images, captions, [np.ones((n, 2)) for n in (1, 0, 2, 1)])


def test_the_interval_is_that_of_scipy():
    values = np.random.default_rng(2).random(200) < 0.3
    result = bootstrap.bootstrap_interval(values, resamples=20000)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    assert result.value == values.mean()
    assert (result.low, result.high) == pytest.approx(expected, abs=0.006)
    values = np.random.default_rng(2).normal(size=50)
    result = bootstrap.bootstrap_interval(values, resamples=100)
    assert result == bootstrap.bootstrap_interval(values, resamples=100)
    assert result != bootstrap.bootstrap_interval(values, resamples=100, seed=1)


def test_any_statistic_resamples_as_the_mean_does(monkeypatch):
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_A_TIME", 1)
    values, groups = np.random.default_rng(4).normal(size=60), np.arange(60) // 4 % 13
    for chosen_groups in (None, groups):
        fast = bootstrap.bootstrap_interval(values, groups=chosen_groups, resamples=300)
        slow = bootstrap.bootstrap_interval(values, groups=chosen_groups, resamples=300, statistic=np.mean)
        assert (slow.value, slow.low, slow.high) == pytest.approx((fast.value, fast.low, fast.high))
    median = bootstrap.bootstrap_interval(values, resamples=300, statistic=np.median)
    assert median.low < median.value == np.median(values) < median.high


def test_captions_of_one_image_do_not_count_as_independent():
    values, groups = np.repeat(np.random.default_rng(5).random(100) < 0.5, 5), np.repeat(np.arange(100), 5)
    alone, together = (bootstrap.bootstrap_interval(values, groups=chosen_groups) for chosen_groups in (None, groups))
    ratio = (together.high - together.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(5**0.5, rel=0.15)


def test_recalls_are_resampled_by_image_with_its_captions():
    rng = np.random.default_rng(6)
    images, counts = rng.normal(size=(150, 8)).astype(np.float32), rng.integers(1, 5, 150)
    rows = {f"{i} {j}": images[i] + 1.5 * rng.normal(size=8) for i in range(150) for j in range(counts[i])}
    embed = lambda texts: np.stack([rows[text] for text in texts]).astype(np.float32)
    captions = [[f"{i} {j}" for j in range(counts[i])] for i in range(150)]
    result = retrieval.evaluate_retrieval(images, captions, embed_texts=embed)
    scores, owner = images @ embed(list(rows)).T, np.repeat(np.arange(150), counts)
    matching = scores[owner, np.arange(len(owner))]
    np.testing.assert_array_equal(result.image_ranks, 1 + (scores > matching).sum(axis=0))
    best = np.maximum.reduceat(matching, np.cumsum(counts) - counts)
    np.testing.assert_array_equal(result.text_ranks, 1 + (scores > best[:, None]).sum(axis=1))
    intervals = result.recall_intervals(np.arange(150), resamples=4000)
    hits = np.bincount(owner, weights=result.image_ranks <= 5)
    settings = dict(n_resamples=4000, method="percentile", rng=np.random.default_rng(7))
    ratio = lambda h, c, axis: h.sum(axis=axis) / c.sum(axis=axis)
    image = scipy.stats.bootstrap((hits, counts), ratio, paired=True, **settings).confidence_interval
    text = scipy.stats.bootstrap((result.text_ranks <= 5,), np.mean, **settings).confidence_interval
    for name, interval in (("image_retrieval_recall@5", image), ("text_retrieval_recall@5", text)):
        assert (intervals[f"{name}_low95"], intervals[f"{name}_high95"]) == pytest.approx(interval, abs=0.012)


@pytest.mark.parametrize("settings", [{"level": 1.0}, {"resamples": 0}])
def test_intervals_need_a_level_and_resamples(settings):
    with pytest.raises(ValueError, match="none may be 0"):
        bootstrap.bootstrap_interval(np.ones(3), **settings)
