"""The device mesh: axes `data`, `fsdp` and `tensor`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from mmjax.errors import UserError

AXES = ("data", "fsdp", "tensor")
# The batch is spread over these; `tensor` devices share their rows.
BATCH_AXES = ("data", "fsdp")


def make_mesh(shape: Mapping[str, Any] | ConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Builds the mesh.

    Args:
      shape: devices along each axis; at most one may be -1, which takes what the others leave.
      devices: all devices by default.

    Raises:
      UserError: the axes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [int(shape[axis]) for axis in AXES]
    told = ", ".join(f"mesh.{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
        raise UserError(
            f"{told}: each axis takes a positive number, and one of them may be -1 for the devices left over"
        )
    if -1 in sizes:
        rest = math.prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = max(1, len(devices) // rest)
    if math.prod(sizes) != len(devices):
        raise UserError(
            f"{told} makes {math.prod(sizes)} devices, but there are {len(devices)}; their product must be the same"
        )
    # Axis types are given because jax's default, Explicit, rejects linen's row-parallel dense layers.
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def batch_devices(mesh: Mesh) -> int:
    """Over how many devices the batch is split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def local_rows(mesh: Mesh, global_batch: int) -> np.ndarray:
    """Returns the row numbers of a global batch that live on this process's devices, ascending."""
    index_map = batch_sharding(mesh).addressable_devices_indices_map((global_batch,))
    rows = {row for (index,) in index_map.values() for row in range(*index.indices(global_batch))}
    return np.array(sorted(rows))


def check_batch(field: str, size: int, mesh: Mesh, pieces: int = 1) -> None:
    """Checks that a global batch divides over the mesh (and then into `pieces` microbatches).

    Raises:
      UserError: naming the field and the nearest sizes that do.
    """
    unit = batch_devices(mesh) * pieces
    if size > 0 and size % unit == 0:
        return
    below = size // unit * unit
    near = f"{below} or {below + unit}" if below > 0 else f"{unit}"
    split = f"mesh.data x mesh.fsdp = {batch_devices(mesh)} devices" + (
        f" x microbatch = {pieces}" if pieces > 1 else ""
    )
    raise UserError(f"{field}={size} does not divide over {split}; choose {near}")
