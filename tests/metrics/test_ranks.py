"""Ranks of all positives against brute force, for any block size, and what is measured on them."""

import numpy as np
import pytest
from sklearn.metrics import label_ranking_average_precision_score

from mmjax.errors import UserError
from mmjax.evaluation.evaluators import retrieval
from mmjax.metrics import exact_dot
from mmjax.metrics import ranks as ranks_lib
from tests.helpers import brute_force_ranks


@pytest.fixture(params=["comparing", "sorting", "sorting exact products"])
def way(request, monkeypatch):
    """Each of the ways of ranking, forced."""
    monkeypatch.setattr(ranks_lib, "_FEW", 10**9 if request.param == "comparing" else 0)
    monkeypatch.setattr(ranks_lib, "_MAX_UNDECIDED", -1 if request.param == "sorting exact products" else 10**9)
    return request.param


def problem(seed):
    """Queries, gallery and positives of a random kind: coarse ones tie often, close ones by less than float32 shows."""
    rng = np.random.default_rng(seed)
    size, items, width = rng.integers(1, 16), rng.integers(1, 40), rng.integers(1, 12)
    kind = seed % 4
    if kind == 0:
        queries, gallery = (rng.integers(-1, 2, (n, width)).astype(np.float32) for n in (size, items))
    elif kind == 1:
        queries, gallery = (rng.normal(size=(n, width)).astype(np.float32) for n in (size, items))
    elif kind == 2:  # gallery rows that differ in few of their last bits, so that float32 products cannot decide
        queries = rng.normal(size=(size, width)).astype(np.float32)
        steps = 1 + rng.integers(0, 3, (items, width)) * 2.0**-22
        gallery = (np.ones((items, width)) * steps).astype(np.float32)
    else:
        queries, gallery = (np.ones((n, width), np.float32) for n in (size, items))
    positives = [rng.choice(items, rng.integers(1, items + 1), replace=False) for _ in range(size)]
    return queries, gallery, positives


@pytest.mark.parametrize("seeds", [range(0, 40), pytest.param(range(40, 160), marks=pytest.mark.full)], ids=str)
def test_ranks_of_random_problems_are_those_of_brute_force(way, seeds):
    for seed in seeds:
        queries, gallery, positives = problem(seed)
        expected = np.concatenate(brute_force_ranks.ranks(queries, gallery, positives))
        for block in (5 + seed % 13, 2048):
            result = ranks_lib.positive_ranks(queries, gallery, positives, block=block)
            np.testing.assert_array_equal(result, expected, err_msg=f"seed {seed} block {block}")


