"""Where activations live: layouts are no matter between devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel.mesh import AXES, BATCH_AXES


@pytest.mark.parametrize("rows", [8, 6])  # 6 rows cannot be spread over 4 devices
def test_row_major_moves_nothing_between_devices(rows, monkeypatch):
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 2, 2), AXES)
    weight = jnp.linspace(-1, 1, 4)
    spread = PartitionSpec(BATCH_AXES) if rows == 8 else PartitionSpec()

    def loss(x, on):
        with mesh_lib.activation_mesh(mesh):
            if on:  # as it is traced for a GPU
                mesh_lib._PLATFORM.set("gpu")
            return jnp.square(mesh_lib.row_major(x * weight) * 2).sum()

    x = jax.device_put(jnp.arange(rows * 3 * 4.0).reshape(rows, 3, 4), NamedSharding(mesh, spread))
    step = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    text = step.lower(x, True).compile().as_text()
    assert "all-gather" not in text and "all-to-all" not in text and "collective-permute" not in text
    for actual, wanted in zip(step(x, True), step(x, False), strict=True):
        np.testing.assert_array_equal(actual, wanted)
    assert step(x, True)[1].sharding.is_equivalent_to(x.sharding, 3)
