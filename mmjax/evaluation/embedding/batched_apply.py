"""Rows fed to a function over the whole mesh, in batches of one shape."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel.make_mesh import check_batch

_MOST_ROWS = 16_384  # of a batch on one device: it is filled up to that, however few examples there are
Row = tuple[np.ndarray, ...]


class BatchRunner:
    """Runs functions of batches on a mesh; every process gets all results.

    The last batch is padded to the shape of the others, so nothing is compiled twice and no row depends on the count.

    Args:
      mesh: the device mesh.
      batch_size: rows at a time over all devices.
      loss: `loss.impl`, where the batch is also one of the contrastive loss.

    Raises:
      UserError: the batch does not divide over the mesh.
    """

    def __init__(self, mesh: Mesh, batch_size: int, *, loss: str = "dense"):
        check_batch("eval.batch_size", batch_size, mesh, loss=loss, most=_MOST_ROWS)
        self.mesh, self.batch_size = mesh, batch_size
        self.rows = mesh_lib.local_rows(mesh, batch_size)

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compiles `(params, *columns) -> tree of arrays by row`, its results spread over the mesh."""
        return jax.jit(function, out_shardings=mesh_lib.batch_sharding(self.mesh))

    def run(self, function: Callable[..., Any], params: Any, rows: Iterable[Row]) -> Any:
        """Runs a compiled function on rows; one batch is dispatched before the last one's result is fetched.

        Args:
          function: as `compile` returns it.
          params: its first argument.
          rows: arrays of one row each; those of other processes' devices may be blank.

        Returns:
          The function's tree, numpy arrays with a row for each of `rows`.

        Raises:
          ValueError: no rows.
        """
        results, running = [], None
        for batch, count in _batches(iter(rows), self.batch_size):
            local = tuple(column[self.rows] for column in batch)
            out = function(params, *mesh_lib.to_global(self.mesh, local))
            if running is not None:
                results.append(_fetch(*running))
            running = (out, count)
        if running is None:
            raise ValueError("no rows to run on")
        results.append(_fetch(*running))
        return jax.tree.map(lambda *parts: np.concatenate(parts), *results)


def _fetch(out: Any, count: int) -> Any:
    """The first `count` rows of a batch's results, on the host."""
    return jax.tree.map(lambda x: x[:count], mesh_lib.to_host(out))


def _batches(rows: Iterator[Row], size: int) -> Iterator[tuple[Row, int]]:
    """Stacks rows into batches of `size`; the last one repeats its last row. Yields (columns, real rows)."""
    held: list[Row] = []
    for row in rows:
        held.append(row)
        if len(held) == size:
            yield _stack(held), size
            held = []
    if held:
        yield _stack(held + [held[-1]] * (size - len(held))), len(held)


def _stack(rows: list[Row]) -> Row:
    return tuple(np.stack(column) for column in zip(*rows, strict=True))