@pytest.mark.parametrize("seeds", [range(0, 40), pytest.param(range(40, 160), marks=pytest.mark.full)], ids=str)
def test_both_ways_together_are_each_way_alone(seeds):
    for seed in seeds:
        queries, gallery, positives = problem(seed)
        back = [[q for q, items in enumerate(positives) if g in items] for g in range(len(gallery))]
        kept = np.flatnonzero([len(items) > 0 for items in back])
        index = {g: i for i, g in enumerate(kept.tolist())}
        positives = [[index[g] for g in items] for items in positives]
        back = [back[g] for g in kept]
        csr = ranks_lib.as_csr(positives, len(queries)), ranks_lib.as_csr(back, len(kept))
        result = ranks_lib.ranks_both_ways(queries, gallery[kept], *csr, block=5 + seed % 17)
        np.testing.assert_array_equal(
            result[0], np.concatenate(brute_force_ranks.ranks(queries, gallery[kept], positives))
        )
        np.testing.assert_array_equal(result[1], np.concatenate(brute_force_ranks.ranks(gallery[kept], queries, back)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("scale", [2.0**-12, 1.0, 37.0])
def test_padding_and_blocks_change_nothing(dtype, scale):
    rng = np.random.default_rng(3)
    images = rng.normal(size=(150, 24)).astype(dtype) * dtype(scale)
    texts = (images[np.arange(400) % 150] + rng.normal(size=(400, 24)).astype(dtype) * dtype(scale)).astype(dtype)
    texts[200:230] = texts[100:130]
    expected = retrieval.retrieval_metrics(images, texts, np.arange(400) % 150)
    for block in (31, 64, 401):
        assert retrieval.retrieval_metrics(images, texts, np.arange(400) % 150, block=block) == expected
    # Zeros added to the width change no product.
    wide = [np.concatenate([x, np.zeros((len(x), 9), dtype)], axis=1) for x in (images, texts)]
    assert retrieval.retrieval_metrics(*wide, np.arange(400) % 150) == expected
    assert 0.1 < expected["image_retrieval_recall@1"] < 1


def test_approximate_scores_are_within_their_margin():
    rng = np.random.default_rng(4)
    queries = rng.normal(size=(50, 700)).astype(np.float32) * np.logspace(-6, 6, 50, dtype=np.float32)[:, None]
    scores = exact_dot.Scores(queries, np.abs(rng.normal(size=(60, 700))).astype(np.float32))
    everything = slice(0, 50), slice(0, 60)
    error = np.abs(scores.approximate(*everything) - scores.block(*everything) * scores.unit[:, None])
    assert (error <= scores.margin[:, None]).all() and error.max() > 0
    query, item = np.divmod(np.arange(3000), 60)
    np.testing.assert_array_equal(scores.pairs(query, item), scores.block(*everything).ravel())


@pytest.mark.parametrize("seeds", [range(0, 60), pytest.param(range(60, 240), marks=pytest.mark.full)], ids=str)
def test_rank_metrics_of_random_problems_are_those_of_brute_force(seeds):
    for seed in seeds:
        queries, gallery, positives = problem(seed)
        indices, offsets = ranks_lib.as_csr(positives, len(queries))
        result = ranks_lib.rank_metrics(
            ranks_lib.positive_ranks(queries, gallery, (indices, offsets)), offsets, ks=(1, 3)
        )
        assert result == pytest.approx(
            brute_force_ranks.rank_metrics(queries, gallery, positives, ks=(1, 3)), rel=1e-12
        )


def test_mean_average_precision_agrees_with_scikit_learn_where_nothing_ties():
    rng = np.random.default_rng(5)
    queries, gallery = rng.normal(size=(40, 8)).astype(np.float32), rng.normal(size=(90, 8)).astype(np.float32)
    relevant = rng.random((40, 90)) < 0.1
    relevant[:, 0] = True
    positives = [np.flatnonzero(row) for row in relevant]
    indices, offsets = ranks_lib.as_csr(positives, 40)
    ranks = ranks_lib.positive_ranks(queries, gallery, (indices, offsets))
    expected = label_ranking_average_precision_score(relevant, queries.astype(np.float64) @ gallery.T.astype(float))
    assert ranks_lib.rank_metrics(ranks, offsets)["mean_average_precision"] == pytest.approx(expected)


def test_with_one_positive_average_precision_is_the_reciprocal_rank_and_rsum_adds_recalls_up():
    rng = np.random.default_rng(6)
    result = retrieval.retrieval_metrics(rng.normal(size=(30, 4)), rng.normal(size=(30, 4)), np.arange(30))
    for side in ("image", "text"):
        assert result[f"{side}_retrieval_mean_average_precision"] == pytest.approx(
            result[f"{side}_retrieval_mean_reciprocal_rank"]
        )
    assert result["rsum"] == pytest.approx(sum(value for name, value in result.items() if "recall@" in name))


def test_folds_are_averaged_each_with_its_own_texts():
    rng = np.random.default_rng(7)
    images, text_image = rng.normal(size=(60, 6)), rng.permutation(np.arange(180) % 60)
    texts = images[text_image] + rng.normal(size=(180, 6))
    result = retrieval.fold_metrics(images, texts, text_image, fold_size=20)
    expected = []
    for start in (0, 20, 40):
        fold_texts = [t for t in range(180) if start <= text_image[t] < start + 20]
        positives = [[t for t, text in enumerate(fold_texts) if text_image[text] == start + i] for i in range(20)]
        expected.append(brute_force_ranks.rank_metrics(images[start : start + 20], texts[fold_texts], positives))
    for name in expected[0]:
        assert result[f"text_retrieval_{name}"] == pytest.approx(np.mean([fold[name] for fold in expected]))
    with pytest.raises(UserError, match="fold_size=7: 60 images do not divide"):
        retrieval.fold_metrics(images, texts, text_image, fold_size=7)


def test_a_positive_may_not_be_named_twice():
    with pytest.raises(ValueError, match="query 1 has the same positive twice"):
        ranks_lib.positive_ranks(np.eye(3), np.eye(3), [[0], [2, 1, 2], [2]])


@pytest.mark.parametrize("block", [5, 17, 2048])
def test_top_matches_of_random_problems_are_those_of_brute_force(block):
    for seed in range(60):
        queries, gallery, _ = problem(seed)
        k = 1 + seed % 9
        indices, _ = exact_dot.top_matches(queries, gallery, k, block=block)
        np.testing.assert_array_equal(indices, brute_force_ranks.order(queries, gallery)[:, :k], err_msg=f"seed {seed}")
