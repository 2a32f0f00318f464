"""Exact inner products of embeddings, and quick float32 ones with a bound on their error.

A rank counts ties, so it is only well defined when equal pairs get equal scores. A floating-point matrix product does
not promise that: the last bits of an entry depend on the tile it falls in, the block's shape and the number of threads.
Here embeddings are first rounded to fixed point (26 bits below the largest norm, finer than the error of a float32
product), whose products and sums float64 holds without any rounding. Such scores are the same bits for every block
size, BLAS and machine, and duplicates tie exactly.

Most comparisons need no such care: where a float32 product is further from a threshold than it can be wrong, it has
decided. So a block is computed once in float32, and only the pairs within the bound are computed exactly.
"""

import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Float32, Float64, Integer

# |query| and |gallery row| stay below 1.25 x 2**26, so every partial sum of a product stays below 1.57 x 2**52: inside
# the 53 bits of a float64.
_BITS = 26
_HEADROOM = 1.25
_PAIRS = 4096  # pairs whose rows are gathered at a time
_SPARSE = 256  # a pair by itself costs about as much as this many entries of a float64 matrix product

BLOCK = 2048


class Scores:
    """The scores of queries with a gallery, block by block or pair by pair; nothing of size Q x G is held.

    Scales are powers of two: one per query, which cannot change a query's order, and one for the gallery. Where an
    embedding is several vectors, as a Q-Former's, the score of a pair is the largest of its products (BLIP-2,
    arXiv:2301.12597); a bound on each product bounds the largest.

    Args:
      queries: [Q, E] or [Q, V, E] embeddings, float.
      gallery: [G, E] or [G, V, E] embeddings of comparable norms (they share one fixed-point scale).

    Attributes:
      scale: [Q] turns an exact product into a score.
      unit: [Q] turns an exact product into the units of `approximate`.
      margin: [Q] the most by which an entry of `approximate` can differ from the exact product in its units.

    Raises:
      ValueError: for shapes that do not fit, nothing to score, or embeddings that are not finite.
    """

    def __init__(self, queries: Float[np.ndarray, "Q *V E"], gallery: Float[np.ndarray, "G *W E"]):
        if not {queries.ndim, gallery.ndim} <= {2, 3} or queries.shape[-1] != gallery.shape[-1]:
            raise ValueError(
                f"queries {queries.shape} and gallery {gallery.shape} should be [Q, E] and [G, E], or have"
                " several vectors each, [Q, V, E] and [G, V, E]"
            )
        if not len(queries) or not len(gallery):
            raise ValueError(f"nothing to rank: {len(queries)} queries, a gallery of {len(gallery)}")
        queries, gallery = (x[:, None] if x.ndim == 2 else x for x in (queries, gallery))
        self.queries, self.gallery = queries, gallery  # [Q, V, E], [G, W, E]
        query_norms, gallery_norms = _norms("queries", queries), _norms("gallery", gallery)
        query_exponents = np.frexp(query_norms / _HEADROOM)[1]
        largest, gallery_largest = (int(np.frexp(norms.max() / _HEADROOM)[1]) for norms in (query_norms, gallery_norms))
        self._query_factor, self._gallery_factor = (
            np.ldexp(1.0, _BITS - query_exponents),
            np.ldexp(1.0, _BITS - gallery_largest),
        )
        self._query_unit, self._gallery_unit = np.ldexp(1.0, -largest), np.ldexp(1.0, -gallery_largest)
        self.scale = np.ldexp(1.0, query_exponents + gallery_largest - 2 * _BITS)
        self.unit = np.ldexp(1.0, query_exponents - largest - 2 * _BITS)
        # However a sum of E float32 products is ordered, it is off by at most E u |q| |g| / (1 - E u), u = 2**-24
        # (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1); two more roundings make the inputs
        # float32, and fixed point moves every coordinate by half a step. The constant is for underflow.
        width = queries.shape[-1]
        relative = 1.01 * (width + 8) * 2.0**-24 + 2 * np.sqrt(width) * 2.0**-_BITS
        self.margin = relative * query_norms * self._query_unit * (gallery_norms.max() * self._gallery_unit)
        self.margin += (width + 1) * 2.0**-120

    def block(self, rows: slice | Integer[np.ndarray, " q"], columns: slice) -> Float64[np.ndarray, "q g"]:
        """Exact products of a block of queries and gallery rows, whole numbers."""
        return _largest(self._query_grid(rows), np.rint(self.gallery[columns] * self._gallery_factor))

    def pairs(self, queries: Integer[np.ndarray, " P"], items: Integer[np.ndarray, " P"]) -> Float64[np.ndarray, " P"]:
        """Exact products of single pairs, whole numbers; the same bits as `block` gives."""
        products = np.empty(len(queries))
        for part in blocks(len(queries), _PAIRS):
            grid = np.rint(self.gallery[items[part]] * self._gallery_factor)
            products[part] = np.einsum("PVE,PWE->PVW", self._query_grid(queries[part]), grid).max(axis=(1, 2))
        return products

    def pairs_of_block(
        self, queries: Integer[np.ndarray, " P"], items: Integer[np.ndarray, " P"], rows: slice, columns: slice
    ) -> Float64[np.ndarray, " P"]:
        """Exact products of pairs that all lie in one block, by whichever of the two ways is shorter."""
        if _SPARSE * len(queries) < (rows.stop - rows.start) * (columns.stop - columns.start):
            return self.pairs(queries, items)
        return self.block(rows, columns)[queries - rows.start, items - columns.start]

    def approximate(self, rows: slice, columns: slice) -> Float32[np.ndarray, "q g"]:
        """Products of a block in float32, all in one unit."""
        gallery = _float32(self.gallery[columns], self._gallery_unit)
        return _largest(_float32(self.queries[rows], self._query_unit), gallery)

    def _query_grid(self, rows: slice | np.ndarray) -> np.ndarray:
        return np.rint(self.queries[rows] * self._query_factor[rows, None, None])


