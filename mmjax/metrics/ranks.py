"""Exact ranks of all positives in both directions of a retrieval, from one pass over blocks of scores.

Among equal scores the lower index comes first, so an encoder that maps everything to one point is scored as chance,
K/N, and not as perfect. Nothing is sorted: a rank is a count of what scores higher. Scores are compared in float32
where that decides, and exactly where it does not (see `exact`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from mmjax.metrics import exact_dot

CSR = tuple[np.ndarray, np.ndarray]  # (indices [P], offsets [Q+1]): query q owns indices[offsets[q]:offsets[q+1]]

# What it costs to look a score up among sorted thresholds, in comparisons of a whole block with one threshold.
_LOOKUP = 20
_LARGEST_BLOCK = 2**14  # so that a query, a score and an item fit in the 63 bits of a key
# A query with more positives than this, and than this share of the gallery, is ranked by sorting its exact scores.
_MANY, _MANY_SHARE = 16, 1 / 256
_SORTED_AT_A_TIME = 2**22  # scores


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
    forward = _Counter(queries, gallery, positives)
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
    forward, backward = _Counter(left, right, right_of_left), _Counter(right, left, left_of_right)
    _count(forward, backward, block)
    return forward.ranks(), backward.ranks()


def best_ranks(ranks: Integer[np.ndarray, " P"], offsets: Integer[np.ndarray, " Q1"]) -> Integer[np.ndarray, " Q"]:
    """The least of each query's ranks."""
    return np.minimum.reduceat(ranks, offsets[:-1])


def average_precision(ranks: Integer[np.ndarray, " P"], offsets: Integer[np.ndarray, " Q1"]) -> Float[np.ndarray, " Q"]:
    """Each query's average precision, 1/P sum over its P positives of the precision at their ranks (no cut-off)."""
    owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    ordered = ranks[np.lexsort((ranks, owners))]
    found = np.arange(len(ranks)) - offsets[owners] + 1
    return np.add.reduceat(found / ordered, offsets[:-1]) / np.diff(offsets)


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


