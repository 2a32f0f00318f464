"""The symmetric softmax loss in tiles, with its own backward pass.

For each row and column the log-sum-exp over its negatives is kept apart from that over its positives. Near convergence
a positive's gradient p - 1 is a difference of equal numbers; here it is the negated sum of the negatives'
probabilities, `-sigmoid(lse_negatives - lse_positives)`, exact to float32 however small.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from mmjax.objectives import tiled_logits


class Stats(NamedTuple):
    """Running sums over the logits of each row, [N] each. A log-sum-exp is kept as a maximum and a sum.

    The last four are None with unique positives, where the one positive logit is known beforehand.
    """

    max_neg: Array
    sum_neg: Array
    max_pos: Array | None = None
    sum_pos: Array | None = None
    total_pos: Array | None = None
    count: Array | None = None

    @classmethod
    def empty(cls, n: int, unique: bool) -> "Stats":
        floor, zero = jnp.full(n, tiled_logits.NEG_INF), jnp.zeros(n)
        return cls(floor, zero) if unique else cls(floor, zero, floor, zero, zero, zero)

    def merge(self, other: "Stats") -> "Stats":
        """The statistics over both's logits."""
        max_neg, sum_neg = _merge_lse(self.max_neg, self.sum_neg, other.max_neg, other.sum_neg)
        if self.max_pos is None:
            return Stats(max_neg, sum_neg)
        max_pos, sum_pos = _merge_lse(self.max_pos, self.sum_pos, other.max_pos, other.sum_pos)
        return Stats(max_neg, sum_neg, max_pos, sum_pos, self.total_pos + other.total_pos, self.count + other.count)


def _merge_lse(max_a, sum_a, max_b, sum_b):
    largest = jnp.maximum(max_a, max_b)
    return largest, sum_a * jnp.exp(max_a - largest) + sum_b * jnp.exp(max_b - largest)


class Weights(NamedTuple):
    """Factors of the gradient of a row's logits, [N] each.

    Probabilities come from the same maximum and sum as in the forward pass, so that they add up to one to float32's
    last digit; from a rounded log-sum-exp of 100 they would miss it by 1e-5.

    Attributes:
      max_neg, negative: a negative's probability is `exp(logit - max_neg) * negative`.
      negative_prob: probability of all negatives together.
      max_pos, positive: a positive's share among the positives is `exp(logit - max_pos) * positive`; None with unique
        positives.
      share: 1 / number of positives; None with unique ones.
    """

    max_neg: Array
    negative: Array
    negative_prob: Array
    max_pos: Array | None = None
    positive: Array | None = None
    share: Array | None = None


def row_losses(stats: Stats, positive_logit: Array | None) -> tuple[Array, Array, Weights]:
    """Loss of each row, whether its largest logit is a positive, and the weights of its gradient.

    Args:
      stats: over all logits of each row.
      positive_logit: [N] where each row has one positive; None elsewhere.
    """
    sum_neg = jnp.maximum(stats.sum_neg, jnp.finfo(jnp.float32).tiny)
    lse_neg = stats.max_neg + jnp.log(sum_neg)
    lse_pos = stats.max_pos + jnp.log(stats.sum_pos) if positive_logit is None else positive_logit
    loss, negative_prob = jax.nn.softplus(lse_neg - lse_pos), jax.nn.sigmoid(lse_neg - lse_pos)
    weights = Weights(stats.max_neg, negative_prob / sum_neg, negative_prob)
    if positive_logit is not None:
        return loss, positive_logit > stats.max_neg, weights
    # A lone positive is its own log-sum-exp: not left to rounding.
    spread = jnp.where(stats.count == 1, 0.0, lse_pos - stats.total_pos / stats.count)
    weights = weights._replace(max_pos=stats.max_pos, positive=1 / stats.sum_pos, share=1 / stats.count)
    return loss + spread, stats.max_pos > stats.max_neg, weights


