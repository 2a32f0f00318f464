"""Rows by number and the largest entries of rows, without the gathers that the partitioner would make of them."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from mmjax.parallel.mesh import BATCH_AXES, batch_devices, traced_mesh


def take_rows(carry: Any, rows: Int[Array, " R2"], axis: int = 0, examples: int | None = None) -> Any:
    """Picks rows of every leaf of a carry, in any order and any number.

    Args:
      carry: tree of arrays; a leaf without this axis (a position counter) has no rows and stays as it is.
      rows: their numbers.
      axis: where the leaves have their rows: 1 for a stacked cache [layers, R, ...].
      examples: as many examples own the rows, evenly and in order, before and after, and each picks among its own only,
        as `generate` does. Then no row travels between devices that hold all rows of their examples.
    """

    def pick(x):
        if x.ndim <= axis:
            return x
        if examples is None:
            return x[(slice(None),) * axis + (rows,)]
        per_example = x.shape[axis] // examples
        index = rows.reshape(examples, -1) - per_example * jnp.arange(examples)[:, None]
        x = x.reshape(x.shape[:axis] + (examples, per_example) + x.shape[axis + 1 :])
        before = (slice(None),) * axis
        x = jax.vmap(lambda x, index: x[(*before, index)], in_axes=(axis, 0), out_axes=axis)(x, index)
        return x.reshape(x.shape[:axis] + (len(rows),) + x.shape[axis + 2 :])

    return jax.tree.map(pick, carry)


def top_k_rows(x: Float[Array, "R N"], k: int) -> tuple[Float[Array, "R k"], Int[Array, "R k"]]:
    """`jax.lax.top_k`, each device for its own rows; left to the partitioner all would receive all rows."""

    def top_k(x: Float[Array, "r N"]) -> tuple[Float[Array, "r k"], Int[Array, "r k"]]:
        values, columns = jax.lax.top_k(x, k)
        return values, columns

    mesh = traced_mesh()
    if mesh is None or len(x) % batch_devices(mesh):
        return top_k(x)
    spec = PartitionSpec(BATCH_AXES)
    return jax.shard_map(top_k, in_specs=spec, out_specs=(spec, spec))(x)
