"""Global arrays that span the mesh, made of this process's rows and fetched back to the host."""

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mmjax.parallel import mesh as mesh_lib


def to_global(mesh: Mesh, local: Any) -> Any:
    """Makes global arrays, rows over `data` and `fsdp`, of every process's own rows.

    Args:
      mesh: the device mesh.
      local: a tree of numpy arrays, each with the rows `mesh.local_rows` of a batch, in that order.
    """
    sharding = mesh_lib.batch_sharding(mesh)
    blocks = mesh_lib.batch_devices(mesh)
    # A process's blocks of rows need be neither neighbours nor its alone.
    index_of_block = {int(block): i for i, block in enumerate(mesh_lib.local_rows(mesh, blocks))}

    def put(x: np.ndarray) -> jax.Array:
        size = len(x) // len(index_of_block)

        def rows(index):
            start = index_of_block[(index[0].start or 0) // size] * size
            return x[start : start + size]

        return jax.make_array_from_callback((size * blocks, *x.shape[1:]), sharding, rows)

    return jax.tree.map(put, local)


def to_host(tree: Any) -> Any:
    """Fetches global arrays as numpy; every process must call it where an array is spread over them."""
    leaves, treedef = jax.tree.flatten(tree)
    spread = {
        i: x
        for i, x in enumerate(leaves)
        if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated)
    }
    if spread:
        mesh = next(iter(spread.values())).sharding.mesh
        for i, x in _gather(mesh)(spread).items():
            leaves[i] = x
    return treedef.unflatten([np.asarray(x) for x in leaves])


@functools.cache
def _gather(mesh: Mesh) -> Any:
    """One program for a whole tree, compiled once for each of its shapes."""
    return jax.jit(lambda tree: tree, out_shardings=mesh_lib.replicated(mesh))
