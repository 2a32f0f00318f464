"""Layout of rows on devices and the walk over tiles of logits, for the tiled contrastive losses.

No more than one tile of logits is alive, in the backward pass too. Two ways to bring every image together with every
text, each device owning the rows of its pairs:

- `gather`: each device receives all rows of the other tower, and its gradients are scattered back.
- `ring`: blocks of texts travel around all devices, and with each its column statistics (or gradients). A block meets
  every image once and is home again, so both directions of the softmax take one trip, and memory does not grow with
  the number of devices.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, UInt32

from mmjax.parallel import ring

# Stands for minus infinity where there is no logit: differences of it are numbers.
NEG_INF = -1e30
Tile = Float[Array, "R C"]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a tiled loss is laid out.

    Attributes:
      impl: `gather` or `ring`.
      mesh: all its devices take an equal share of the rows; None for one device.
      block_size: rows and columns of a tile of logits, at most.
      precision: of the matrix products.
      unique: every pair is its own class, so that a row has exactly one positive.
    """

    impl: str
    mesh: Mesh | None
    block_size: int
    precision: str
    unique: bool

    @property
    def devices(self) -> int:
        """How many share the rows."""
        return 1 if self.mesh is None else self.mesh.size

    def run(self, function: Callable, rows: Any, replicated: Any, out_split: Any) -> Any:
        """Runs `function(*rows, *replicated)` on each device's rows.

        Args:
          function: returns a tuple.
          rows: arrays split over the devices.
          replicated: arrays that every device has in full.
          out_split: for each output, whether it is split over the devices (else every device has it in full).
        """
        if self.mesh is None:
            return function(*rows, *replicated)
        split, full = PartitionSpec(self.mesh.axis_names), PartitionSpec()
        in_specs = (split,) * len(rows) + (full,) * len(replicated)
        out_specs = tuple(split if is_split else full for is_split in out_split)
        return ring.per_device(function, self.mesh, in_specs, out_specs)(*rows, *replicated)

    def device_number(self) -> Any:
        """This device's number among them."""
        return 0 if self.mesh is None else ring.device_number(self.mesh)

    def sum(self, x: Any) -> Any:
        """The sum over all devices."""
        return x if self.mesh is None else jax.lax.psum(x, self.mesh.axis_names)

    def gather(self, x: Array) -> Array:
        """All devices' rows."""
        return x if self.mesh is None else jax.lax.all_gather(x, self.mesh.axis_names, tiled=True)

    def scatter(self, x: Array) -> Array:
        """The sum over all devices, of which each keeps its own rows."""
        return x if self.mesh is None else jax.lax.psum_scatter(x, self.mesh.axis_names, tiled=True)

    def around_ring(self, visit: Callable, carry: Any, block: Any) -> Any:
        """Takes `block` around the ring: `carry, block = visit(carry, block)` on every device, then home."""
        mesh = self.mesh
        if mesh is None or mesh.size == 1:
            return visit(carry, block)

        def visit_and_pass_on(_, state):
            carry, block = visit(*state)
            return carry, ring.ppermute_ring(block, mesh)

        return jax.lax.fori_loop(0, mesh.size, visit_and_pass_on, (carry, block))


class Side(NamedTuple):
    """Embeddings of one tower, and the keys that positives share.

    Attributes:
      x: unit rows.
      keys: the words of each row's id, or of several; rows that share one are positives of one another.
    """

    x: Float[Array, "N E"]
    keys: UInt32[Array, "N W"]


def tile_size(n: int, block: int) -> int:
    """The rows of a tile: n in as few equal parts as `block` allows, rounded up to 8 where that is no more than it."""
    size = -(-n // -(-n // block))
    rounded = -(-size // 8) * 8
    return rounded if rounded <= min(block, n) else size


def over_tiles(rows: int, columns: int, block: int, body: Callable, carry: Any) -> Any:
    """Runs `carry = body(carry, row_start, column_start, height, width, fresh)` for every tile.

    The last tiles of an uneven division reach back over rows and columns that others had: `fresh` tells them apart,
    and is None when there are none.
    """
    height, width = tile_size(rows, block), tile_size(columns, block)
    across = -(-columns // width)
    count = -(-rows // height) * across
    even = rows % height == 0 and columns % width == 0

    def step(tile, carry):
        row, column = tile // across * height, tile % across * width
        row_start, column_start = jnp.minimum(row, rows - height), jnp.minimum(column, columns - width)
        fresh = None
        if not even:
            fresh = (row_start + jnp.arange(height) >= row)[:, None] & (column_start + jnp.arange(width) >= column)
        return body(carry, row_start, column_start, height, width, fresh)

    return step(jnp.int32(0), carry) if count == 1 else jax.lax.fori_loop(0, count, step, carry)


def take(tree: Any, start: Array, size: int) -> Any:
    """Rows [start, start + size) of every array."""
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, size), tree)


def put(tree: Any, part: Any, start: Array) -> Any:
    """Writes rows from `start` on."""
    return jax.tree.map(lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, start, 0), tree, part)


def positives(a: UInt32[Array, "R W"], b: UInt32[Array, "C W"]) -> Bool[Array, "R C"]:
    """Pairs of rows with equal keys; of keys of two words each, one of which is shared, where there are several."""
    equal = a[:, None, :] == b[None, :, :]
    if a.shape[1] <= 2:
        return equal.all(-1)
    return equal.reshape(len(a), len(b), -1, 2).all(-1).any(-1)


def dot(a: Array, b: Array, contract: tuple[int, int], layout: Layout) -> Array:
    """The product of two matrices over one axis of each, in float32."""
    dimensions = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, precision=layout.precision, preferred_element_type=jnp.float32)


def tile(rows: Side, columns: Side, scale: Array, layout: Layout) -> tuple[Tile, Bool[Array, "R C"]]:
    """A tile of logits, and which of them are positives."""
    logits = scale * dot(rows.x, columns.x, (1, 1), layout)
    return logits, positives(rows.keys, columns.keys)


def local_sides(x: Array, y: Array, ids: Array | None, layout: Layout) -> tuple[Side, Side]:
    """This device's rows, with ids or else their numbers in the batch as keys."""
    keys = _row_numbers(len(x), layout) if ids is None else ids
    return Side(x, keys), Side(y, keys)


def _row_numbers(rows: int, layout: Layout) -> UInt32[Array, "N 1"]:
    """Numbers of this device's rows in the batch."""
    return (layout.device_number() * rows + jnp.arange(rows)).astype(jnp.uint32)[:, None]


def gather_side(side: Side, keys: Array, layout: Layout) -> Side:
    """All devices' rows of a tower, with the keys that `all_keys` gives."""
    return Side(layout.gather(side.x), keys)


def all_keys(side: Side, layout: Layout) -> Array:
    """The keys of all rows, which are the same for both towers; numbers need no gathering."""
    if layout.unique:
        return jnp.arange(len(side.keys) * layout.devices, dtype=jnp.uint32)[:, None]
    return layout.gather(side.keys)


def add_products(gradients, slope, some_rows, some_columns, row, column, fresh, layout):
    """Adds `slope`'s part of the gradients of its rows and columns."""
    if fresh is not None:
        slope = jnp.where(fresh, slope, 0)
    by_row, by_column = gradients
    height, width = slope.shape
    by_row = put(by_row, take(by_row, row, height) + dot(slope, some_columns.x, (1, 0), layout), row)
    by_column = put(by_column, take(by_column, column, width) + dot(slope, some_rows.x, (0, 0), layout), column)
    return by_row, by_column
