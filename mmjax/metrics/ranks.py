"""Exact ranks of all positives in both directions of a retrieval, from one pass over blocks of scores.

Among equal scores the lower index comes first, so an encoder that maps everything to one point is scored as chance,
K/N, and not as perfect. A rank is a count of what scores higher, block by block. Scores are compared in float32 where
that decides, and exactly where it does not (see `exact_dot`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from mmjax.metrics import exact_dot

CSR = tuple[np.ndarray, np.ndarray]  # (indices [P], offsets [Q+1]): query q owns indices[offsets[q]:offsets[q+1]]

# A query with more positives than this has its scores sorted; with fewer they are compared with each positive's.
_FEW = 12
_MAX_UNDECIDED = 1  # undecided comparisons of a query by items of a block, from which on exact products are sorted


def retrieval_ranks(
    queries: Float[np.ndarray, "Q *V E"],
    gallery: Float[np.ndarray, "G *W E"],
    positives: Sequence[Any] | CSR,
    *,
    block: int = exact_dot.BLOCK,
) -> Integer[np.ndarray, " Q"]:
    """The 1-based rank of every query's best positive in the whole gallery; see `positive_ranks`."""
    positives = as_csr(positives, len(queries))
    return best_ranks(positive_ranks(queries, gallery, positives, block=block), positives[1])


def positive_ranks(
    queries: Float[np.ndarray, "Q *V E"],
    gallery: Float[np.ndarray, "G *W E"],
    positives: Sequence[Any] | CSR,
    *,
    block: int = exact_dot.BLOCK,
) -> Integer[np.ndarray, " P"]:
    """The 1-based rank of every positive of every query in the whole gallery.

    rank(g) = 1 + #{g' : s(g') > s(g)} + #{g' < g : s(g') = s(g)}, the rule of open_clip's validation metrics. At most
    a few times `block` x `block` scores exist at a time, and the result does not depend on `block`.

    Args:
      queries: query embeddings; ranks do not change when a query is scaled.
      gallery: gallery embeddings, of comparable norms (they share one fixed-point scale).
      positives: the gallery indices of each query's positives, at least one: a list of Q index sequences, or the tuple
        (indices [P], offsets [Q+1]) where query q owns indices[offsets[q]:offsets[q+1]].
      block: how many queries and gallery rows meet at a time.

    Returns:
      Ranks in the order of the positives, query after query.

    Raises:
      ValueError: for a query without positives or with one twice, an index outside the gallery, or embeddings that are
        not finite.
    """
    forward = _RankCounter(queries, gallery, positives)
    _count(forward, None, block)
    return forward.ranks()


def ranks_both_ways(
    left: Float[np.ndarray, "N *V E"],
    right: Float[np.ndarray, "M *W E"],
    right_of_left: CSR,
    left_of_right: CSR,
    *,
    block: int = exact_dot.BLOCK,
) -> tuple[Integer[np.ndarray, " P"], Integer[np.ndarray, " R"]]:
    """`positive_ranks` of left among right and of right among left, each product computed once for both."""
    forward, backward = _RankCounter(left, right, right_of_left), _RankCounter(right, left, left_of_right)
    _count(forward, backward, block)
    return forward.ranks(), backward.ranks()


def best_ranks(ranks: Integer[np.ndarray, " P"], offsets: Integer[np.ndarray, " Q1"]) -> Integer[np.ndarray, " Q"]:
    """The least of each query's ranks."""
    return np.minimum.reduceat(ranks, offsets[:-1])


def average_precision(ranks: Integer[np.ndarray, " P"], offsets: Integer[np.ndarray, " Q1"]) -> Float[np.ndarray, " Q"]:
    """Each query's average precision, 1/P sum over its P positives of the precision at their ranks (no cut-off)."""
    owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    ordered = ranks[np.lexsort((ranks, owners))]
    positives_so_far = np.arange(len(ranks)) - offsets[owners] + 1
    return np.add.reduceat(positives_so_far / ordered, offsets[:-1]) / np.diff(offsets)