def tile_stats(logits: tiled_logits.Tile, positive: Bool[Array, "R C"], fresh: Any, axis: int, unique: bool) -> Stats:
    """Statistics of a tile along an axis. `fresh` is False where another tile has the logit already; None nowhere."""
    negative = ~positive if fresh is None else ~positive & fresh
    spread = functools.partial(jnp.expand_dims, axis=axis)
    max_neg = jnp.max(jnp.where(negative, logits, tiled_logits.NEG_INF), axis)
    if unique:
        return Stats(max_neg, jnp.sum(jnp.where(negative, jnp.exp(logits - spread(max_neg)), 0), axis))
    positive = positive if fresh is None else positive & fresh
    max_pos = jnp.max(jnp.where(positive, logits, tiled_logits.NEG_INF), axis)
    # Each logit is one or the other, so one exponential does for both sums.
    power = jnp.exp(logits - jnp.where(positive, spread(max_pos), spread(max_neg)))
    return Stats(
        max_neg,
        jnp.sum(jnp.where(negative, power, 0), axis),
        max_pos,
        jnp.sum(jnp.where(positive, power, 0), axis),
        jnp.sum(jnp.where(positive, logits, 0), axis),
        jnp.sum(positive, axis, dtype=jnp.float32),
    )


def tile_gradient(
    logits: tiled_logits.Tile, positive: Bool[Array, "R C"], weights: Weights, axis: int
) -> tiled_logits.Tile:
    """Gradient of the sum of losses along `axis` with respect to a tile of logits."""
    w = Weights(*(None if x is None else jnp.expand_dims(x, axis) for x in weights))
    if w.share is None:
        return jnp.where(positive, -w.negative_prob, jnp.exp(logits - w.max_neg) * w.negative)
    power = jnp.exp(logits - jnp.where(positive, w.max_pos, w.max_neg))
    among = power * w.positive
    # p - 1/|P| for p = among (1 - negative_prob), ordered so that what is left of a lone positive does not cancel.
    several = (among - w.share) - among * w.negative_prob
    return jnp.where(positive, jnp.where(w.share == 1, -w.negative_prob, several), power * w.negative)


def _softmax_statistics(rows: tiled_logits.Side, columns: tiled_logits.Side, stats, scale, layout: tiled_logits.Layout):
    """Adds the logits of rows x columns to (row statistics, column statistics); either may be None."""

    def body(stats, row, column, height, width, fresh):
        logits, positive = tiled_logits.tile(
            tiled_logits.take(rows, row, height), tiled_logits.take(columns, column, width), scale, layout
        )
        added = []
        for old, start, size, axis in ((stats[0], row, height, 1), (stats[1], column, width, 0)):
            if old is not None:
                new = tile_stats(logits, positive, fresh, axis, layout.unique)
                old = tiled_logits.put(old, tiled_logits.take(old, start, size).merge(new), start)
            added.append(old)
        return tuple(added)

    return tiled_logits.over_tiles(len(rows.x), len(columns.x), layout.block_size, body, stats)


def _softmax_gradients(
    rows: tiled_logits.Side, columns: tiled_logits.Side, weights, gradients, scale, layout: tiled_logits.Layout
):
    """Adds, to the gradients of rows and columns, those of the losses with these weights.

    Args:
      rows, columns: the embeddings.
      weights: (rows' weights, columns' weights); either may be None.
      gradients: (rows', columns'), without the factor `scale`.
      scale: logit scale.
      layout: see `tiled_logits.Layout`.
    """

    def body(gradients, row, column, height, width, fresh):
        some_rows, some_columns = tiled_logits.take(rows, row, height), tiled_logits.take(columns, column, width)
        logits, positive = tiled_logits.tile(some_rows, some_columns, scale, layout)
        slope = jnp.float32(0.0)
        if weights[0] is not None:
            slope += tile_gradient(logits, positive, tiled_logits.take(weights[0], row, height), 1)
        if weights[1] is not None:
            slope += tile_gradient(logits, positive, tiled_logits.take(weights[1], column, width), 0)
        return tiled_logits.add_products(gradients, slope, some_rows, some_columns, row, column, fresh, layout)

    return tiled_logits.over_tiles(len(rows.x), len(columns.x), layout.block_size, body, gradients)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def softmax(
    layout: tiled_logits.Layout, image: Array, text: Array, scale: Array, ids: Array | None
) -> tuple[Array, Array]:
    """Symmetric InfoNCE, as `contrastive.softmax_loss` defines it; returns (loss, accuracy).

    Args:
      layout: see `tiled_logits.Layout`.
      image, text: [B, E] float32, B a multiple of the mesh's size.
      scale: logit scale.
      ids: [B, 2] uint32, or None with `layout.unique`.
    """
    return _softmax_forward(layout, image, text, scale, ids)[0]


