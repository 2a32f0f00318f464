"""A batch computed in groups of rows whose texts are of like lengths; the loader sorts them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int, Shaped

from mmjax.parallel.mesh import BATCH_AXES, traced_mesh
from mmjax.parallel.packing import on_each_device


class TextGroups(struct.PyTreeNode):
    """Groups of a batch's rows by the lengths of their texts.

    Attributes:
      order: int32 [B], the rows of each device, counted within it, the longest text first; on the way to the devices
        and in tracing not yet an array.
      sizes: (rows, tokens) of each group of a device, in that order.
    """

    order: Any
    sizes: tuple[tuple[int, int], ...] = struct.field(pytree_node=False)


def has_whole_params(mesh: Mesh | Any) -> bool:
    """Whether each device of a mesh has all parameters, so that it can add up the gradients of its groups by itself."""
    return mesh.shape["fsdp"] == mesh.shape["tensor"] == 1


def by_group(function: Callable[[Any, Any, int], Any], params: Any, rows: Any, groups: TextGroups) -> Any:
    """Results of a function of rows, one group after the other, in the batch's order. Rows stay on their device.

    Where every device has all parameters, the gradients of a device's groups are added up before those of all devices
    are. Elsewhere the partitioner reduces each group's by themselves.

    Args:
      function: of `params`, a tree of a group's rows and the tokens of its texts; gives a tree of as many rows.
      params: a tree of parameters.
      rows: a tree of [B, ...].
      groups: which rows are in which group.
    """

    def compute(params, rows, order):
        return _by_group(lambda rows, tokens: function(params, rows, tokens), rows, order, groups.sizes)

    mesh = traced_mesh()
    if mesh is not None and has_whole_params(mesh):
        spec = PartitionSpec(BATCH_AXES)
        specs = (PartitionSpec(), spec, spec)
        compute = jax.shard_map(compute, in_specs=specs, out_specs=spec, check_vma=False)
    return compute(params, rows, groups.order)


def _by_group(function, rows, order, groups):
    inverse = on_each_device(jnp.argsort)(order)
    sizes = [size for size, _ in groups]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    split = lambda x: tuple(x[start : start + size] for start, size in zip(starts, sizes, strict=True))

    leaves, tree = jax.tree.flatten(rows)
    parts = [on_each_device(split)(_permute(x, order, inverse)) for x in leaves]
    results = [
        function(tree.unflatten(part[number] for part in parts), tokens) for number, (_, tokens) in enumerate(groups)
    ]
    join = on_each_device(lambda *parts: jnp.concatenate(parts))
    return jax.tree.map(lambda *parts: _permute(join(*parts), inverse, order), *results)


def _permute(x: Shaped[Array, "B ..."], order: Int[Array, " B"], inverse: Int[Array, " B"]) -> Shaped[Array, "B ..."]:
    """Each device's rows in another order; the gradient comes back by indexing too, where autodiff would add rows."""
    return (_permute_floats if jnp.issubdtype(x.dtype, jnp.inexact) else _take)(x, order, inverse)


def _take(x: Shaped[Array, "B ..."], order: Int[Array, " B"], inverse: Int[Array, " B"]) -> Shaped[Array, "B ..."]:
    del inverse
    take = lambda x, order: x.at[order].get(mode="promise_in_bounds", unique_indices=True)
    return on_each_device(take)(x, order)


_permute_floats = jax.custom_vjp(_take)
_permute_floats.defvjp(
    lambda x, order, inverse: (_take(x, order, inverse), (order, inverse)),
    lambda orders, gradient: (_take(gradient, *orders[::-1]), None, None),
)
