"""Between this process's rows and global arrays."""

import jax
import numpy as np

from mmjax.parallel.config import MeshConfig
from mmjax.parallel.make_mesh import make_mesh
from mmjax.parallel.mesh import batch_sharding, to_global, to_host


def test_there_and_back():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    batch = {
        "image": np.arange(16 * 6, dtype=np.uint8).reshape(16, 2, 3),
        "id": np.arange(32, dtype=np.uint32).reshape(16, 2),
    }
    made = to_global(mesh, batch)
    for name, x in made.items():
        assert isinstance(x, jax.Array) and x.shape == batch[name].shape and x.dtype == batch[name].dtype
        assert x.sharding == batch_sharding(mesh)
        assert x.addressable_shards[0].data.shape[0] == 4
    jax.tree.map(np.testing.assert_array_equal, to_host(made), batch)
    assert all(isinstance(x, np.ndarray) for x in to_host(made).values())