class _Counter:
    """Counts, for every positive of one direction, the gallery items that come before it.

    Positives are kept query after query and, within a query, from the lowest score up: thresholds for `exact`'s float32
    scores, `low` where those may still be below the positive's and `high` where they are certain to be above.
    """

    def __init__(self, queries: np.ndarray, gallery: np.ndarray, positives: Sequence[Any] | CSR):
        indices, offsets = as_csr(positives, len(queries))
        check_indices("positives", indices, len(gallery))
        self.scores = exact_dot.Scores(queries, gallery)
        counts = np.diff(offsets)
        owners = np.repeat(np.arange(len(queries)), counts)
        _refuse_repeats(owners, indices)
        self.found = np.empty(len(indices), np.int64)
        many = counts > max(_MANY, _MANY_SHARE * len(gallery))
        self._sort(np.flatnonzero(many), indices, offsets)

        self.order = np.flatnonzero(~many[owners])
        owners, indices = owners[self.order], indices[self.order]
        products = self.scores.pairs(owners, indices)
        order = np.lexsort((-indices, products, owners))
        self.order, self.owners = self.order[order], owners
        self.indices, self.products = indices[order], products[order]
        self.offsets = np.concatenate([[0], np.cumsum(np.where(many, 0, counts))])
        threshold, margin = self.products * self.scores.unit[owners], self.scores.margin[owners]
        self.low, self.high = exact_dot.below(threshold - margin), exact_dot.above(threshold + margin)
        self.before = np.zeros(len(indices), np.int64)

    def ranks(self) -> np.ndarray:
        self.found[self.order] = 1 + self.before
        return self.found

    def _sort(self, queries: np.ndarray, indices: np.ndarray, offsets: np.ndarray) -> None:
        """Ranks the positives of these queries, which have many, by sorting all scores of a few queries at a time."""
        size = len(self.scores.gallery)
        for part in exact_dot.blocks(len(queries), max(1, _SORTED_AT_A_TIME // size)):
            own = queries[part]
            products = np.empty((len(own), size))
            for columns in exact_dot.blocks(size, exact_dot.BLOCK):
                products[:, columns] = self.scores.block(own, columns)
            for query, row in zip(own, products, strict=True):
                places = np.empty(size, np.int64)
                places[np.argsort(-row, kind="stable")] = np.arange(1, size + 1)
                positives = slice(offsets[query], offsets[query + 1])
                self.found[positives] = places[indices[positives]]

    def add(self, near: np.ndarray, rows: slice, columns: slice) -> None:
        """Counts one block: `near` are the float32 scores of queries `rows` with gallery `columns`."""
        starts, stops = self.offsets[rows.start : rows.stop], self.offsets[rows.start + 1 : rows.stop + 1]
        floor = np.full((len(near), 1), np.inf, np.float32)
        floor[stops > starts, 0] = self.low[starts[stops > starts]]
        candidates = near >= floor
        slots = int((stops - starts).max())
        few = np.count_nonzero(candidates) * _LOOKUP < (stops - starts).sum() * near.shape[1]
        if slots > 1 and few and self._look_up(near, candidates, rows, columns):
            return
        for slot in range(slots):
            own = np.flatnonzero(stops - starts > slot)
            positives = starts[own] + slot
            scores = near if len(own) == len(near) else near[own]
            higher = scores > self.high[positives, None]
            self.before[positives] += higher.view(np.uint8).sum(axis=1, dtype=np.uint32)
            # The candidates are those that may be above a query's first threshold.
            if slot == 0:
                unsure = candidates if scores is near else candidates[own]
            else:
                unsure = scores >= self.low[positives, None]
            unsure ^= higher
            at, item = _nonzero(unsure)
            self._decide(positives[at], item + columns.start, rows, columns)

    def _look_up(self, near: np.ndarray, candidates: np.ndarray, rows: slice, columns: slice) -> bool:
        """Finds where the thresholds fall among their query's candidates; False if too many are undecided to hold."""
        at, item = _nonzero(candidates)
        # One sorted list for all queries: a key is the query, then the score, then the item.
        bits = near.shape[1].bit_length()
        keys = at << (32 + bits) | _ordered(near[at, item]) << bits | item
        keys.sort()
        first, last = self.offsets[rows.start], self.offsets[rows.stop]
        query = self.owners[first:last] - rows.start
        end = np.searchsorted(keys, np.arange(1, len(near) + 1) << (32 + bits))[query]
        query = query << (32 + bits)
        possible = np.searchsorted(keys, query | _ordered(self.low[first:last]) << bits)
        certain = np.searchsorted(keys, query | _ordered(self.high[first:last]) << bits | ((1 << bits) - 1))
        undecided = certain - possible
        if undecided.sum() > near.size:
            return False
        self.before[first:last] += end - certain
        which = np.repeat(np.arange(last - first), undecided)
        within = np.arange(len(which)) - np.repeat(np.cumsum(undecided) - undecided, undecided)
        items = keys[possible[which] + within] & ((1 << bits) - 1)
        self._decide(first + which, items + columns.start, rows, columns)
        return True

    def _decide(self, positives: np.ndarray, items: np.ndarray, rows: slice, columns: slice) -> None:
        """Counts those items that come before these positives, by their exact scores."""
        others = self.indices[positives] != items
        positives, items = positives[others], items[others]
        products = self.scores.some(self.owners[positives], items, rows, columns)
        ahead = products > self.products[positives]
        ahead |= (products == self.products[positives]) & (items < self.indices[positives])
        np.add.at(self.before, positives[ahead], 1)


def _count(forward: _Counter, backward: _Counter | None, block: int) -> None:
    queries, gallery = forward.scores.queries, forward.scores.gallery
    block = min(block, _LARGEST_BLOCK)
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


def _ordered(values: np.ndarray) -> np.ndarray:
    """Whole numbers below 2**32, int64, in the order of these float32s."""
    # Adding 0 makes -0 and 0 one.
    bits = (values + np.float32(0)).view(np.int32)
    return np.where(bits < 0, ~bits & 0x7FFFFFFF, bits).astype(np.int64) + np.where(bits < 0, 0, 2**31)


def _nonzero(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of what is set, in the order in which it lies in memory."""
    if mask.flags.c_contiguous:
        return np.divmod(np.flatnonzero(mask), mask.shape[1])
    return np.divmod(np.flatnonzero(mask.T), mask.shape[0])[::-1]