def similarity(
    queries: Float[np.ndarray, "Q *V E"], gallery: Float[np.ndarray, "G *W E"], *, block: int = BLOCK
) -> Float32[np.ndarray, "Q G"]:
    """All scores of two sets of embeddings (see `Scores`), each rounded once from its exact fixed-point value."""
    scores = Scores(queries, gallery)
    out = np.empty((len(queries), len(gallery)), np.float32)
    for rows in blocks(len(queries), block):
        for columns in blocks(len(gallery), block):
            out[rows, columns] = scores.block(rows, columns) * scores.scale[rows, None]
    return out


def top_matches(
    queries: Float[np.ndarray, "Q *V E"], gallery: Float[np.ndarray, "G *W E"], k: int, *, block: int = BLOCK
) -> tuple[Integer[np.ndarray, "Q K"], Float32[np.ndarray, "Q K"]]:
    """The indices and scores of each query's K best gallery rows, best first; the lower index first among equals.

    K is `k`, or the size of the gallery where that is smaller. At most about `block` x (`block` + K) scores exist at a
    time, and the result does not depend on `block`.
    """
    k = min(k, len(gallery))
    scores = Scores(queries, gallery)
    indices = np.empty((len(queries), k), np.int64)
    values = np.empty((len(queries), k), np.float32)
    for rows in blocks(len(queries), block):
        best = _top_of_rows(scores, rows, len(gallery), k, block)
        indices[rows], values[rows] = best[0], best[1] * scores.scale[rows, None]
    return indices, values


def _top_of_rows(scores: Scores, rows: slice, count: int, k: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    size = rows.stop - rows.start
    unit, margin = scores.unit[rows, None], scores.margin[rows, None]
    kept, kept_items = np.full((size, k), -np.inf), np.full((size, k), count)
    for columns in blocks(count, block):
        near = scores.approximate(rows, columns)
        with np.errstate(invalid="ignore"):
            floor = round_down(kept[:, -1:] * unit - margin)
        mask = near >= floor
        if np.count_nonzero(mask) > 2 * k * size and near.shape[1] > k:
            # An item whose float32 score is further below the k-th one than both can be wrong is not among the best.
            mask &= near >= round_down(np.partition(near, -k, axis=1)[:, -k, None].astype(np.float64) - 2 * margin)
        row, item = np.divmod(np.flatnonzero(mask), near.shape[1])
        products = scores.pairs_of_block(row + rows.start, item + columns.start, rows, columns)
        row = np.concatenate([np.arange(size).repeat(k), row])
        item = np.concatenate([kept_items.ravel(), item + columns.start])
        products = np.concatenate([kept.ravel(), products])
        order = np.lexsort((item, -products, row))
        position = np.arange(len(order)) - np.searchsorted(row[order], np.arange(size))[row[order]]
        order = order[position < k]  # every query has at least the k that were kept, so this is k for each
        kept, kept_items = products[order].reshape(size, k), item[order].reshape(size, k)
    return kept_items, kept


def round_down(values: Float64[np.ndarray, "*any"]) -> Float32[np.ndarray, "*any"]:
    """The nearest float32 that is not above."""
    rounded = values.astype(np.float32)
    return np.where(rounded > values, np.nextafter(rounded, np.float32(-np.inf)), rounded)


def round_up(values: Float64[np.ndarray, "*any"]) -> Float32[np.ndarray, "*any"]:
    """The nearest float32 that is not below."""
    return -round_down(-values)


def blocks(count: int, block: int) -> Iterator[slice]:
    """Slices that cover range(count), `block` long but for the last."""
    for start in range(0, count, block):
        yield slice(start, min(start + block, count))


def _largest(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The largest product of the vectors of each pair: [Q, V, E] and [G, W, E] to [Q, G], two such arrays at a time."""
    best = left[:, 0] @ right[:, 0].T
    for v, w in itertools.product(range(left.shape[1]), range(right.shape[1])):
        if v or w:
            np.maximum(best, left[:, v] @ right[:, w].T, out=best)
    return best


def _float32(rows: np.ndarray, factor: float) -> np.ndarray:
    if rows.dtype == np.float32 and factor == 1.0:
        return rows
    return (rows * np.float64(factor)).astype(np.float32)


def _norms(name: str, rows: np.ndarray) -> np.ndarray:
    norms = np.empty(len(rows))
    for part in blocks(len(rows), 65536):
        norms[part] = np.sqrt(np.einsum("NVE,NVE->NV", rows[part], rows[part], dtype=np.float64)).max(axis=1)
    if not np.isfinite(norms).all():
        bad = np.flatnonzero(~np.isfinite(norms))
        raise ValueError(f"{name}: {bad.size} of {len(rows)} embeddings are not finite, the first at {bad[0]}")
    return norms
