"""Digests of checkpoints: what they notice, and what a run does with a damaged checkpoint."""

import contextlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from campaigns import flip_bits
from mmjax.errors import UserError
from mmjax.inference import load
from mmjax.parallel.config import MeshConfig
from mmjax.parallel.make_mesh import make_mesh
from mmjax.training import checkpoint, digests
from tests import test_old_checkpoints
from tests.helpers import processes, runs

P = PartitionSpec


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32, jnp.uint8, jnp.bool_])
@pytest.mark.parametrize("shape", [(), (7,), (5, 3, 9), (0, 4), (300, 500)])
def test_the_same_on_the_host_and_on_devices(dtype, shape):
    array = jnp.asarray(np.random.default_rng(0).integers(0, 200, shape)).astype(dtype)
    of_whole = array.shape, array.dtype.itemsize, array.addressable_shards[0].index
    on_host = digests._add_on_host(np.asarray(array), *of_whole)
    rows, columns = digests._weights(*of_whole)
    for step in {1, max(1, len(rows))}:  # of a CPU and of other devices
        np.testing.assert_array_equal(on_host, digests._add_compiled(array, rows, columns, step=step))


def test_a_large_array_has_the_digest_of_its_parts(monkeypatch):
    """What is compiled for large arrays gives what small ones get."""
    values = jnp.asarray(np.random.default_rng(0).standard_normal((2048, 768), np.float32))
    of_large = digests.compute([values])
    monkeypatch.setattr(digests, "_COMPILED", values.size + 1)
    assert digests.compute([values]) == of_large


@pytest.mark.parametrize("compiled", [False, True])
def test_the_same_on_every_mesh(compiled, monkeypatch):
    values = np.random.default_rng(0).standard_normal((8, 16, 24), np.float32)
    expected = digests.compute([jnp.asarray(values)])
    if compiled:
        monkeypatch.setattr(digests, "_COMPILED", 1)
        monkeypatch.setattr(digests, "_COLUMNS", 1)
    specs = [
        P("fsdp"),
        P(None, "fsdp"),
        P(None, None, "fsdp"),
        P("data", "tensor", "fsdp"),
        P(None, ("fsdp", "tensor")),
    ]
    for shape in ((1, 8, 1), (2, 2, 2), (1, 1, 8), (2, 4, 1)):
        mesh = make_mesh(MeshConfig(data=shape[0], fsdp=shape[1], tensor=shape[2]), jax.devices())
        for spec in specs:
            assert digests.compute([jax.device_put(values, NamedSharding(mesh, spec))]) == expected, (shape, spec)


def test_every_flipped_bit_changes_it():
    values = np.random.default_rng(0).integers(0, 2**32, (3, 5), np.uint32)
    digest = lambda array: digests.compute([jnp.asarray(array)])["0"]
    for index in np.ndindex(values.shape):
        for bit in range(32):
            flipped = values.copy()
            flipped[index] ^= np.uint32(1 << bit)
            assert digest(flipped) != digest(values)


def test_other_damage_changes_it():
    """Signs of two numbers, rows in another order, zeros, a row shifted."""
    values = np.random.default_rng(0).standard_normal((64, 32), np.float32)
    signs = values.copy()
    signs[3, 4], signs[9, 30] = -signs[3, 4], -signs[9, 30]
    zeros = values.copy()
    zeros[16:32] = 0
    others = [values, signs, values[::-1], zeros, np.roll(values, 1), values.T.reshape(64, 32), values * 2]
    assert len({digests.compute([jnp.asarray(x)])["0"] for x in others}) == len(others)


def test_meta_says_when_it_is_another():
    sealed = json.loads(json.dumps(digests.seal({"position": 3, "rate": 0.1, "name": "é"}, {"a": "0"})))
    assert digests.is_whole(sealed) and digests.unsealed(sealed) == (
        {"position": 3, "rate": 0.1, "name": "é"},
        {"a": "0"},
    )
    changes = [{"position": 2}, {"digests": {"a": "1"}}, {"digest": "0"}, {"more": 1}]
    assert not any(digests.is_whole(sealed | change) for change in changes)
    assert not any(digests.is_whole({k: v for k, v in sealed.items() if k != name}) for name in sealed)
    assert digests.is_whole({"position": 3})  # older code's


@pytest.mark.full
@pytest.mark.parametrize("seed", [0])
def test_flipped_bits(seed):
    assert flip_bits.run(20, seed).keys() <= {"noticed", "harmless"}


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("complete")
    assert runs.train(runs.config(checkpoint__keep=9, eval__every=0), workdir) is None
    assert runs.steps(workdir) == [3, 6, 8]
    return workdir


@pytest.fixture
def run(complete, tmp_path):
    return shutil.copytree(complete, tmp_path / "run")


def damage(folder, step, part):
    """Damages a part of a checkpoint: `d` are the arrays, `meta` what lies beside."""
    folder = folder / "checkpoints" / str(step)
    files = (folder / "state").rglob("d/*") if part == "d" else (folder / "meta").glob("metadata")
    for path in files:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)


@pytest.mark.parametrize("part", ["d", "meta"])
def test_the_checkpoint_before_a_damaged_one_is_used(part, run, complete, capsys):
    damage(run, 8, part)
    assert runs.train(runs.config(checkpoint__keep=9, eval__every=0), run) is None
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert "checkpoints/8" in line and "checkpoint 6 is used" in line
    assert runs.numbers(run) == runs.numbers(complete)
    runs.assert_same_arrays(runs.arrays(run, 8), runs.arrays(complete, 8))
    assert (run / "checkpoints" / "8.damaged").is_dir()


def test_none_is_whole(run):
    for step in (3, 6, 8):
        damage(run, step, "d")
    before = runs.snapshot(run / "checkpoints")
    with pytest.raises(UserError, match=r"no checkpoint is whole, of 8, 6, 3; the latest: .*checkpoints/8") as raised:
        runs.train(runs.config(checkpoint__keep=9, eval__every=0), run)
    assert "\n" not in str(raised.value)
    assert runs.snapshot(run / "checkpoints") == before


def test_parameters_alone_are_compared(run, complete):
    damage(run, 8, "d")
    with pytest.raises(checkpoint.DamagedCheckpoint, match="checkpoints/8"):
        load.load(run)
    assert load.load(run, step=6).config == load.load(complete, step=6).config
    (run / "checkpoints/6/meta/metadata").write_text('{"config": ')
    with pytest.raises(checkpoint.DamagedCheckpoint, match="checkpoints/6"):
        load.load(run, step=6)


def test_older_checkpoints_have_none(tmp_path, capsys):
    test_old_checkpoints.unpack("clip", tmp_path)
    load.load(tmp_path)
    assert capsys.readouterr().out.count("has no digests") == 1


@pytest.mark.full
def test_two_processes_use_the_same(run):
    damage(run, 8, "d")
    argv = [
        "train",
        f"--config={runs.RECIPE}",
        f"--workdir={run}",
        "--config.checkpoint.keep=9",
        "--config.eval.every=0",
    ]
    statuses, printed = processes.command(run.parent, *argv, "--config.mesh.fsdp=2", devices=1)
    assert statuses == [0, 0], printed
    assert printed[0].count("checkpoint 6 is used") == 1 and "warning" not in printed[1]
    with contextlib.closing(checkpoint.Checkpoints(run / "checkpoints", read_only=True)) as reader:
        assert reader.all_steps() == [3, 6, 8] and load.load(run).config.steps == 8
