"""The device mesh, with axes `data`, `fsdp` and `tensor`, and batches over it: rows, global arrays, microbatches."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

from mmjax.errors import UserError
from mmjax.parallel.config import MeshConfig

AXES = ("data", "fsdp", "tensor")
# The batch is spread over these; `tensor` devices share their rows.
BATCH_AXES = ("data", "fsdp")


def make_mesh(settings: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Builds the mesh.

    Where groups of devices are joined by slower links (TPU slices, see `_slices`), the outermost part of `data` goes
    across them, so that `fsdp` and `tensor` stay within one. Elsewhere devices come in the order of their processes,
    so the inner axes stay within a host as far as they fit.

    Args:
      settings: devices along each axis; at most one may be -1, which takes what the others leave. `slices` is the
        number of such groups; 0 finds it.
      devices: all devices by default.

    Raises:
      UserError: the axes do not multiply to the number of devices, or `data` not over the groups.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [settings.data, settings.fsdp, settings.tensor]
    axes = ", ".join(f"mesh.{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
        raise UserError(
            f"{axes}: each axis takes a positive number, and one of them may be -1 for the devices left over"
        )
    if -1 in sizes:
        rest = math.prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = max(1, len(devices) // rest)
    if math.prod(sizes) != len(devices):
        raise UserError(
            f"{axes} makes {math.prod(sizes)} devices, but there are {len(devices)}; their product must be the same"
        )
    # Axis types are explicit because jax's default, Explicit, rejects linen's row-parallel dense layers.
    types = (AxisType.Auto,) * len(AXES)
    groups = _slices(devices, settings.slices)
    if sizes[0] % len(groups):
        raise UserError(
            f"{axes}: mesh.data, here {sizes[0]}, does not divide over mesh.slices={len(groups)}, and fsdp and tensor"
            f" stay within a slice; make it a multiple of {len(groups)}, or set mesh.slices=1 to cross them regardless"
        )
    inner = (sizes[0] // len(groups), *sizes[1:])
    # Within a group jax knows how its devices are linked.
    blocks = [jax.make_mesh(inner, AXES, axis_types=types, devices=group) for group in groups]
    if len(blocks) == 1:
        return blocks[0]
    return Mesh(np.concatenate([block.devices for block in blocks]), AXES, axis_types=types)


def _slices(devices: Sequence[Any], count: int) -> list[list[Any]]:
    """Splits devices into the groups whose links among one another are slow.

    Args:
      devices: of one kind, anything with jax's `platform`, `process_index`, `id` and, on TPU, `slice_index`.
      count: groups of equal size, of neighbouring processes. 0 takes TPU slices as they are, and else one group.

    Raises:
      UserError: the devices do not split into so many, or not along the TPU slices.
    """
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    by_slice: dict[int, list[Any]] = {}
    for device in devices:
        by_slice.setdefault(getattr(device, "slice_index", 0) if device.platform == "tpu" else 0, []).append(device)
    groups = [group for _, group in sorted(by_slice.items())]
    if count == 0 or count == len(groups):
        if len({len(group) for group in groups}) > 1:
            raise UserError(f"the TPU slices have {[len(group) for group in groups]} devices; they must be of one size")
        return groups
    if count < 0 or len(devices) % count:
        raise UserError(f"mesh.slices={count} does not divide {len(devices)} devices; 0 finds the slices there are")
    if count == 1:
        return [devices]
    if len(groups) > 1:
        raise UserError(f"mesh.slices={count}, but there are {len(groups)} TPU slices; set 0, {len(groups)} or 1")
    size = len(devices) // count
    return [devices[start : start + size] for start in range(0, len(devices), size)]


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


def check_batch(field: str, size: int, mesh: Mesh, pieces: int = 1, *, loss: str = "dense") -> None:
    """Checks that a global batch divides over the mesh (and then into `pieces` microbatches).

    Args:
      field: the config field that holds the size.
      size: rows over all devices.
      mesh: the device mesh.
      pieces: microbatches.
      loss: `loss.impl`; `gather` and `ring` split the rows over every axis.

    Raises:
      UserError: naming the field and the nearest sizes that do.
    """
    unit = batch_devices(mesh) * pieces
    split = f"mesh.data x mesh.fsdp = {batch_devices(mesh)} devices" + (
        f" x microbatch = {pieces}" if pieces > 1 else ""
    )
    if loss != "dense" and unit % mesh.size:
        unit = math.lcm(unit, mesh.size)
        split += f" and, as loss.impl={loss!r} wants, over all {mesh.size}"
    if size > 0 and size % unit == 0:
        return
    below = size // unit * unit
    near = f"{below} or {below + unit}" if below > 0 else f"{unit}"
    raise UserError(f"{field}={size} does not divide over {split}; choose {near}")


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
