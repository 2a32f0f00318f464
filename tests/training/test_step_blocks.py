"""Steps of towers whose layers have every option of `block`: on meshes, in loops, rematerialised as on one device."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.helpers import mesh_steps

BLOCK = dict(
    norm_type="rms_norm", layer_scale=0.1, kv_heads=2, head_dim=4, key_bias=False, out_bias=False, mlp_bias=False,
    attention_norm=True, mlp_gate=True, mlp_norm=True, rope="interleaved", rope_grid=4, rope_offset=1.0, rope_axes="xy",
)  # fmt: skip


def first_gradient(mesh=(1, 1, 1), *, scan=False, remat="none", microbatch=1):
    def change(config):
        config.microbatch = microbatch
        with config.unlocked():
            for tower in (config.model.image, config.model.text):
                tower.block, tower.depth, tower.scan, tower.remat = ConfigDict(BLOCK), 3, scan, remat
            config.model.image.registers = 2
        config.model.image.update(pool="mean", patch_dropout=0.25)

    run = mesh_steps.Steps(mesh, change=change)
    losses, gradient, _ = run.train(run.start(), steps=2)
    return losses, gradient


@pytest.fixture(scope="module")
def plain():
    return first_gradient()


def test_every_parameter_has_a_gradient(plain):
    layers = {path.split("layers/")[1] for path in plain[1] if path.startswith("image/transformer")}
    assert {path.rpartition("/")[0] for path in layers} == {
        "", "norm1", "norm2", "attention/q", "attention/kv", "attention/norm", "attention/out",
        "mlp/fc1", "mlp/gate", "mlp/norm", "mlp/fc2",
    }  # fmt: skip
    assert {"image/register_tokens"} <= set(plain[1])
    # The mean of the patches reads no prefix, but the patches attend to it.
    assert not [path for path, value in plain[1].items() if not np.any(value)]


@pytest.mark.full
@pytest.mark.parametrize(
    "settings",
    [
        dict(scan=True),
        dict(mesh=(2, 2, 2), microbatch=2, remat="dots"),
        dict(mesh=(1, 1, 8), remat="attention"),
        dict(mesh=(8, 1, 1), scan=True, remat="full"),
    ],
    ids=str,
)
def test_step_equals_that_of_one_device(settings, plain):
    losses, gradient = first_gradient(**settings)
    np.testing.assert_allclose(losses, plain[0], rtol=1e-5)
    assert mesh_steps.relative(gradient, plain[1]) <= 1e-5
