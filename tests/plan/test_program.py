"""Whole plans of tiny configs, compiled for CPU devices."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.parallel import partition
from mmjax.plan import collectives, costs, plan_text, program, times
from tests.helpers.programs import CHIP, MESH, tiny


def test_bytes_of_the_state_are_those_of_a_made_state(cpu_slice, monkeypatch):
    """Against a brute force: the shards of a real state on one device."""
    monkeypatch.setattr(partition, "MIN_SHARDED_SIZE", 64)
    setup = program.make_setup(tiny(ema_decay=0.9, optimizer__momentum_dtype="bfloat16"), cpu_slice)
    shardings = jax.tree.map(lambda x: x.sharding, setup.state)
    state = jax.tree.map(lambda x, s: jax.device_put(np.zeros(x.shape, x.dtype), s), setup.state, shardings)
    of_device = lambda tree: sum(
        shard.data.nbytes for x in jax.tree.leaves(tree) for shard in x.addressable_shards if shard.device.id == 0
    )
    result = program.state_bytes(setup)
    assert result == {
        "parameters": of_device(state.params),
        "optimizer": of_device(state.opt_state),
        "moving_average": of_device(state.ema_params),
    }
    total_bytes = sum(x.nbytes for x in jax.tree.leaves(state.params))
    assert (
        total_bytes / 4 <= result["parameters"] < total_bytes / 2
    )  # most of it over fsdp and tensor, some of it whole


def test_a_whole_plan(cpu_slice):
    # In a loop every layer is computed for all tokens.
    looped = dict(model__image__scan=True, model__text__scan=True)
    setup = program.make_setup(tiny(microbatch=2, **looped), cpu_slice)
    plan = program.make_plan(setup, "cpu:8")
    json.dumps(plan)
    memory = plan["memory"]
    assert plan["fits"] and plan["chips"] == 8 and plan["mesh"] == MESH
    assert memory["total"] == sum(size for kind, size in memory.items() if kind not in ("total", "capacity"))
    assert memory["activations"] > 0 and memory["temporaries"] > 0
    assert plan["flops"]["model"] == 3 * setup.task.flops_per_example() * 16
    # Every product is done at least once, and none more than a few times (microbatches are computed again).
    assert 0.9 < plan["flops"]["chip"] * 8 / plan["flops"]["model"] < 8
    assert any(row["axes"].startswith("data") and row["kind"] == "all-reduce" for row in plan["collectives"])
    assert not plan["unknown_loops"] and plan["roofline"]["step"] > 0
    text = plan_text.render(plan | {"budget": times.budget(plan, 1e6)})
    assert "mesh axes" in text and "62,500 steps" in text and "microbatch 2" in text
    assert max(map(len, text.splitlines())) <= 120


def test_parts_of_the_memory_add_up():
    analysis = SimpleNamespace(
        argument_size_in_bytes=130,
        output_size_in_bytes=105,
        alias_size_in_bytes=100,
        temp_size_in_bytes=50,
        generated_code_size_in_bytes=7,
    )
    kinds = {"parameters": 40, "optimizer": 60, "moving_average": 0}
    parts = program.memory(kinds, analysis, activations=20)
    assert parts == kinds | dict(inputs=30, activations=20, temporaries=35, program=7, total=192)
    assert program.memory(kinds, analysis, activations=999)["temporaries"] == 0


def test_roofline_and_budget_by_hand():
    counted = costs.Costs(flops=1e9, matrix_flops=2e9, hbm_bytes=5e8, activation_bytes=0, unknown_loops=())
    result = [collectives.Collective("all-reduce", "data", "f32", 4, 1, 2, 500_000_000)]
    roof = times.roofline(counted, result, CHIP, model_flops=1e9)
    assert roof == dict(
        compute=2.0, memory=0.5, links=1.5, step=2.0, bound="compute", serial=4.0, mfu=pytest.approx(0.5)
    )
    cost = times.budget({"batch_size": 1000, "roofline": roof, "prediction": {"step": 3.0}, "chips": 8}, 3_599_500)
    assert cost == dict(
        examples=3_599_500, steps=3600, hours=2.0, chip_hours=16.0, predicted_hours=3.0, predicted_chip_hours=24.0
    )


@pytest.mark.parametrize(
    ("message", "needs", "has"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (27.99G)"
            " exceeds available HBM (15.75G).",
            27.99,
            15.75,
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.05G of 15.75G hbm. Exceeded hbm"
            " capacity by 4.30G.\n\nTotal hbm usage >= 20.31G:\n    reserved 258.00M",
            20.05,
            15.75,
        ),
    ],
)
def test_what_the_compiler_says_about_memory(message, needs, has):
    refusal = program.refusal(message)
    assert refusal["needs"] == int(needs * 2**30) and refusal["has"] == int(has * 2**30) and "\n" not in refusal["says"]
    assert "reserved" not in refusal["says"]


def test_another_refusal_is_an_error():
    with pytest.raises(UserError, match="refuses the program: INTERNAL: x"):
        program.refusal("INTERNAL: x")
    assert program.refusal("RESOURCE_EXHAUSTED: of another kind") == {"says": "of another kind"}


def test_a_program_in_another_form_is_one_line(cpu_slice, monkeypatch):
    compiled = SimpleNamespace(as_text=lambda: "HloModule new", memory_analysis=None)
    monkeypatch.setattr(program.Setup, "lower", lambda self: SimpleNamespace(compile=lambda: compiled))
    with pytest.raises(UserError, match=r"cannot read the program that this compiler wrote \(jax .*\): .*no ENTRY"):
        program.make_plan(program.make_setup(tiny(), cpu_slice), "cpu:8")


def test_what_does_not_fit_says_what_to_change(cpu_slice, monkeypatch):
    setup = program.make_setup(tiny(), cpu_slice)

    def refuse(self):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out. Used 2G of 1G hbm.")

    monkeypatch.setattr(program.Setup, "lower", refuse)
    plan = program.make_plan(setup, "cpu:8")
    text = plan_text.render(plan)
    assert not plan["fits"] and "does not fit: the compiler needs 2.15 GB of 1.07 GB (2.00 x)" in text
    for option in ("model.image.remat=full", "microbatch=2", "mesh.fsdp=4", "optimizer.momentum_dtype=bfloat16"):
        assert f"--config.{option}" in text
