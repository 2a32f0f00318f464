"""Rows of sharded arrays by number: each device receives the rows that it requests and no others."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int32

from mmjax.parallel import ring
from mmjax.parallel.mesh import BATCH_AXES, batch_devices
from mmjax.utils.custom_gradient import custom_vjp

SCOPES = ("local", "global")


def gather_rows(tree: Any, index: Int32[Array, " R"], *, mesh: Mesh | None = None, scope: str = "global") -> Any:
    """`x[index]` of every array, where their rows (and the index) are spread over `data` and `fsdp`.

    Left to the partitioner every device would receive all rows. Here each pair of devices exchanges half its even share
    of rows, again and again until all requests are served: two or three times where the index is spread evenly, so that
    what is on the way is no more than a device's own rows. The gradient goes back the same way and is summed in float32
    where the rows live.

    Args:
      tree: arrays [B, ...]; `tensor` devices hold the same rows.
      index: row numbers in [0, B); R need not be B.
      mesh: None for one device.
      scope: `local` promises that each device requests only rows that it has itself: nothing is exchanged.

    Returns:
      Arrays [R, ...].

    Raises:
      ValueError: an unknown scope, or rows that do not divide over `data` and `fsdp`.
    """
    if scope not in SCOPES:
        raise ValueError(f"scope={scope!r} is not one of {SCOPES}")
    leaves, structure = jax.tree.flatten(tree)
    if mesh is None or batch_devices(mesh) == 1:
        return jax.tree.map(lambda x: x[index], tree)
    for x in (*leaves, index):
        if len(x) % batch_devices(mesh):
            raise ValueError(f"{len(x)} rows do not divide over {batch_devices(mesh)} devices")
    if not leaves:
        return tree
    rows = {len(x) // batch_devices(mesh) for x in leaves}
    if len(rows) > 1:
        raise ValueError(f"arrays of different numbers of rows, {sorted({len(x) for x in leaves})}")
    return jax.tree.unflatten(structure, _gather_rows(_GatherConfig(mesh, scope, rows.pop()), tuple(leaves), index))


class _GatherConfig(NamedTuple):
    """Static settings of a gather; `rows` are those of one device."""

    mesh: Mesh
    scope: str
    rows: int

    def run(self, function, *args):
        """On each device's rows."""
        rows = PartitionSpec(BATCH_AXES)
        return ring.per_device(functools.partial(function, self), self.mesh, rows, rows)(*args)


@custom_vjp((0,))
def _gather_rows(config: _GatherConfig, leaves: tuple[Array, ...], index: Array) -> tuple[Array, ...]:
    return config.run(_receive, leaves, index)


def _forward(config, leaves, index):
    return _gather_rows(config, leaves, index), index


def _backward(config, index, cotangents):
    # Integers have none.
    real = [i for i, x in enumerate(cotangents) if jnp.issubdtype(x.dtype, jnp.inexact)]
    received = config.run(_return, tuple(cotangents[i] for i in real), index)
    gradients = dict(zip(real, received, strict=True))
    return tuple(gradients.get(i) for i in range(len(cotangents))), None


_gather_rows.defvjp(_forward, _backward)


class _Routes(NamedTuple):
    """Where each of a device's requests goes.

    Attributes:
      owner, row: the device that has the row, and its number there.
      rank: the request's number among those to the same owner.
      capacity: requests to one owner in one round.
      rounds: the same on all devices.
    """

    owner: Array
    row: Array
    rank: Array
    capacity: int
    rounds: Array


