"""Arrays of a step on the mesh, with axes `data`, `fsdp` and `tensor`: rows, global arrays, microbatches, activations.

`make_mesh` makes it, and `partition` says where parameters lie on it. Activations are spread here where the
partitioner's own choice is a bad one: left to itself with parameters sharded over `fsdp`, it may split the width of an
activation over `fsdp` and give every device all rows of the batch: each would do its neighbours' attention again.
"""

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Shaped

AXES = ("data", "fsdp", "tensor")
# The batch is spread over these; `tensor` devices share their rows.
BATCH_AXES = ("data", "fsdp")
# Platform of the devices that are traced for.
_PLATFORM: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


def batch_devices(mesh: Mesh | AbstractMesh) -> int:
    """Over how many devices the batch is split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def rows_over_all(mesh: Mesh) -> NamedSharding:
    """Rows over every axis, `tensor` too, in the order of the devices."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def local_rows(mesh: Mesh, global_batch: int) -> np.ndarray:
    """Returns the row numbers of a global batch that live on this process's devices, ascending."""
    index_map = batch_sharding(mesh).addressable_devices_indices_map((global_batch,))
    blocks = [index[0] for index in index_map.values() if index is not None]
    rows = {row for block in blocks for row in range(*block.indices(global_batch))}
    return np.array(sorted(rows))


def rows_counted_here(mesh: Mesh, global_batch: int) -> np.ndarray:
    """Returns which of `local_rows` this process speaks for, as booleans: each row of a batch has one such process.

    Where `tensor` spans processes, several of them hold the same row.
    """
    first: dict[int, int] = {}  # by a row block's first row, the lowest process that holds it
    for device, (index,) in batch_sharding(mesh).devices_indices_map((global_batch,)).items():
        start, holder = index.indices(global_batch)[0], int(device.process_index)
        first[start] = min(first.get(start, holder), holder)
    size = global_batch // batch_devices(mesh)
    process = jax.process_index()
    return np.array([first[row // size * size] == process for row in local_rows(mesh, global_batch).tolist()])


def to_global(mesh: Mesh, local: Any) -> Any:
    """Makes global arrays, rows over `data` and `fsdp`, of every process's own rows.

    Args:
      mesh: the device mesh.
      local: a tree of numpy arrays, each with the rows `local_rows` of a batch, in that order.
    """
    sharding = batch_sharding(mesh)
    blocks = batch_devices(mesh)
    # A process's blocks of rows need be neither neighbours nor its alone.
    index_of_block = {int(block): i for i, block in enumerate(local_rows(mesh, blocks))}

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
        sharding = next(iter(spread.values())).sharding
        if not isinstance(sharding, NamedSharding):
            raise TypeError(f"an array is spread by a {type(sharding).__name__}, which names no mesh to gather it over")
        for i, x in _gather(sharding.mesh)(spread).items():
            leaves[i] = x
    return treedef.unflatten([np.asarray(x) for x in leaves])


@functools.cache
def _gather(mesh: Mesh) -> Any:
    """One program for a whole tree, compiled once for each of its shapes."""
    return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))


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
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(None, BATCH_AXES)))


def _join(x: Shaped[Array, "P b *rest"], mesh: Mesh | None) -> Shaped[Array, "B *rest"]:
    """Undoes `_split`."""
    x = x.swapaxes(0, 1)
    x = x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])  # no -1: a feature may have no width
    return x if mesh is None else jax.lax.with_sharding_constraint(x, batch_sharding(mesh))


@contextlib.contextmanager
def activation_mesh(mesh: Mesh | None) -> Iterator[None]:
    """Context in which `shard_activation` and `row_major` place activations on a mesh; None changes nothing."""
    if mesh is None:
        yield
        return
    token = _PLATFORM.set(mesh.devices.flat[0].platform)
    try:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            yield
    finally:
        _PLATFORM.reset(token)


def traced_platform() -> str | None:
    """Platform of the devices that are traced for, as jax calls it; None outside `activation_mesh`."""
    return _PLATFORM.get()


def is_traced_for_gpu() -> bool:
    """Whether what is traced will run on GPUs."""
    return traced_platform() in ("gpu", "cuda")


@jax.custom_vjp
def _in_row_major(x: Shaped[Array, "B ..."]) -> Shaped[Array, "B ..."]:
    def constrain(x):
        flat = x.reshape(-1, x.shape[-1])
        return with_layout_constraint(flat, Layout(major_to_minor=(0, 1))).reshape(x.shape)

    mesh = traced_mesh()
    if mesh is None:
        return constrain(x)
    # The partitioner does not know that a layout does not matter between devices: it would gather the batch on each.
    rows = PartitionSpec(BATCH_AXES)
    return jax.shard_map(constrain, in_specs=rows, out_specs=rows)(x)


_in_row_major.defvjp(lambda x: (_in_row_major(x), None), lambda _, gradient: (_in_row_major(gradient),))


def row_major(x: Shaped[Array, "B ..."]) -> Shaped[Array, "B ..."]:
    """Lays tokens and their gradient out with the last axis running fastest, on GPUs.

    Left to itself XLA chooses the batch to run fastest for the residual stream, and keeps a float32 copy of it; norms
    and attention then transpose. Does nothing outside `activation_mesh`, on other platforms, and where the rows
    cannot be spread over the devices.
    """
    mesh = traced_mesh()
    spreads = mesh is None or len(x) % batch_devices(mesh) == 0
    return _in_row_major(x) if spreads and is_traced_for_gpu() else x


def traced_mesh() -> AbstractMesh | None:
    """The mesh of `activation_mesh`; None outside of it, under a mesh of other axes and inside `shard_map`."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.manual_axes or set(mesh.axis_names) != set(AXES) else mesh


def shard_activation(x: Shaped[Array, "B ..."], *axes: str | None) -> Shaped[Array, "B ..."]:
    """Spreads rows over `data` and `fsdp`, and the axes after them as named; the rest is whole on every device.

    Does nothing outside `activation_mesh`, or where an axis does not divide.
    """
    mesh = traced_mesh()
    if mesh is None or x.shape[0] % batch_devices(mesh):
        return x
    named = [
        axis if axis is not None and size % mesh.shape[axis] == 0 else None
        for size, axis in zip(x.shape[1:], axes, strict=False)
    ]
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES, *named))


def replicate_param(table: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """Gathers a sharded parameter before it is used, where the partitioner would rather move what is made with it.

    Does nothing outside `activation_mesh`.
    """
    if traced_mesh() is None:
        return table
    return jax.lax.with_sharding_constraint(table, PartitionSpec())


def embedding_lookup(table: Float[Array, "V D"], ids: Int[Array, "B ..."]) -> Float[Array, "B ... D"]:
    """Rows of a table by number: `table[ids]`, each device looking up its own.

    A table sharded over `fsdp` is gathered for it, and its gradient scattered back as it is summed. An id of V or more
    stands for nothing: it gives zeros, and no row a gradient.
    """
    rows_of = lambda table, ids: table.at[ids].get(mode="fill", fill_value=0)
    mesh = traced_mesh()
    shards = 1 if mesh is None else mesh.shape["fsdp"]
    if mesh is None or shards == 1 or len(table) % shards or len(ids) % batch_devices(mesh):
        return rows_of(replicate_param(table), ids)
    rows = PartitionSpec(BATCH_AXES)
    look_up = lambda part, ids: rows_of(jax.lax.all_gather(part, "fsdp", tiled=True), ids)
    return jax.shard_map(look_up, in_specs=(PartitionSpec("fsdp"), rows), out_specs=rows)(table, ids)