def as_csr(positives: Sequence[Any] | CSR, count: int) -> CSR:
    """Positives of `count` queries as indices and offsets.

    Raises:
      ValueError: for another number of queries, or one without positives.
    """
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


def members(query_groups: Integer[np.ndarray, " Q"], item_groups: Integer[np.ndarray, " G"]) -> CSR:
    """For each query, the items of its group, in order of index."""
    order = np.argsort(item_groups, kind="stable")
    starts = np.searchsorted(item_groups, query_groups, side="left", sorter=order)
    counts = np.searchsorted(item_groups, query_groups, side="right", sorter=order) - starts
    offsets = np.concatenate([[0], np.cumsum(counts)])
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
    return order[np.repeat(starts, counts) + within], offsets


def check_indices(name: str, indices: np.ndarray, size: int) -> None:
    """Raises a ValueError unless all indices lie in [0, size)."""
    if indices.size and not (indices.min() >= 0 and indices.max() < size):
        raise ValueError(f"{name} lie in [{indices.min()}, {indices.max()}], outside [0, {size})")


class _RankCounter:
    """Counts, for every positive of one direction, the gallery items that come before it.

    Of each positive two float32 scores are known: an item above `high` has certainly the higher score, one below `low`
    certainly has not. What lies between is decided by exact products.
    """

    def __init__(self, queries: np.ndarray, gallery: np.ndarray, positives: Sequence[Any] | CSR):
        self.indices, self.offsets = as_csr(positives, len(queries))
        check_indices("positives", self.indices, len(gallery))
        self.scores = exact_dot.Scores(queries, gallery)
        self.owners = np.repeat(np.arange(len(queries)), np.diff(self.offsets))
        _refuse_repeats(self.owners, self.indices)
        self.products = self.scores.pairs(self.owners, self.indices)
        threshold, margin = self.products * self.scores.unit[self.owners], self.scores.margin[self.owners]
        self.low, self.high = exact_dot.round_down(threshold - margin), exact_dot.round_up(threshold + margin)
        self.before = np.zeros(len(self.indices), np.int64)

    def ranks(self) -> np.ndarray:
        return 1 + self.before

    def add(self, near: np.ndarray, rows: slice, columns: slice) -> None:
        """Counts one block: `near` are the float32 scores of queries `rows` with gallery `columns`."""
        counts = np.diff(self.offsets[rows.start : rows.stop + 1])
        for slot in range(min(int(counts.max()), _FEW)):
            self._compare((counts > slot) & (counts <= _FEW), slot, near, rows, columns)
        many = np.flatnonzero(counts > _FEW)
        if many.size:
            self._sort(many, np.ascontiguousarray(near), rows, columns)

    def _compare(self, mask: np.ndarray, slot: int, near: np.ndarray, rows: slice, columns: slice) -> None:
        """Compares a block with positive number `slot` of each query of the mask."""
        queries = np.flatnonzero(mask)
        positives = self.offsets[rows.start + queries] + slot
        near = near if len(queries) == len(near) else near[queries]
        higher = near > self.high[positives, None]
        self.before[positives] += higher.view(np.uint8).sum(axis=1, dtype=np.uint32)
        undecided = near >= self.low[positives, None]
        undecided ^= higher
        query, item = _nonzero(undecided)
        self._decide(positives[query], item + columns.start, rows, columns)

    def _sort(self, queries: np.ndarray, near: np.ndarray, rows: slice, columns: slice) -> None:
        """Sorts the scores of each of these queries and looks up its positives."""
        undecided_positives, undecided_items = [], []
        for query in queries.tolist():
            first, stop = self.offsets[rows.start + query], self.offsets[rows.start + query + 1]
            positives, row = slice(first, stop), near[query]
            low, high = self.low[positives], self.high[positives]
            ordered = np.sort(row)
            higher = len(row) - np.searchsorted(ordered, high, side="right")
            undecided = len(row) - np.searchsorted(ordered, low, side="left") - higher
            if undecided.sum() > _MAX_UNDECIDED * len(row):
                self._sort_exactly(positives, rows.start + query, columns)
                continue
            self.before[positives] += higher
            for i in np.flatnonzero(undecided).tolist():
                items = np.flatnonzero((row >= low[i]) & (row <= high[i]))
                undecided_positives.append(np.full(len(items), first + i))
                undecided_items.append(items + columns.start)
        if undecided_items:
            self._decide(np.concatenate(undecided_positives), np.concatenate(undecided_items), rows, columns)

    def _sort_exactly(self, positives: slice, query: int, columns: slice) -> None:
        """Sorts the exact products of a query's positives and of a block's items together."""
        products = self.scores.block(slice(query, query + 1), columns)[0]
        products = np.concatenate([self.products[positives], products])
        items = np.concatenate([self.indices[positives], np.arange(columns.start, columns.stop)])
        # Sorting is stable, and the positives are first: an item is not ahead of itself.
        order = np.lexsort((items, -products))
        is_item = order >= positives.stop - positives.start
        self.before[positives.start + order[~is_item]] += np.cumsum(is_item)[~is_item]

    def _decide(self, positives: np.ndarray, items: np.ndarray, rows: slice, columns: slice) -> None:
        """Counts those items that come before these positives, by their exact products."""
        others = self.indices[positives] != items
        positives, items = positives[others], items[others]
        products = self.scores.pairs_of_block(self.owners[positives], items, rows, columns)
        ahead = products > self.products[positives]
        ahead |= (products == self.products[positives]) & (items < self.indices[positives])
        np.add.at(self.before, positives[ahead], 1)


