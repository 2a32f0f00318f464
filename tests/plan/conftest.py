"""A slice of CPU devices in place of TPUs, and the command on it."""

import jax
import jax.numpy as jnp
import pytest

from mmjax.cli import main, runtime
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel.config import MeshConfig
from mmjax.parallel.make_mesh import check_batch, make_mesh
from mmjax.plan import program, topology
from mmjax.training import device_specs
from mmjax.training import state as state_lib
from tests.helpers import runs
from tests.helpers.programs import CHIP, MESH


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(**MESH), jax.devices()[:8])


@pytest.fixture
def cpu_slice(monkeypatch):
    """Eight CPU devices in place of a slice, with the data sheet of a slow chip."""
    monkeypatch.setattr(device_specs, "find", lambda kind: CHIP)
    return jax.devices()[:8]


@pytest.fixture
def quick_set_up(cpu_slice, monkeypatch):
    """Mesh and batch are checked as they are in a plan; the model is a single array of 4,000 bytes."""

    def set_up(config, topology, text_length=None, flags=()):
        mesh = make_mesh(config.mesh, topology)
        check_batch("batch_size", config.batch_size, mesh, config.microbatch)
        replicated = mesh_lib.replicated(mesh)
        params = jax.ShapeDtypeStruct((1000,), jnp.float32, sharding=replicated)
        state = state_lib.TrainState(None, params, None, None, None, None)
        return program.Setup(config, None, mesh, device_specs.find("cpu"), state, {}, None)

    monkeypatch.setattr(program, "make_setup", set_up)


@pytest.fixture
def plan(monkeypatch, capsys):
    """Runs `mmjax plan` with the tiny recipe; returns its status, output and error line."""
    monkeypatch.setattr(topology, "set_environment", topology.check_name)
    monkeypatch.setattr(runtime, "prepare", lambda *args, **settings: None)

    def run(*flags):
        status = main.main(["plan", f"--config={runs.RECIPE}", *flags])
        output = capsys.readouterr()
        return status, output.out, output.err

    return run
