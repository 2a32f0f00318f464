"""The mesh of a config: how many devices along each axis, and across which links; batches that divide over it."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from mmjax.errors import UserError
from mmjax.parallel.config import MeshConfig
from mmjax.parallel.mesh import AXES, batch_devices

_MOST_ROWS = 1 << 20  # of one device's part of a batch, or of a microbatch


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


def check_batch(
    field: str, size: int, mesh: Mesh, pieces: int = 1, *, loss: str = "dense", most: int = _MOST_ROWS
) -> None:
    """Checks that a global batch divides over the mesh (and then into `pieces` microbatches), and is one at all.

    Args:
      field: the config field that holds the size.
      size: rows over all devices.
      mesh: the device mesh.
      pieces: microbatches.
      loss: `loss.impl`; `gather` and `ring` split the rows over every axis.
      most: rows that one device may have of a microbatch.

    Raises:
      UserError: naming the field and the nearest sizes that do, or the largest.
    """
    unit = batch_devices(mesh) * pieces
    split = f"mesh.data x mesh.fsdp = {batch_devices(mesh)} devices" + (
        f" x microbatch = {pieces}" if pieces > 1 else ""
    )
    if loss != "dense" and unit % mesh.size:
        unit = math.lcm(unit, mesh.size)
        split += f" and, as loss.impl={loss!r} wants, over all {mesh.size}"
    largest = most * unit
    if size > largest:
        raise UserError(f"{field}={size:,} is more than {largest:,}, {most:,} rows each of {split}; lower it")
    if size > 0 and size % unit == 0:
        return
    below = size // unit * unit
    near = f"{below} or {below + unit}" if below > 0 else f"{unit}"
    raise UserError(f"{field}={size} does not divide over {split}; choose {near}")
