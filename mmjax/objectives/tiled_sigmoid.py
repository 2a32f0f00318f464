"""The sigmoid loss in tiles. A logit's gradient needs no other logit, so one walk gives the loss and the gradients."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from mmjax.objectives import tiled_logits
from mmjax.utils.custom_gradient import custom_vjp


class SigmoidSums(NamedTuple):
    """Running results over the logits of this device's rows."""

    loss: Array  # [N]
    slope: Array | None  # [N] gradient with respect to the bias; None without gradients
    by_row: Array | None  # [N, E] gradient, without the factor scale
    best: tuple[Array, Array]  # [N] largest negative and positive logit


class SigmoidColumns(NamedTuple):
    """Running results of columns."""

    by_column: Array | None
    best: tuple[Array, Array]


def _sigmoid_tiles(
    rows: tiled_logits.Side, columns: tiled_logits.Side, sums: SigmoidSums, ends: SigmoidColumns, scale, bias, layout
):
    """Adds the logits of rows x columns; a logit's slope needs no other logit, so gradients come with the loss."""

    def body(state, row, column, height, width, fresh):
        sums, ends = state
        some_rows, some_columns = tiled_logits.take(rows, row, height), tiled_logits.take(columns, column, width)
        logits, positive = tiled_logits.tile(some_rows, some_columns, scale, layout)
        logits = logits + bias
        against = jnp.where(positive, -logits, logits)
        losses = jax.nn.softplus(against)
        losses = losses if fresh is None else jnp.where(fresh, losses, 0)
        loss = tiled_logits.put(sums.loss, tiled_logits.take(sums.loss, row, height) + jnp.sum(losses, 1), row)
        slope, gradients = sums.slope, (sums.by_row, ends.by_column)
        if slope is not None:
            slopes = jnp.where(positive, -1.0, 1.0) * jax.nn.sigmoid(against)
            slopes = slopes if fresh is None else jnp.where(fresh, slopes, 0)
            slope = tiled_logits.put(slope, tiled_logits.take(slope, row, height) + jnp.sum(slopes, 1), row)
            gradients = tiled_logits.add_products(gradients, slopes, some_rows, some_columns, row, column, None, layout)
        kinds = (~positive, positive)
        best = []
        for old, start, axis in ((sums.best, row, 1), (ends.best, column, 0)):
            new = tuple(jnp.max(jnp.where(kind, logits, tiled_logits.NEG_INF), axis) for kind in kinds)
            best.append(
                tiled_logits.put(old, jax.tree.map(jnp.maximum, tiled_logits.take(old, start, len(new[0])), new), start)
            )
        return SigmoidSums(loss, slope, gradients[0], best[0]), SigmoidColumns(gradients[1], best[1])

    return tiled_logits.over_tiles(len(rows.x), len(columns.x), layout.block_size, body, (sums, ends))


@custom_vjp((0,))
def sigmoid(
    layout: tiled_logits.Layout, image: Array, text: Array, scale: Array, bias: Array, ids: Array | None
) -> tuple[Array, Array]:
    """SigLIP's loss, as `contrastive.sigmoid_loss` defines it; returns (loss, accuracy). Arguments as `softmax`'s."""
    return _sigmoid_run(layout, image, text, scale, bias, ids, gradients=False)[:2]


def _sigmoid_run(layout, image, text, scale, bias, ids, *, gradients):
    batch = len(image)

    def run(x, y, ids, scale, bias):
        rows, columns = tiled_logits.local_sides(x, y, ids, layout)
        zero, floor = jnp.zeros(len(x)), jnp.full(len(x), tiled_logits.NEG_INF)
        sums = SigmoidSums(zero, zero if gradients else None, jnp.zeros_like(x) if gradients else None, (floor, floor))
        if layout.impl == "ring":
            ends = SigmoidColumns(jnp.zeros_like(y) if gradients else None, (floor, floor))

            def visit(sums, block):
                columns, ends = block
                sums, ends = _sigmoid_tiles(rows, columns, sums, ends, scale, bias, layout)
                return sums, (columns, ends)

            sums, (_, ends) = layout.around_ring(visit, sums, (columns, ends))
            by_column, best = ends
        else:
            all_columns = tiled_logits.gather_side(columns, tiled_logits.all_keys(columns, layout), layout)
            total = len(all_columns.x)
            ends = SigmoidColumns(
                jnp.zeros_like(all_columns.x) if gradients else None,
                (jnp.full(total, tiled_logits.NEG_INF), jnp.full(total, tiled_logits.NEG_INF)),
            )
            sums, ends = _sigmoid_tiles(rows, all_columns, sums, ends, scale, bias, layout)
            by_column = layout.scatter(ends.by_column) if gradients else None
            best = ends.best
            if layout.mesh is not None:
                best = jax.lax.pmax(best, layout.mesh.axis_names)
            # Each device counts all columns: an equal share of the count is its own.
        hits = jnp.sum(sums.best[1] > sums.best[0]) + jnp.sum(best[1] > best[0]) / (len(best[0]) / len(x))
        loss, accuracy = layout.sum(jnp.sum(sums.loss)) / batch, layout.sum(0.5 * hits) / batch
        if not gradients:
            return loss, accuracy
        by_scale, by_bias = layout.sum(jnp.sum(x * sums.by_row)), layout.sum(jnp.sum(sums.slope))
        return loss, accuracy, scale * sums.by_row / batch, scale * by_column / batch, by_scale / batch, by_bias / batch

    rows = (image, text, ids)
    out_rows = (False, False, True, True, False, False) if gradients else (False, False)
    return layout.run(run, rows, (scale, bias), out_rows)


def _sigmoid_forward(layout, image, text, scale, bias, ids):
    loss, accuracy, *gradients = _sigmoid_run(layout, image, text, scale, bias, ids, gradients=True)
    return (loss, accuracy), gradients


def _sigmoid_backward(layout, gradients, cotangents):
    return *(cotangents[0] * gradient for gradient in gradients), None


sigmoid.defvjp(_sigmoid_forward, _sigmoid_backward)
