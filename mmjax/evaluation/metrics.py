"""Classification and retrieval metrics on NumPy arrays, exact and independent of how the work is blocked.

A rank counts ties, so it is only well defined when equal pairs get equal scores. A floating-point matrix product does
not promise that: the last bits of an entry depend on the tile it falls in, the block shape and the number of threads.
Here embeddings are first rounded to fixed point (26 bits below the largest norm, finer than the error of a float32
product), whose products and sums float64 holds without any rounding. Scores, and therefore ranks and metrics, are the
same bits for every block size, BLAS and machine, and duplicates tie exactly.

Among equal scores the lower index comes first, so an encoder that maps everything to one point is scored as chance,
K/N, and not as perfect.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Integer

# |query| and |gallery row| stay below 1.25 x 2**26, so every partial sum of a product stays below 1.57 x 2**52: inside
# the 53 bits of a float64.
_BITS = 26
_HEADROOM = 1.25
_BLOCK = 2048

CSR = tuple[np.ndarray, np.ndarray]  # (indices [P], offsets [Q+1]): query q owns indices[offsets[q]:offsets[q+1]]


def classification_metrics(scores: Float[np.ndarray, "N C"], labels: Integer[np.ndarray, " N"]) -> dict[str, float]:
    """Top-1, top-5 and class-balanced accuracy, as CLIP_benchmark names them.

    Args:
      scores: similarity or logits of every example with every class; among equal scores the lower class comes first.
      labels: the right class of every example, in [0, C).

    Returns:
      Values in [0, 1]: `acc1`; `acc5`, left out when C < 5 (CLIP_benchmark gives NaN there, which JSON cannot hold);
      `mean_per_class_recall`, the mean of top-1 recall over the classes that have examples, as scikit-learn's
      `balanced_accuracy_score`.

    Raises:
      ValueError: for no examples, shapes that do not fit, labels outside [0, C) or scores that are not finite.
    """
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not scores.size:
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} should be [N, C] and [N] with N, C > 0")
    count, classes = scores.shape
    _check_indices("labels", labels, classes)
    ranks = np.empty(count, np.int64)
    columns = np.arange(classes)
    for rows in _blocks(count, _BLOCK):
        block, label = scores[rows], labels[rows, None]
        if not np.isfinite(block).all():
            raise ValueError("scores are not finite: the embeddings hold NaN or infinity")
        own = np.take_along_axis(block, label, axis=1)
        ranks[rows] = 1 + np.sum((block > own) | ((block == own) & (columns < label)), axis=1)
    right = ranks == 1
    metrics = {"acc1": float(right.mean())}
    if classes >= 5:
        metrics["acc5"] = float((ranks <= 5).mean())
    examples = np.bincount(labels, minlength=classes)
    recalls = np.bincount(labels, weights=right, minlength=classes)[examples > 0] / examples[examples > 0]
    metrics["mean_per_class_recall"] = float(recalls.mean())
    return metrics


def confusion_matrix(
    predictions: Integer[np.ndarray, " N"], labels: Integer[np.ndarray, " N"], classes: int
) -> Integer[np.ndarray, "C C"]:
    """Counts of examples by true class (row) and predicted class (column).

    Raises:
      ValueError: for predictions or labels outside [0, classes).
    """
    _check_indices("labels", labels, classes)
    _check_indices("predictions", predictions, classes)
    cells = labels.astype(np.int64) * classes + predictions.astype(np.int64)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def similarity(
    queries: Float[np.ndarray, "Q E"], gallery: Float[np.ndarray, "G E"], *, block: int = _BLOCK
) -> Float32[np.ndarray, "Q G"]:
    """All inner products of two sets of embeddings, each rounded once from its exact fixed-point value."""
    query_grid, gallery_grid, scale = _fixed_point(queries, gallery)
    scores = np.empty((len(queries), len(gallery)), np.float32)
    for rows in _blocks(len(queries), block):
        scores[rows] = (query_grid[rows] @ gallery_grid.T) * scale[rows, None]
    return scores


def retrieval_ranks(
    queries: Float[np.ndarray, "Q E"],
    gallery: Float[np.ndarray, "G E"],
    positives: Sequence[Any] | CSR,
    *,
    block: int = _BLOCK,
) -> Integer[np.ndarray, " Q"]:
    """The 1-based rank of every query's best positive in the whole gallery.

    rank(g) = 1 + #{g' : s(g') > s(g)} + #{g' < g : s(g') = s(g)}, the rule of open_clip's validation metrics. At most
    `block` x `block` scores exist at a time, and the result does not depend on `block`.

    Args:
      queries: query embeddings; ranks do not change when a query is scaled.
      gallery: gallery embeddings, of comparable norms (they share one fixed-point scale).
      positives: the gallery indices of each query's positives, at least one: a list of Q index sequences, or the tuple
        (indices [P], offsets [Q+1]) where query q owns indices[offsets[q]:offsets[q+1]].
      block: how many queries and gallery rows meet at a time.

    Raises:
      ValueError: for a query without positives, an index outside the gallery, or embeddings that are not finite.
    """
    indices, offsets = _as_csr(positives, len(queries))
    _check_indices("positives", indices, len(gallery))
    query_grid, gallery_grid, _ = _fixed_point(queries, gallery)
    owners = np.repeat(np.arange(len(queries)), np.diff(offsets))
    pair_scores = np.empty(len(indices))
    for pairs in _blocks(len(indices), 8192):
        pair_scores[pairs] = np.einsum("PE,PE->P", query_grid[owners[pairs]], gallery_grid[indices[pairs]])
    # The best positive of a query: highest score, then lowest index. Sorting keeps each query's run where it was.
    best = np.lexsort((indices, -pair_scores, owners))[offsets[:-1]]
    best_scores, best_indices = pair_scores[best, None], indices[best, None]

    ranks = np.ones(len(queries), np.int64)
    for rows in _blocks(len(queries), block):
        for columns in _blocks(len(gallery), block):
            scores = query_grid[rows] @ gallery_grid[columns].T
            earlier = np.arange(columns.start, columns.stop) < best_indices[rows]
            ranks[rows] += np.count_nonzero(scores > best_scores[rows], axis=1)
            ranks[rows] += np.count_nonzero((scores == best_scores[rows]) & earlier, axis=1)
    return ranks


def retrieval_metrics(
    image_embeddings: Float[np.ndarray, "N E"],
    text_embeddings: Float[np.ndarray, "M E"],
    text_image: Integer[np.ndarray, " M"],
    *,
    image_ids: Integer[np.ndarray, " N"] | None = None,
    block: int = _BLOCK,
) -> dict[str, float]:
    """Recall at 1, 5 and 10 and rank statistics in both directions, named as in CLIP_benchmark.

    `image_retrieval_*` ranks all images for each text; `text_retrieval_*` ranks all texts for each image, where any of
    the image's texts counts. Recall at K is the share of queries whose best positive ranks at most K (a hit rate).

    Args:
      image_embeddings: one row per image.
      text_embeddings: one row per text.
      text_image: the index of each text's image; every image needs at least one text.
      image_ids: images with equal ids are positives of one another's texts (a file that lists an image once per
        caption, say). Without ids every image is its own.
      block: see `retrieval_ranks`.

    Returns:
      For both prefixes: `recall@1`, `recall@5`, `recall@10` in [0, 1], and `median_rank`, `mean_rank` from 1 up.

    Raises:
      ValueError: for an image without texts, and as `retrieval_ranks`.
    """
    _check_indices("text_image", text_image, len(image_embeddings))
    if image_ids is None:
        groups = np.arange(len(image_embeddings))
    else:
        groups = np.unique(image_ids, return_inverse=True)[1].reshape(-1)
    text_groups = groups[text_image]
    directions = {
        "image_retrieval": (text_embeddings, image_embeddings, _members(text_groups, groups)),
        "text_retrieval": (image_embeddings, text_embeddings, _members(groups, text_groups)),
    }
    metrics = {}
    for name, (queries, gallery, positives) in directions.items():
        ranks = retrieval_ranks(queries, gallery, positives, block=block)
        metrics |= {f"{name}_recall@{k}": float((ranks <= k).mean()) for k in (1, 5, 10)}
        metrics[f"{name}_median_rank"] = float(np.median(ranks))
        metrics[f"{name}_mean_rank"] = float(ranks.mean())
    return metrics


def top_matches(
    queries: Float[np.ndarray, "Q E"], gallery: Float[np.ndarray, "G E"], k: int, *, block: int = _BLOCK
) -> tuple[Integer[np.ndarray, "Q K"], Float32[np.ndarray, "Q K"]]:
    """The indices and scores of each query's K best gallery rows, best first; the lower index first among equals.

    K is `k`, or the size of the gallery where that is smaller. At most `block` x (`block` + K) scores exist at a time.
    """
    query_grid, gallery_grid, scale = _fixed_point(queries, gallery)
    k = min(k, len(gallery))
    indices = np.empty((len(queries), k), np.int64)
    scores = np.empty((len(queries), k), np.float32)
    for rows in _blocks(len(queries), block):
        size = rows.stop - rows.start
        kept, kept_at = np.empty((size, 0)), np.empty((size, 0), np.int64)
        for columns in _blocks(len(gallery), block):
            at = np.broadcast_to(np.arange(columns.start, columns.stop), (size, columns.stop - columns.start))
            # What was kept has lower indices and stands first, so a stable sort is the tie rule.
            kept = np.concatenate([kept, query_grid[rows] @ gallery_grid[columns].T], axis=1)
            kept_at = np.concatenate([kept_at, at], axis=1)
            order = np.argsort(-kept, axis=1, kind="stable")[:, :k]
            kept, kept_at = np.take_along_axis(kept, order, axis=1), np.take_along_axis(kept_at, order, axis=1)
        indices[rows], scores[rows] = kept_at, kept * scale[rows, None]
    return indices, scores


def _fixed_point(queries: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both sets as whole numbers in float64, and the factor [Q] that turns a product of them back into a score.

    Scales are powers of two: one per query, which cannot change a query's order, and one for the gallery.
    """
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise ValueError(f"queries {queries.shape} and gallery {gallery.shape} should be [Q, E] and [G, E]")
    if not len(queries) or not len(gallery):
        raise ValueError(f"nothing to rank: {len(queries)} queries, a gallery of {len(gallery)}")
    query_norms, gallery_norms = _norms("queries", queries), _norms("gallery", gallery)
    query_exponent = np.frexp(query_norms / _HEADROOM)[1]
    gallery_exponent = np.frexp(gallery_norms.max() / _HEADROOM)[1]
    query_grid = np.rint(np.ldexp(queries.astype(np.float64), _BITS - query_exponent[:, None]))
    gallery_grid = np.rint(np.ldexp(gallery.astype(np.float64), _BITS - gallery_exponent))
    return query_grid, gallery_grid, np.ldexp(1.0, query_exponent + gallery_exponent - 2 * _BITS)


