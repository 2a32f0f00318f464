"""Collectives over all devices of a mesh, whatever its axes: every device has a number on one ring."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh


def per_device(function: Callable, mesh: Mesh, in_specs: Any, out_specs: Any) -> Callable:
    """`function` on each device's own part of its arguments.

    Replication is not checked: what the functions here return as replicated comes out of a sum over all devices.
    """
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def device_number(mesh: Mesh) -> jax.Array:
    """This device's number on the ring; inside `per_device` only."""
    return jax.lax.axis_index(mesh.axis_names)


def ppermute_ring(tree: Any, mesh: Mesh, axes: Sequence[str] | None = None) -> Any:
    """Hands arrays to the next device of the ring and takes the previous one's; inside `per_device` only.

    Vectors of one type and length travel as one message, since each costs a message's latency and little else.

    Args:
      tree: the arrays.
      mesh: the device mesh.
      axes: of the mesh, where several smaller rings are wanted; None for one ring of all devices.
    """
    axes = mesh.axis_names if axes is None else tuple(axes)
    size = math.prod(mesh.shape[axis] for axis in axes)
    steps = [(i, (i + 1) % size) for i in range(size)]
    send = lambda x: jax.lax.ppermute(x, axes, steps)
    leaves, structure = jax.tree.flatten(tree)
    groups: dict[Any, list[int]] = {}
    for index, leaf in enumerate(leaves):
        groups.setdefault((leaf.shape, leaf.dtype) if leaf.ndim == 1 else index, []).append(index)
    for indices in groups.values():
        if len(indices) == 1:
            leaves[indices[0]] = send(leaves[indices[0]])
        else:
            for index, received in zip(indices, send(jnp.stack([leaves[i] for i in indices])), strict=True):
                leaves[index] = received
    return jax.tree.unflatten(structure, leaves)
