"""The symmetric softmax loss in tiles, with its own backward pass.

For each row and column the log-sum-exp over its negatives is kept apart from that over its positives. Near convergence
a positive's gradient p - 1 is a difference of equal numbers; here it is the negated sum of the negatives'
probabilities, `-sigmoid(lse_negatives - lse_positives)`, exact to float32 however small.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmjax.objectives import tiled_logits
from mmjax.utils.custom_gradient import custom_vjp


class LogSumExp(NamedTuple):
    """A log-sum-exp of logits of each row, [N], as the largest logit and the sum of exponentials less than that."""

    largest: Array
    sum: Array

    def merge(self, other: "LogSumExp") -> "LogSumExp":
        """The one over both's logits."""
        largest = jnp.maximum(self.largest, other.largest)
        return LogSumExp(
            largest, self.sum * jnp.exp(self.largest - largest) + other.sum * jnp.exp(other.largest - largest)
        )

    def value(self) -> Array:
        """The log-sum-exp."""
        return self.largest + jnp.log(self.sum)


class PositiveStats(NamedTuple):
    """Running sums over the positive logits of each row, [N] each: their log-sum-exp, their sum and their number."""

    lse: LogSumExp
    total: Array
    count: Array

    def merge(self, other: "PositiveStats") -> "PositiveStats":
        """The statistics over both's logits."""
        return PositiveStats(self.lse.merge(other.lse), self.total + other.total, self.count + other.count)


class Stats(NamedTuple):
    """Running sums over the logits of each row.

    Attributes:
      negatives: log-sum-exp over the negatives.
      positives: None with unique positives, where the one positive logit is known beforehand.
    """

    negatives: LogSumExp
    positives: PositiveStats | None = None

    @classmethod
    def empty(cls, n: int, unique: bool) -> "Stats":
        zero = jnp.zeros(n)
        lse = LogSumExp(jnp.full(n, tiled_logits.NEG_INF), zero)
        return cls(lse) if unique else cls(lse, PositiveStats(lse, zero, zero))

    def merge(self, other: "Stats") -> "Stats":
        """The statistics over both's logits."""
        negatives = self.negatives.merge(other.negatives)
        if self.positives is None or other.positives is None:
            return Stats(negatives)
        return Stats(negatives, self.positives.merge(other.positives))


class PositiveWeights(NamedTuple):
    """Factors of the gradient of a row's positive logits, [N] each.

    Attributes:
      largest, factor: a positive's share among the positives is `exp(logit - largest) * factor`.
      share: 1 / number of positives.
    """

    largest: Array
    factor: Array
    share: Array


class Weights(NamedTuple):
    """Factors of the gradient of a row's logits, [N] each.

    Probabilities come from the same maximum and sum as in the forward pass, so that they add up to one to float32's
    last digit; from a rounded log-sum-exp of 100 they would miss it by 1e-5.

    Attributes:
      max_neg, negative: a negative's probability is `exp(logit - max_neg) * negative`.
      negative_prob: probability of all negatives together.
      positives: None with unique positives.
    """

    max_neg: Array
    negative: Array
    negative_prob: Array
    positives: PositiveWeights | None = None


def row_losses(
    negatives: LogSumExp, positives: PositiveStats | Array
) -> tuple[Float[Array, " N"], Bool[Array, " N"], Weights]:
    """Loss of each row, whether its largest logit is a positive, and the weights of its gradient.

    Args:
      negatives: over all negatives of each row.
      positives: over all positives; where each row has one, its logit [N].
    """
    sum_neg = jnp.maximum(negatives.sum, jnp.finfo(jnp.float32).tiny)
    lse_neg = LogSumExp(negatives.largest, sum_neg).value()
    lse_pos = positives.lse.value() if isinstance(positives, PositiveStats) else positives
    loss, negative_prob = jax.nn.softplus(lse_neg - lse_pos), jax.nn.sigmoid(lse_neg - lse_pos)
    weights = Weights(negatives.largest, negative_prob / sum_neg, negative_prob)
    if not isinstance(positives, PositiveStats):
        return loss, positives > negatives.largest, weights
    lse, total, count = positives
    # A lone positive is its own log-sum-exp: not left to rounding.
    spread = jnp.where(count == 1, 0.0, lse_pos - total / count)
    weights = weights._replace(positives=PositiveWeights(lse.largest, 1 / lse.sum, 1 / count))
    return loss + spread, lse.largest > negatives.largest, weights


def tile_stats(logits: tiled_logits.Tile, positive: Bool[Array, "R C"], fresh: Any, axis: int, unique: bool) -> Stats:
    """Statistics of a tile along an axis. `fresh` is False where another tile has the logit already; None nowhere."""
    negative = ~positive if fresh is None else ~positive & fresh
    spread = functools.partial(jnp.expand_dims, axis=axis)
    max_neg = jnp.max(jnp.where(negative, logits, tiled_logits.NEG_INF), axis)
    if unique:
        return Stats(LogSumExp(max_neg, jnp.sum(jnp.where(negative, jnp.exp(logits - spread(max_neg)), 0), axis)))
    positive = positive if fresh is None else positive & fresh
    max_pos = jnp.max(jnp.where(positive, logits, tiled_logits.NEG_INF), axis)
    # Each logit is one or the other, so one exponential does for both sums.
    power = jnp.exp(logits - jnp.where(positive, spread(max_pos), spread(max_neg)))
    return Stats(
        LogSumExp(max_neg, jnp.sum(jnp.where(negative, power, 0), axis)),
        PositiveStats(
            LogSumExp(max_pos, jnp.sum(jnp.where(positive, power, 0), axis)),
            jnp.sum(jnp.where(positive, logits, 0), axis),
            jnp.sum(positive, axis, dtype=jnp.float32),
        ),
    )


def tile_gradient(
    logits: tiled_logits.Tile, positive: Bool[Array, "R C"], weights: Weights, axis: int
) -> tiled_logits.Tile:
    """Gradient of the sum of losses along `axis` with respect to a tile of logits."""
    w: Weights = jax.tree.map(lambda x: jnp.expand_dims(x, axis), weights)
    if w.positives is None:
        return jnp.where(positive, -w.negative_prob, jnp.exp(logits - w.max_neg) * w.negative)
    power = jnp.exp(logits - jnp.where(positive, w.positives.largest, w.max_neg))
    among, share = power * w.positives.factor, w.positives.share
    # p - 1/|P| for p = among (1 - negative_prob), ordered so that what is left of a lone positive does not cancel.
    several = (among - share) - among * w.negative_prob
    return jnp.where(positive, jnp.where(share == 1, -w.negative_prob, several), power * w.negative)


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


@custom_vjp((0,))
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
        paired_logits = scale * jnp.sum(x * y, axis=-1) if layout.unique else None
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
        results = [
            row_losses(stats.negatives, stats.positives if paired_logits is None else paired_logits)
            for stats in (row_stats, column_stats)
        ]
        losses, hits, weights = zip(*results, strict=True)
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
