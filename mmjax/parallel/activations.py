"""Where activations live. Parameters have rules; what is computed from them is left to the partitioner but for this.

Left to itself with parameters sharded over `fsdp`, the partitioner may split the width of an activation over `fsdp` and
give every device all rows of the batch: each would do its neighbours' attention again.
"""

import contextlib
from collections.abc import Iterator

import jax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Shaped

from mmjax.parallel.mesh import BATCH_AXES


@contextlib.contextmanager
def placed_on(mesh: Mesh | None) -> Iterator[None]:
    """Traces what is inside for a mesh, so that `place` does something; None leaves it alone."""
    if mesh is None:
        yield
        return
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        yield


def place(x: Shaped[Array, "B ..."], *axes: str | None) -> Shaped[Array, "B ..."]:
    """Spreads rows over `data` and `fsdp`, and the axes after them as named; the rest is whole on every device.

    Does nothing outside `placed_on`, or where an axis does not divide.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes or x.shape[0] % (mesh.shape["data"] * mesh.shape["fsdp"]):
        return x
    named = [
        axis if axis is not None and size % mesh.shape[axis] == 0 else None
        for size, axis in zip(x.shape[1:], axes, strict=False)
    ]
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES, *named))


def whole(table: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """Gathers a sharded parameter before it is used, where the partitioner would rather move what is made with it.

    Does nothing outside `placed_on`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes:
        return table
    return jax.lax.with_sharding_constraint(table, PartitionSpec())