def _norms(name: str, rows: np.ndarray) -> np.ndarray:
    norms = np.sqrt(np.einsum("NE,NE->N", rows, rows, dtype=np.float64))
    if not np.isfinite(norms).all():
        bad = np.flatnonzero(~np.isfinite(norms))
        raise ValueError(f"{name}: {bad.size} of {len(rows)} embeddings are not finite, the first at {bad[0]}")
    return norms


def _as_csr(positives: Sequence[Any] | CSR, count: int) -> CSR:
    if isinstance(positives, tuple):
        indices, offsets = (np.asarray(part, np.int64) for part in positives)
    else:
        rows = [np.asarray(row, np.int64).reshape(-1) for row in positives]
        indices = np.concatenate(rows) if rows else np.empty(0, np.int64)
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)])
    if offsets.shape != (count + 1,) or offsets[0] != 0 or offsets[-1] != len(indices):
        raise ValueError(
            f"positives are for {len(offsets) - 1} queries and {len(indices)} indices; expected {count} queries"
        )
    empty = np.flatnonzero(np.diff(offsets) <= 0)
    if empty.size:
        raise ValueError(
            f"{empty.size} of {count} queries have no positive in the gallery, the first is query {empty[0]}"
        )
    return indices, offsets


def _members(query_groups: np.ndarray, item_groups: np.ndarray) -> CSR:
    """For each query, the items of its group, in order of index."""
    order = np.argsort(item_groups, kind="stable")
    starts = np.searchsorted(item_groups, query_groups, side="left", sorter=order)
    counts = np.searchsorted(item_groups, query_groups, side="right", sorter=order) - starts
    offsets = np.concatenate([[0], np.cumsum(counts)])
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
    return order[np.repeat(starts, counts) + within], offsets


def _check_indices(name: str, indices: np.ndarray, size: int) -> None:
    if indices.size and not (indices.min() >= 0 and indices.max() < size):
        raise ValueError(f"{name} lie in [{indices.min()}, {indices.max()}], outside [0, {size})")


def _blocks(count: int, block: int) -> Iterator[slice]:
    for start in range(0, count, block):
        yield slice(start, min(start + block, count))
