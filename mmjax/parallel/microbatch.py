"""Microbatches: pieces of a batch that run one after the other, cut so that no row leaves its device."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

from mmjax.parallel import mesh as mesh_lib


def map_microbatches(function: Callable[[Any], Any], rows: Any, pieces: int, mesh: Mesh | None) -> Any:
    """`function` of a tree of rows, on one piece after the other; its tree of rows comes back in their order."""
    if pieces == 1:
        return function(rows)
    parts = jax.tree.map(lambda x: _split(x, pieces, mesh), rows)
    return jax.tree.map(lambda x: _join(x, mesh), jax.lax.map(function, parts))


def _split(x: Shaped[Array, "B *rest"], pieces: int, mesh: Mesh | None) -> Shaped[Array, "P b *rest"]:
    """[B, ...] -> [pieces, B / pieces, ...]; piece j takes rows j, j + pieces, ..."""
    x = x.reshape(x.shape[0] // pieces, pieces, *x.shape[1:]).swapaxes(0, 1)
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(None, mesh_lib.BATCH_AXES)))


def _join(x: Shaped[Array, "P b *rest"], mesh: Mesh | None) -> Shaped[Array, "B *rest"]:
    """Undoes `_split`."""
    x = x.swapaxes(0, 1)
    x = x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])  # no -1: a feature may have no width
    return x if mesh is None else jax.lax.with_sharding_constraint(x, mesh_lib.batch_sharding(mesh))
