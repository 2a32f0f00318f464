"""Between this process's rows and arrays that span the mesh."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from mmjax.parallel import mesh as mesh_lib


def to_global(mesh: Mesh, local: Any) -> Any:
    """Makes global arrays, rows over `data` and `fsdp`, of every process's own rows (a tree of numpy arrays)."""
    sharding = mesh_lib.batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), local)


def to_host(tree: Any) -> Any:
    """Fetches whole arrays to every process as numpy."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    return multihost_utils.process_allgather(tree, tiled=True)
