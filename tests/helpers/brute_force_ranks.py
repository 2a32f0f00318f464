"""Ranking by its definition: exact rational scores, sorted, one query at a time."""

from fractions import Fraction

import numpy as np


def order(queries, gallery):
    """Each query's gallery, best first, the lower index first among equals; exact whatever the dtype."""
    complete = [[list(map(_as_integers, row.tolist())) for row in rows] for rows in (queries, gallery)]
    result = []
    for query in complete[0]:
        scores = [sum(a * b for a, b in zip(query, item, strict=True)) for item in complete[1]]
        result.append(sorted(range(len(gallery)), key=lambda g: (-scores[g], g)))
    return np.array(result)


def _as_integers(value):
    # A float is a fraction whose denominator is a power of two; 2**60 clears those that the tests make.
    scaled = Fraction(value) * 2**60
    assert scaled.denominator == 1
    return scaled.numerator


def ranks(queries, gallery, positives):
    """The 1-based ranks of each query's positives, one list a query."""
    result = []
    for best_first, matches in zip(order(queries, gallery), positives, strict=True):
        position = {g: i + 1 for i, g in enumerate(best_first.tolist())}
        result.append([position[int(g)] for g in matches])
    return result


def rank_metrics(queries, gallery, positives, ks=(1, 5, 10)):
    """The metrics of `metrics.ranks.rank_metrics`, by walking down each ranking."""
    hits, best, precision = {k: [] for k in ks}, [], []
    for best_first, matches in zip(order(queries, gallery), positives, strict=True):
        right = [int(g) in {int(p) for p in matches} for g in best_first]
        for k in ks:
            hits[k].append(any(right[:k]))
        best.append(right.index(True) + 1)
        precision.append(np.mean([np.mean(right[: i + 1]) for i in range(len(right)) if right[i]]))
    result = {f"recall@{k}": np.mean(hits[k]) for k in ks}
    result |= {"median_rank": np.median(best), "mean_rank": np.mean(best)}
    return result | {
        "mean_reciprocal_rank": np.mean(1 / np.array(best)),
        "mean_average_precision": np.mean(precision),
    }