def _softmax_forward(layout, image, text, scale, ids):
    batch, ringed = len(image), layout.impl == "ring"

    def forward(x, y, ids, scale):
        rows, columns = tiled_logits.local_sides(x, y, ids, layout)
        positive = scale * jnp.sum(x * y, axis=-1) if layout.unique else None
        empty = Stats.empty(len(x), layout.unique)
        gathered = ()
        if ringed:

            def visit(row_stats, block):
                columns, column_stats = block
                row_stats, column_stats = _softmax_statistics(rows, columns, (row_stats, column_stats), scale, layout)
                return row_stats, (columns, column_stats)

            row_stats, (_, column_stats) = layout.around_ring(visit, empty, (columns, empty))
        else:
            keys = tiled_logits.all_keys(rows, layout)
            all_rows, all_columns = (
                tiled_logits.gather_side(rows, keys, layout),
                tiled_logits.gather_side(columns, keys, layout),
            )
            row_stats, _ = _softmax_statistics(rows, all_columns, (empty, None), scale, layout)
            column_stats, _ = _softmax_statistics(columns, all_rows, (empty, None), scale, layout)
            gathered = (all_rows.x, all_columns.x, keys)
        losses, hits, weights = zip(*(row_losses(stats, positive) for stats in (row_stats, column_stats)), strict=True)
        loss = layout.sum(0.5 * (jnp.sum(losses[0]) + jnp.sum(losses[1]))) / batch
        accuracy = layout.sum(0.5 * (jnp.sum(hits[0]) + jnp.sum(hits[1]))) / batch
        return loss, accuracy, weights, gathered

    # What `gather` gathered serves the backward pass too.
    loss, accuracy, weights, gathered = layout.run(forward, (image, text, ids), (scale,), (False, False, True, False))
    return (loss, accuracy), (image, text, scale, ids, weights, gathered)


def _softmax_backward(layout, residuals, cotangents):
    image, text, scale, ids, weights, gathered = residuals
    factor = 0.5 * cotangents[0] / len(image)

    def backward(x, y, ids, weights, gathered, scale, factor):
        rows, columns = tiled_logits.local_sides(x, y, ids, layout)
        by_row, by_column = jnp.zeros_like(x), jnp.zeros_like(y)
        if layout.impl == "ring":

            def visit(by_row, block):
                columns, column_weights, by_column = block
                by_row, by_column = _softmax_gradients(
                    rows, columns, (weights[0], column_weights), (by_row, by_column), scale, layout
                )
                return by_row, (columns, column_weights, by_column)

            by_row, (_, _, by_column) = layout.around_ring(visit, by_row, (columns, weights[1], by_column))
            by_scale = jnp.sum(x * by_row)
        else:
            all_x, all_y, keys = gathered
            by_row, all_by_column = _softmax_gradients(
                rows, tiled_logits.Side(all_y, keys), (weights[0], None), (by_row, jnp.zeros_like(all_y)), scale, layout
            )
            by_column, all_by_row = _softmax_gradients(
                columns,
                tiled_logits.Side(all_x, keys),
                (weights[1], None),
                (by_column, jnp.zeros_like(all_x)),
                scale,
                layout,
            )
            by_scale = jnp.sum(x * by_row) + jnp.sum(y * by_column)
            by_row, by_column = by_row + layout.scatter(all_by_row), by_column + layout.scatter(all_by_column)
        factor_scale = factor * scale
        return factor_scale * by_row, factor_scale * by_column, factor * layout.sum(by_scale)

    rows = (image, text, ids, weights)
    by_image, by_text, by_scale = layout.run(backward, rows, (gathered, scale, factor), (True, True, False))
    return by_image, by_text, by_scale, None


softmax.defvjp(_softmax_forward, _softmax_backward)
