"""Sharding and layout of activations, where the partitioner's own choice is a bad one.

Left to itself with parameters sharded over `fsdp`, the partitioner may split the width of an activation over `fsdp` and
give every device all rows of the batch: each would do its neighbours' attention again.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Shaped

from mmjax.parallel.mesh import AXES, BATCH_AXES, batch_devices

# Platform of the devices that are traced for.
_PLATFORM: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


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
