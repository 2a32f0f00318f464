"""Sweeps rank what fits."""

import jax
import pytest

from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel import partition
from mmjax.plan import program, sweep
from mmjax.training import device_specs
from tests.helpers.programs import fake_plan, tiny


@pytest.mark.parametrize("sizes", [pytest.param((1, 8, 1), marks=pytest.mark.full), (2, 2, 2)], ids=str)
def test_every_mesh_divides_the_work(cpu_slice, monkeypatch, sizes):
    """Weights are gathered for the rows they meet; rows stay where they are, and nobody does another's attention."""
    monkeypatch.setattr(partition, "MIN_SHARDED_SIZE", 64)
    mesh = {f"mesh__{axis}": size for axis, size in zip(mesh_lib.AXES, sizes, strict=True)}
    plan = program.make_plan(program.make_setup(tiny(batch_size=64, loss__impl="gather", **mesh), cpu_slice), "cpu:8")
    assert plan["flops"]["chip"] * 8 / plan["flops"]["model"] < 1.1
    kinds = {row["kind"] for row in plan["collectives"]}
    assert kinds == {"all-gather", "all-reduce", "reduce-scatter"}
    # Activations are summed over `tensor` alone; what crosses `fsdp` is parameters and their gradients, and the loss.
    total_bytes = 4 * sum(x.size for x in jax.tree.leaves(program.make_setup(tiny(**mesh), cpu_slice).state.params))
    over_fsdp = sum(row["bytes"] for row in plan["collectives"] if "fsdp" in row["axes"])
    assert over_fsdp < 5 * total_bytes


def test_a_sweep_ranks_what_fits(cpu_slice, quick_set_up):
    lines = []
    kwargs = dict(max_compiles=100, log=lines.append, make_plan=fake_plan)
    ranked = sweep.run(tiny(batch_size=32), "cpu:8", cpu_slice, ("mesh", "microbatch"), **kwargs)
    fitting = [plan for plan in ranked if plan["fits"]]
    # Heads are 2: tensor 1 and 2; of each mesh the first microbatch that fits.
    assert [(plan["mesh"]["fsdp"], plan["microbatch"]) for plan in fitting] == [(1, 2), (2, 2), (4, 2), (8, 2)]
    assert ranked[: len(fitting)] == fitting
    reasons = [plan["reason"] for plan in ranked[len(fitting) :]]
    assert "the TPU compiler refuses the program: no" in reasons and "does not fit" in reasons[0]
    assert lines[0].startswith("[1/100] data 8 x fsdp 1 x tensor 1, microbatch 1")
    text = sweep.render(ranked)
    assert text.index("  1. data 8 x fsdp 1") < text.index("  2. data 4 x fsdp 2") < text.index("What does not")


def test_a_sweep_is_bounded_and_skips_what_cannot_fit(cpu_slice, quick_set_up, monkeypatch):
    lines = []
    kwargs = dict(max_compiles=3, log=lines.append, make_plan=fake_plan)
    sweep.run(tiny(batch_size=32), "cpu:8", cpu_slice, ("mesh", "microbatch"), **kwargs)
    assert sum(line.startswith("[") for line in lines) == 3 and "more not tried" in lines[-1]
    monkeypatch.setattr(device_specs, "find", lambda kind: device_specs.Device("cpu", 1e9, memory=1000.0))
    kwargs["make_plan"] = None  # nothing is compiled
    ranked = sweep.run(tiny(), "cpu:8", cpu_slice, ("microbatch",), **kwargs)
    assert len(ranked) == 1 and "the state alone is" in ranked[0]["reason"]
    assert "Nothing that was tried fits" in sweep.render(ranked)


def test_a_candidate_that_cannot_be_is_listed(cpu_slice, quick_set_up):
    config = tiny(batch_size=8, mesh__data=8, mesh__fsdp=1, mesh__tensor=1, microbatch=2)
    ranked = sweep.run(config, "cpu:8", cpu_slice, ("remat",), max_compiles=3, log=str, make_plan=fake_plan)
    assert len(ranked) == 3 and all("batch_size=8 does not divide" in plan["reason"] for plan in ranked)
