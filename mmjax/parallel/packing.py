"""Texts [B, L] in rows of several texts each, and back, on the device that has them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from mmjax.parallel.mesh import BATCH_AXES, traced_mesh


class TextPlaces(struct.PyTreeNode):
    """Where each text of a batch stands in its device's rows.

    Attributes:
      row, column: of its first token, int32 [B]; on the way to the devices and in tracing not yet arrays.
      rows: of a device.
      length: tokens of a row.
    """

    row: Any
    column: Any
    rows: int = struct.field(pytree_node=False)
    length: int = struct.field(pytree_node=False)


def pack(
    text: Int[Array, "B L"], last: Int[Array, " B"], slots: TextPlaces, nothing: int
) -> tuple[Int[Array, "R T"], Int[Array, "R T"], Int[Array, "R T"]]:
    """Puts texts into rows.

    Args:
      text: ids.
      last: number of each text's last token; those after it are left out.
      slots: where texts begin. They must not overlap.
      nothing: id of slots where no text stands.

    Returns:
      Ids; their positions in their text, -1 where no text stands; and numbers of the texts from 1 on, 0 for none.
      R counts the rows of all devices.
    """

    def local(text, last, row, column):
        texts, columns = jnp.arange(len(text)), jnp.arange(slots.length)
        # Texts are marked where they begin, and each slot belongs to the last one that has begun in its row.
        begins = jnp.zeros((slots.rows, slots.length), jnp.int32)
        begins = begins.at[row, column].set(texts + 1, mode="drop", unique_indices=True)
        first = jax.lax.cummax(jnp.where(begins > 0, columns, -1), axis=1)
        number = jnp.take_along_axis(begins, jnp.maximum(first, 0), axis=1)
        text_number = jnp.maximum(number - 1, 0)
        position = columns - first
        real = (number > 0) & (position <= last[text_number])
        ids = text[text_number, jnp.minimum(position, text.shape[1] - 1)]
        return tuple(jnp.where(real, x, other) for x, other in ((ids, nothing), (position, -1), (number, 0)))

    return on_each_device(local)(text, last, slots.row, slots.column)


def take_last(tokens: Float[Array, "R T D"], last: Int[Array, " B"], slots: TextPlaces) -> Float[Array, "B D"]:
    """The token of each packed text that a tower pools: number `last`."""
    local = lambda tokens, last, row, column: tokens.at[row, column + last].get(
        mode="promise_in_bounds", unique_indices=True
    )
    return on_each_device(local)(tokens, last, slots.row, slots.column)


def on_each_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of rows of the batch, run by every device on its own."""
    if traced_mesh() is None:
        return function
    rows = PartitionSpec(BATCH_AXES)
    return lambda *arrays: jax.shard_map(function, in_specs=(rows,) * len(arrays), out_specs=rows)(*arrays)


def rows_by_number(table: Float[Array, "N D"], numbers: Int[Array, "R T"]) -> Float[Array, "R T D"]:
    """`table[numbers]` for a small table, zeros for -1.

    As a product: the gradient of indexing adds all tokens into few rows, one after the other.
    """
    chosen = jax.nn.one_hot(numbers, len(table), dtype=table.dtype)
    return jnp.einsum("RTN,ND->RTD", chosen, table, precision="highest")