def _routes(config: _GatherConfig, index: Array) -> _Routes:
    devices, wanted = batch_devices(config.mesh), len(index)
    # Small rounds hold little and send few empty slots; a larger share would go out in one round, half empty.
    capacity = -(-wanted // (2 * devices))
    owner = index // config.rows
    order = jnp.argsort(owner)
    counts = jnp.bincount(owner, length=devices)
    starts = jnp.cumsum(counts) - counts
    rank = jnp.zeros_like(index).at[order].set(jnp.arange(wanted, dtype=index.dtype) - starts[owner[order]])
    rounds = jax.lax.pmax(-(-counts.max() // capacity), BATCH_AXES)
    return _Routes(owner, index % config.rows, rank, capacity, rounds)


def _round(config: _GatherConfig, routes: _Routes, number: Array) -> tuple[Array, Array]:
    """One round's slots, `capacity` for each device: this device's request in each, and the row the other requests.

    An empty slot holds a number past the end.
    """
    slots, wanted = batch_devices(config.mesh) * routes.capacity, len(routes.rank)
    position = routes.rank - number * routes.capacity
    slot = jnp.where((position >= 0) & (position < routes.capacity), routes.owner * routes.capacity + position, slots)
    request = jnp.full(slots, wanted).at[slot].set(jnp.arange(wanted), mode="drop")
    row = routes.row.at[request].get(mode="fill", fill_value=config.rows)
    return request, _swap(row)


def _swap(x: Array) -> Array:
    """Slot by slot: what was meant for another device goes there."""
    return jax.lax.all_to_all(x, BATCH_AXES, 0, 0, tiled=True)


def _pack(x: Array) -> Array:
    """Half-precision numbers as integers: XLA for the CPU would move them around in float32."""
    return jax.lax.bitcast_convert_type(x, jnp.uint16) if x.dtype in (jnp.bfloat16, jnp.float16) else x


def _unpack(x: Array, dtype: Any) -> Array:
    return x if x.dtype == dtype else jax.lax.bitcast_convert_type(x, dtype)


def _local_index(config: _GatherConfig, index: Array) -> Array:
    return index - jax.lax.axis_index(BATCH_AXES) * config.rows


def _receive(config: _GatherConfig, leaves: tuple[Array, ...], index: Array) -> tuple[Array, ...]:
    """On one device: the rows that it requests."""
    if config.scope == "local":
        return tuple(x[_local_index(config, index)] for x in leaves)
    routes = _routes(config, index)

    packed = tuple(_pack(x) for x in leaves)

    def body(number, received):
        request, row = _round(config, routes, number)
        send = lambda x: _swap(x.at[row].get(mode="clip"))
        return tuple(y.at[request].set(send(x), mode="drop") for x, y in zip(packed, received, strict=True))

    empty = tuple(jnp.zeros((len(index), *x.shape[1:]), x.dtype) for x in packed)
    received = jax.lax.fori_loop(0, routes.rounds, body, empty)
    return tuple(_unpack(y, x.dtype) for x, y in zip(leaves, received, strict=True))


def _return(config: _GatherConfig, cotangents: tuple[Array, ...], index: Array) -> tuple[Array, ...]:
    """On one device: the gradients of its own rows, from the gradients of all requested rows."""
    exact = [jnp.promote_types(x.dtype, jnp.float32) for x in cotangents]
    sums = tuple(jnp.zeros((config.rows, *x.shape[1:]), dtype) for x, dtype in zip(cotangents, exact, strict=True))
    if config.scope == "local":
        sums = tuple(y.at[_local_index(config, index)].add(x) for x, y in zip(cotangents, sums, strict=True))
    else:
        routes = _routes(config, index)
        packed = tuple(_pack(x) for x in cotangents)

        def body(number, sums):
            request, row = _round(config, routes, number)
            send = lambda x, dtype: _unpack(_swap(x.at[request].get(mode="clip")), dtype)
            return tuple(
                y.at[row].add(send(x, cotangent.dtype).astype(y.dtype), mode="drop")
                for x, cotangent, y in zip(packed, cotangents, sums, strict=True)
            )

        sums = jax.lax.fori_loop(0, routes.rounds, body, sums)
    return tuple(y.astype(x.dtype) for x, y in zip(cotangents, sums, strict=True))