def _count(forward: _RankCounter, backward: _RankCounter | None, block: int) -> None:
    queries, gallery = forward.scores.queries, forward.scores.gallery
    for rows in exact_dot.blocks(len(queries), block):
        for columns in exact_dot.blocks(len(gallery), block):
            near = forward.scores.approximate(rows, columns)
            forward.add(near, rows, columns)
            if backward is not None:
                backward.add(near.T, columns, rows)


def _refuse_repeats(owners: np.ndarray, indices: np.ndarray) -> None:
    order = np.lexsort((indices, owners))
    repeated = (np.diff(indices[order]) == 0) & (np.diff(owners) == 0)
    if repeated.any():
        raise ValueError(f"query {owners[np.argmax(repeated)]} has the same positive twice")


def _nonzero(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of what is set, in the order in which it lies in memory."""
    if mask.flags.c_contiguous:
        rows, columns = np.divmod(np.flatnonzero(mask), mask.shape[1])
    else:
        columns, rows = np.divmod(np.flatnonzero(mask.T), mask.shape[0])
    return rows, columns


def rank_metrics(
    ranks: Integer[np.ndarray, " P"], offsets: Integer[np.ndarray, " Q1"], *, ks: tuple[int, ...] = (1, 5, 10)
) -> dict[str, float]:
    """Metrics of retrieval from the ranks of all positives.

    Args:
      ranks: the 1-based ranks of query q's positives are ranks[offsets[q]:offsets[q+1]].
      offsets: see above; every query has a positive.
      ks: for recall.

    Returns:
      `recall@K`: the share of queries whose best positive ranks at most K (a hit rate, as in the CLIP literature; not
      the share of positives found). `median_rank` and `mean_rank` of the best positive, from 1 up.
      `mean_reciprocal_rank` of the best positive. `mean_average_precision` over all positives, without a cut-off; with
      one positive a query it is the mean reciprocal rank.
    """
    best = best_ranks(ranks, offsets)
    metrics = {f"recall@{k}": float((best <= k).mean()) for k in ks}
    metrics["median_rank"] = float(np.median(best))
    metrics["mean_rank"] = float(best.mean())
    metrics["mean_reciprocal_rank"] = float((1 / best).mean())
    metrics["mean_average_precision"] = float(average_precision(ranks, offsets).mean())
    return metrics
