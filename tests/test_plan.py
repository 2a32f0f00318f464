"""Plans: what is read off a compiled program, against programs whose costs are known by construction."""

import importlib.util
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mmjax import cli
from mmjax.errors import UserError
from mmjax.parallel import mesh as mesh_lib
from mmjax.plan import collectives, command, costs, hlo, program, report, sweep, topology
from mmjax.training import devices
from mmjax.training import state as state_lib

MESH = {"data": 2, "fsdp": 2, "tensor": 2}
CHIP = devices.Device("cpu", flops=1e9, memory=1e9, memory_bandwidth=1e9, link_bandwidth=1e9)


def module(entry, *computations):
    """A program's text, of computations as (header, lines)."""
    parts = ["HloModule test, is_scheduled=true\n"]
    for header, text in [*computations, ("ENTRY %main (p: f32[]) -> f32[]", entry)]:
        body = "\n".join("  " + line.strip() for line in text.strip().splitlines())
        parts.append(f"{header} {{\n{body}\n}}\n")
    return hlo.parse("\n".join(parts))


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "dims", "stored", "space"),
    [
        ("f32[]", (), 4, 0),
        ("bf16[3,5]{1,0}", (3, 5), 30, 0),
        ("f32[3,5]{1,0:T(8,128)}", (3, 5), 8 * 128 * 4, 0),
        ("f32[3,5]{0,1:T(8,128)}", (3, 5), 8 * 128 * 4, 0),
        ("bf16[12,128,197,768]{3,1,2,0:T(8,128)(2,1)}", (12, 128, 197, 768), 12 * 128 * 197 * 768 * 2, 0),
        ("bf16[128,197,768]{2,1,0:T(8,128)(2,1)S(1)}", (128, 197, 768), 128 * 200 * 768 * 2, 1),
        ("f32[768]{0:T(1024)S(1)}", (768,), 4096, 1),
        ("f32[]{:T(128)}", (), 512, 0),
        ("pred[7]{0}", (7,), 7, 0),
        ("s4[8]{0}", (8,), 4, 0),
        ("f8e4m3fn[8]{0}", (8,), 8, 0),
        ("token[]", (), 0, 0),
    ],
)
def test_shapes_are_read_with_their_padding(text, dims, stored, space):
    read = module(f"ROOT %x = {text} parameter(0)").computations["main"].root.shape
    assert (read.dims, read.stored_bytes, read.space) == (dims, stored, space)


def test_tuples_operands_and_comments_are_read():
    root = module(
        """%a = f32[2]{0} parameter(0)
        %t = ((f32[2]{0}, /*index=1*/s32[]), f32[2]{0:T(128)}) custom-call(%a), custom_call_target="x"
        ROOT %y = f32[2]{0} add(%a, %t#1), metadata={op_name="jit(f)/add"}"""
    ).computations["main"]
    shape = root.instructions["t"].shape
    assert [leaf.dims for leaf in hlo.leaves(shape)] == [(2,), (), (2,)] and len(shape[0]) == 2
    assert root.root.operands == (("a", None), ("t", 1)) and root.root.op_name == "jit(f)/add"
    assert root.shape_of(("t", 1)).elements == 128


LOOP = (
    "%cond (p: (s32[], f32[4])) -> pred[]",
    """%p = (s32[], f32[4]{0}) parameter(0)
    %i = s32[] get-tuple-element(%p), index=0
    %n = s32[] constant(12)
    ROOT %lt = pred[] compare(%i, %n), direction=LT""",
)


def body(text, result="%x"):
    return (
        "%body (p: (s32[], f32[4])) -> (s32[], f32[4])",
        f"""%p = (s32[], f32[4]{{0}}) parameter(0)
        %i = s32[] get-tuple-element(%p), index=0
        %x = f32[4]{{0}} get-tuple-element(%p), index=1
        {text}
        ROOT %t = (s32[], f32[4]{{0}}) tuple(%i, {result})""",
    )


def loop(start=0, attributes=""):
    return f"""%x = f32[4]{{0}} parameter(0)
    %zero = s32[] constant({start})
    %t = (s32[], f32[4]{{0}}) tuple(%zero, %x)
    ROOT %w = (s32[], f32[4]{{0}}) while(%t), condition=%cond, body=%body{attributes}"""


def test_turns_of_loops():
    assert module(loop(), LOOP, body("")).executions()[0]["body"] == 12
    assert module(loop(start=2), LOOP, body("")).executions()[0]["body"] == 10
    known = ', backend_config={"known_trip_count":{"n":"5"}}'
    assert module(loop(attributes=known), LOOP, body("")).executions()[0]["body"] == 5
    until = (LOOP[0], LOOP[1].replace("constant(12)", "custom-call(%i)"))
    control, _, unknown = module(loop(), until, body("")).executions()
    assert control["body"] == 1 and unknown == ["w"]


# -- collectives -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("{{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("{}", [[0, 1, 2, 3]]),
        ("[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("mesh['a'=2,'b'=2] {'b'}", [[0, 1], [2, 3]]),
        ("mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
        ("mesh['a'=2,'b'=1,'c'=2] {'a','c'}", [[0, 1, 2, 3]]),
        ("mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}", [[0, 1], [2, 3]]),
        ("mesh['a'=2,'b'=2], device_ids=(0,2,1,3) {'b'}", [[0, 2], [1, 3]]),
        ("mesh['a'=4] {'a':(2)2}", [[0, 1], [2, 3]]),
        ("mesh['a'=4] {'a':(1)2}", [[0, 2], [1, 3]]),
    ],
)
def test_replica_groups_in_every_form(text, groups):
    read = collectives.replica_groups(f"channel_id=1, replica_groups={text}, use_global_device_ids=true", 4)
    assert sorted(map(sorted, read.tolist())) == groups


def test_an_unknown_form_of_groups_is_an_error():
    with pytest.raises(ValueError, match="unknown form"):
        collectives.replica_groups("replica_groups=<<1>>", 4)


@pytest.mark.parametrize(
    ("groups", "axes", "group"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", "tensor", 2),
        ("[4,2]<=[2,2,2]T(0,2,1)", "fsdp", 2),
        ("[4,2]<=[2,4]T(1,0)", "data", 2),
        ("[2,4]<=[8]", "fsdp+tensor", 4),
        ("[2,4]<=[4,2]T(1,0)", "data+fsdp", 4),
        ("[1,8]<=[8]", "data+fsdp+tensor", 8),
        ("{{0,3},{1,2},{4,7},{5,6}}", "fsdp+tensor?", 2),  # across two axes, but not all of either
    ],
)
def test_groups_are_named_by_mesh_axes(groups, axes, group):
    (found,) = collectives.find(
        module(f"%x = f32[8,4]{{1,0}} parameter(0)\nROOT %y = f32[8,4] all-reduce(%x), replica_groups={groups}"), MESH
    )
    assert (found.axes, found.group, found.executions, found.bytes) == (axes, group, 1, 128)


def test_pairs_of_start_and_done_count_once_and_loops_multiply():
    text = body(
        """%s = (f32[4]{0}, f32[8]{0}) all-gather-start(%x), replica_groups={{0,1},{2,3},{4,5},{6,7}}, dimensions={0}
        %d = f32[8]{0} all-gather-done(%s)
        %c = (f32[4]{0}, f32[4]{0}, u32[]) collective-permute-start(%x), source_target_pairs={{0,4},{4,0},{1,5},{5,1}}
        %e = f32[4]{0} collective-permute-done(%c)
        %r = f32[2]{0} reduce-scatter(%x), replica_groups=[4,2]<=[2,2,2]T(0,2,1), dimensions={0}
        %one = f32[4]{0} all-reduce(%x), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}"""
    )
    found = collectives.find(module(loop(), LOOP, text), MESH)
    assert {(c.kind, c.axes, c.executions, c.bytes, c.sent_bytes) for c in found} == {
        ("all-gather", "tensor", 12, 32, 12 * 16),
        ("collective-permute", "data", 12, 16, 12 * 16),
        ("reduce-scatter", "fsdp", 12, 16, 12 * 8),
    }


def test_an_asynchronous_collective_spread_over_fusions_is_one():
    """A TPU writes the same all-gather into every fusion that it overlaps with."""

    def inside(name, target):
        return (
            f"%{name} (p: f32[4]) -> f32[32]",
            f"""%p = f32[4]{{0}} parameter(0)
            %g = f32[32]{{0}} all-gather(%p), replica_groups=[1,8]<=[8], frontend_attributes={{chain_id="0"}}
            ROOT %c = f32[32]{{0}} custom-call(%g), custom_call_target="{target}\"""",
        )

    entry = """%x = f32[4]{0} parameter(0)
    %a = f32[32]{0} fusion(%x), kind=kCustom, calls=%start
    %b = f32[32]{0} fusion(%x), kind=kCustom, calls=%step
    ROOT %c = f32[32]{0} fusion(%x), kind=kCustom, calls=%done"""
    insides = [
        inside(*pair) for pair in (("start", "AsyncCollectiveStart"), ("step", "x"), ("done", "AsyncCollectiveDone"))
    ]
    (found,) = collectives.find(module(entry, *insides), MESH)
    assert (found.executions, found.bytes, found.sent_bytes) == (1, 128, 112)


def test_a_fused_all_reduce_of_which_a_slice_is_kept_is_a_reduce_scatter():
    inside = (
        "%scatter (p: f32[8], i: s32[]) -> f32[1]",
        """%p = f32[8]{0} parameter(0)
        %i = s32[] parameter(1)
        %r = f32[8]{0} all-reduce(%p), replica_groups=[1,8]<=[8]
        ROOT %s = f32[1]{0} dynamic-slice(%r, %i), dynamic_slice_sizes={1}""",
    )
    entry = "%x = f32[8]{0} parameter(0)\n%i = s32[] constant(0)\nROOT %y = f32[1] fusion(%x, %i), calls=%scatter"
    (found,) = collectives.find(module(entry, inside), MESH)
    assert (found.kind, found.bytes, found.sent_bytes) == ("reduce-scatter", 32, 28)


@pytest.fixture(scope="module")
def mesh():
    return mesh_lib.make_mesh(MESH, jax.devices()[:8])


def test_collectives_of_a_real_program_on_every_axis(mesh):
    """Eight devices, a scan of five turns; sizes are those of one device's blocks."""

    def turn(x, _):
        x = jax.lax.psum(x, "data") * 0.5
        gathered = jax.lax.all_gather(x, "fsdp", tiled=True)  # [8, 16]
        x = x + jax.lax.psum_scatter(gathered, ("fsdp", "tensor"), scatter_dimension=0, tiled=True).sum()
        x = jax.lax.ppermute(x, "tensor", [(0, 1), (1, 0)])
        return x + jax.lax.all_to_all(x, "data", 0, 0, tiled=True), None

    def whole(x):
        return jax.lax.psum(jax.lax.scan(turn, x, length=5)[0], ("data", "fsdp", "tensor"))

    block = jax.ShapeDtypeStruct((32, 16), jnp.float32, sharding=NamedSharding(mesh, P(("data", "fsdp", "tensor"))))
    mapped = jax.shard_map(whole, mesh=mesh, in_specs=P(("data", "fsdp", "tensor")), out_specs=P(), check_vma=False)
    found = collectives.find(hlo.parse(jax.jit(mapped).lower(block).compile().as_text()), MESH)
    own = 4 * 16 * 4  # bytes of a device's block
    assert {(c.kind, c.axes, c.executions, c.bytes) for c in found} == {
        ("all-reduce", "data", 5, own),
        ("all-gather", "fsdp", 5, 2 * own),
        ("reduce-scatter", "fsdp+tensor", 5, 2 * own),
        ("collective-permute", "tensor", 5, own),
        ("all-to-all", "data", 5, own),
        ("all-reduce", "data+fsdp+tensor", 1, own),
    }
    sums = collectives.totals(found)
    assert [row["bytes"] for row in sums] == sorted((row["bytes"] for row in sums), reverse=True)
    (permute,) = [row for row in sums if row["kind"] == "collective-permute"]
    assert permute == dict(kind="collective-permute", axes="tensor", executions=5, bytes=5 * own, sent_bytes=5 * own)


def test_the_compilers_own_collectives_are_found(mesh):
    """A matrix product split along what it sums over, left to the partitioner: an all-reduce of the result."""
    spec = lambda *axes: NamedSharding(mesh, P(*axes))
    x = jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=spec("data", "tensor"))
    w = jax.ShapeDtypeStruct((16, 4), jnp.float32, sharding=spec("tensor", None))
    compiled = jax.jit(jnp.dot, out_shardings=spec("data", None)).lower(x, w).compile()
    (found,) = collectives.find(hlo.parse(compiled.as_text()), MESH)
    assert (found.kind, found.axes, found.executions, found.bytes) == ("all-reduce", "tensor", 1, 4 * 4 * 4)


# -- costs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "flops"),
    [
        (
            """%a = f32[6,4,5]{2,1,0} parameter(0)
            %b = f32[6,5,3]{2,1,0} parameter(1)
            ROOT %c = f32[6,4,3] dot(%a, %b), lhs_batch_dims={0}, lhs_contracting_dims={2}, rhs_contracting_dims={1}""",
            2 * 6 * 4 * 5 * 3,
        ),
        (  # a dense layer as TPUs write it
            """%a = bf16[4,5,32]{2,1,0} parameter(0)
            %b = bf16[32,128]{1,0} parameter(1)
            ROOT %c = f32[4,5,128] convolution(%a, %b), window={size=1}, dim_labels=0bf_io0->0bf""".replace(
                "bf16[32,128]{1,0}", "bf16[32,128,1]{2,1,0}"
            ),
            2 * 4 * 5 * 32 * 128,
        ),
        (  # attention's batched product of [4,2] matrices [5,16] x [16,5]: dilation makes it a convolution
            """%q = bf16[4,5,2,16]{3,2,1,0} parameter(0)
            %k = bf16[4,5,2,16]{3,2,1,0} parameter(1)
            ROOT %c = f32[4,2,5,5] convolution(%q, %k), window={size=4x2 stride=3x1 lhs_dilate=4x2},"""
            """ dim_labels=0b1f_0o1i->01bf""",
            2 * 4 * 2 * 5 * 5 * 16,
        ),
        (  # a kernel of 3 over 8 pixels with a pixel of padding at each end: two products meet the padding
            """%a = f32[1,8,1]{2,1,0} parameter(0)
            %b = f32[3,1,1]{2,1,0} parameter(1)
            ROOT %c = f32[1,8,1] convolution(%a, %b), window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f""",
            2 * (3 * 8 - 2),
        ),
    ],
)
def test_products_are_counted(lines, flops):
    assert costs.count(module(lines)).flops == flops


def test_a_float32_product_of_the_highest_precision_takes_six_passes():
    lines = """%a = f32[4,5]{1,0} parameter(0)
    %b = f32[5,3]{1,0} parameter(1)
    ROOT %c = f32[4,3] dot(%a, %b), lhs_contracting_dims={1}, operand_precision={highest,highest}"""
    counted = costs.count(module(lines))
    assert (counted.flops, counted.matrix_flops) == (120, 720)
    assert costs.count(module(lines.replace("f32[5,3]", "bf16[5,3]"))).matrix_flops == 120


def test_flops_of_a_compiled_scan():
    def f(x, w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0].sum()

    x, w = jnp.zeros((32, 64)), jnp.zeros((7, 64, 64))
    once = 2 * 32 * 64 * 64
    text = lambda function: hlo.parse(jax.jit(function).lower(x, w).compile().as_text())
    assert costs.count(text(f)).flops == 7 * once
    assert costs.count(text(jax.grad(f, argnums=(0, 1)))).flops == 3 * 7 * once


def test_traffic_of_slices_and_updates_in_place():
    """A fusion that takes one layer of a stack reads one layer; what stays on the chip is free."""
    take = (
        "%take (p: f32[12,100], i: s32[]) -> f32[1,100]",
        """%p = f32[12,100]{1,0} parameter(0)
        %i = s32[] parameter(1)
        ROOT %s = f32[1,100]{1,0} dynamic-slice(%p, %i), dynamic_slice_sizes={1,100}""",
    )
    put = (
        "%put (p: f32[12,100], u: f32[1,100], i: s32[]) -> f32[12,100]",
        """%p = f32[12,100]{1,0} parameter(0)
        %u = f32[1,100]{1,0} parameter(1)
        %i = s32[] parameter(2)
        ROOT %s = f32[12,100]{1,0} dynamic-update-slice(%p, %u, %i)""",
    )
    head = "%x = f32[12,100]{1,0} parameter(0)\n%i = s32[] constant(0)\n%u = f32[1,100]{1,0:S(1)} copy(%x)\n"
    bytes_of = lambda line: costs.count(module(head + line, take, put)).hbm_bytes - 4800  # less the copy's reading
    assert bytes_of("ROOT %y = f32[1,100]{1,0} fusion(%x, %i), calls=%take") == 400 + 4 + 400
    assert bytes_of("ROOT %y = f32[1,100]{1,0:S(1)} fusion(%x, %i), calls=%take") == 400 + 4
    assert bytes_of("ROOT %y = f32[12,100]{1,0} fusion(%x, %u, %i), calls=%put") == 400 + 4
    assert bytes_of("ROOT %y = f32[12,100]{1,0} negate(%x)") == 9600
    assert bytes_of("ROOT %y = f32[12,100]{1,0} bitcast(%x)") == 0


def test_activations_are_what_the_backward_pass_reads():
    entry = """%x = f32[100]{0} parameter(0)
    %a = f32[100]{0} sine(%x), metadata={op_name="jit(f)/jvp(g)/sin"}
    %b = f32[100]{0} cosine(%a), metadata={op_name="jit(f)/jvp(g)/cos"}
    %c = f32[100]{0:S(1)} negate(%b), metadata={op_name="jit(f)/jvp(g)/neg"}
    %d = f32[100]{0} add(%a, %c), metadata={op_name="jit(f)/transpose(jvp(g))/add"}
    %e = f32[50]{0} slice(%b), metadata={op_name="jit(f)/transpose(jvp(g))/checkpoint/rematted_computation/slice"}
    %f = f32[50]{0} add(%e, %e), metadata={op_name="jit(f)/transpose(jvp(g))/add"}
    ROOT %g = f32[100]{0} add(%d, %x), metadata={op_name="jit(f)/add"}"""
    # %a is kept until %d; %b is read by a recomputation only; %c is not in main memory; %e is kept later than %a.
    assert costs.count(module(entry)).activation_bytes == 400
    kept = entry.replace(
        'add(%d, %x), metadata={op_name="jit(f)/', 'add(%d, %a), metadata={op_name="jit(f)/transpose(jvp())/'
    )
    assert costs.count(module(kept)).activation_bytes == 600


def test_activations_of_a_compiled_scan_shrink_with_rematerialisation():
    def loss(layer, x, w):
        return jax.lax.scan(lambda x, w: (layer(x, w), None), x, w)[0].sum()

    def layer(x, w):
        return x + jnp.tanh(jnp.sin(x @ w) @ w)

    x, w = jnp.zeros((256, 64)), jnp.zeros((8, 64, 64))
    kept = {}
    for name, function in (("none", layer), ("full", jax.checkpoint(layer))):
        compiled = jax.jit(jax.grad(lambda x, w, f=function: loss(f, x, w), argnums=(0, 1))).lower(x, w).compile()
        kept[name] = costs.count(hlo.parse(compiled.as_text())).activation_bytes
        assert kept[name] <= compiled.memory_analysis().temp_size_in_bytes
    stack = 8 * 256 * 64 * 4  # of one value per layer
    assert stack <= kept["full"] < 2 * stack < kept["none"]


# -- plans -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cpu_slice(monkeypatch):
    """Eight CPU devices in place of a slice, with the data sheet of a slow chip."""
    monkeypatch.setattr(devices, "find", lambda kind: CHIP)
    return jax.devices()[:8]


def tiny(**changes):
    changes = dict(mesh__data=2, mesh__fsdp=2, mesh__tensor=2, model__image__heads=2) | changes
    return runs.config(data__train="", **changes)


def test_bytes_of_the_state_are_those_of_a_made_state(cpu_slice, monkeypatch):
    """Against a brute force: the shards of a real state on one device."""
    monkeypatch.setattr(state_lib.partition, "MIN_SHARDED_SIZE", 64)
    setup = program.set_up(tiny(ema_decay=0.9, optimizer__momentum_dtype="bfloat16"), cpu_slice)
    shardings = jax.tree.map(lambda x: x.sharding, setup.state)
    state = jax.tree.map(lambda x, s: jax.device_put(np.zeros(x.shape, x.dtype), s), setup.state, shardings)
    of_device = lambda tree: sum(
        shard.data.nbytes for x in jax.tree.leaves(tree) for shard in x.addressable_shards if shard.device.id == 0
    )
    found = program.state_bytes(setup)
    assert found == {
        "parameters": of_device(state.params),
        "optimizer": of_device(state.opt_state),
        "moving_average": of_device(state.ema_params),
    }
    whole = sum(x.nbytes for x in jax.tree.leaves(state.params))
    assert whole / 4 <= found["parameters"] < whole / 2  # most of it over fsdp and tensor, some of it whole


def test_a_whole_plan(cpu_slice):
    setup = program.set_up(tiny(microbatch=2), cpu_slice)
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
    told = report.render(plan | {"budget": program.budget(plan, 1e6)})
    assert "mesh axes" in told and "62,500 steps" in told and "microbatch 2" in told
    assert max(map(len, told.splitlines())) <= 120


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
    found = [collectives.Collective("all-reduce", "data", 4, 2, 500_000_000)]
    roof = program.roofline(counted, found, CHIP, model_flops=1e9)
    assert roof == dict(
        compute=2.0, memory=0.5, links=1.5, step=2.0, bound="compute", serial=4.0, mfu=pytest.approx(0.5)
    )
    cost = program.budget({"batch_size": 1000, "roofline": roof, "chips": 8}, 3_599_500)
    assert cost == dict(examples=3_599_500, steps=3600, hours=2.0, chip_hours=16.0)


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
    told = program.refusal(message)
    assert told["needs"] == int(needs * 2**30) and told["has"] == int(has * 2**30) and "\n" not in told["says"]
    assert "reserved" not in told["says"]


def test_another_refusal_is_an_error():
    with pytest.raises(UserError, match="refuses the program: INTERNAL: x"):
        program.refusal("INTERNAL: x")
    assert program.refusal("RESOURCE_EXHAUSTED: of another kind") == {"says": "of another kind"}


def test_a_program_in_another_form_is_one_line(cpu_slice, monkeypatch):
    compiled = SimpleNamespace(as_text=lambda: "HloModule new", memory_analysis=None)
    monkeypatch.setattr(program.Setup, "lower", lambda self: SimpleNamespace(compile=lambda: compiled))
    with pytest.raises(UserError, match=r"cannot read the program that this compiler wrote \(jax .*\): .*no ENTRY"):
        program.make_plan(program.set_up(tiny(), cpu_slice), "cpu:8")


def test_what_does_not_fit_says_what_to_change(cpu_slice, monkeypatch):
    setup = program.set_up(tiny(), cpu_slice)

    def refuse(self):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out. Used 2G of 1G hbm.")

    monkeypatch.setattr(program.Setup, "lower", refuse)
    plan = program.make_plan(setup, "cpu:8")
    told = report.render(plan)
    assert not plan["fits"] and "does not fit: the compiler needs 2.15 GB of 1.07 GB (2.00 x)" in told
    for option in ("model.image.remat=full", "microbatch=2", "mesh.fsdp=4", "optimizer.momentum_dtype=bfloat16"):
        assert f"--config.{option}" in told


# -- sweeps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2)], ids=str)
def test_every_mesh_divides_the_work(cpu_slice, monkeypatch, sizes):
    """Weights are gathered for the rows they meet; rows stay where they are, and nobody does another's attention."""
    monkeypatch.setattr(state_lib.partition, "MIN_SHARDED_SIZE", 64)
    mesh = {f"mesh__{axis}": size for axis, size in zip(mesh_lib.AXES, sizes, strict=True)}
    plan = program.make_plan(program.set_up(tiny(batch_size=64, loss__impl="gather", **mesh), cpu_slice), "cpu:8")
    assert plan["flops"]["chip"] * 8 / plan["flops"]["model"] < 1.1
    kinds = {row["kind"] for row in plan["collectives"]}
    assert kinds == {"all-gather", "all-reduce", "reduce-scatter"}
    # Activations are summed over `tensor` alone; what crosses `fsdp` is parameters and their gradients, and the loss.
    whole = 4 * sum(x.size for x in jax.tree.leaves(program.set_up(tiny(**mesh), cpu_slice).state.params))
    over_fsdp = sum(row["bytes"] for row in plan["collectives"] if "fsdp" in row["axes"])
    assert over_fsdp < 5 * whole


@pytest.fixture
def quick_set_up(cpu_slice, monkeypatch):
    """Mesh and batch are checked as they are in a plan; the model is a single array of 4,000 bytes."""

    def set_up(config, found):
        mesh = mesh_lib.make_mesh(config.mesh, found)
        mesh_lib.check_batch("batch_size", config.batch_size, mesh, config.microbatch)
        whole = mesh_lib.replicated(mesh)
        params = jax.ShapeDtypeStruct((1000,), jnp.float32, sharding=whole)
        state = state_lib.TrainState(None, params, None, None, None, None)
        return program.Setup(config, None, mesh, devices.find("cpu"), state, {}, None)

    monkeypatch.setattr(program, "set_up", set_up)


def fake_plan(setup, name):
    """Fits from two microbatches on; the more fsdp, the slower; tensor fails to compile."""
    config = setup.config
    if setup.mesh.shape["tensor"] > 1:
        raise UserError("the TPU compiler refuses the program: no")
    plan = {"mesh": dict(setup.mesh.shape), "microbatch": config.microbatch, "fits": config.microbatch > 1}
    plan |= {"batch_size": config.batch_size, "chips": setup.mesh.size}
    plan["remat"] = {"image": "none", "text": "none"}
    plan["memory"] = {"total": 5, "capacity": 10}
    if plan["fits"]:
        plan["roofline"] = {"step": 1.0 * setup.mesh.shape["fsdp"], "bound": "compute", "mfu": 0.5, "serial": 2.0}
    else:
        plan["refusal"] = {"needs": 20, "has": 10, "says": "Ran out"}
    return plan


def test_a_sweep_ranks_what_fits(cpu_slice, quick_set_up):
    said = []
    kwargs = dict(max_compiles=100, say=said.append, make_plan=fake_plan)
    ranked = sweep.run(tiny(batch_size=32), "cpu:8", cpu_slice, ("mesh", "microbatch"), **kwargs)
    fitting = [plan for plan in ranked if plan["fits"]]
    # Heads are 2: tensor 1 and 2; of each mesh the first microbatch that fits.
    assert [(plan["mesh"]["fsdp"], plan["microbatch"]) for plan in fitting] == [(1, 2), (2, 2), (4, 2), (8, 2)]
    assert ranked[: len(fitting)] == fitting
    reasons = [plan["reason"] for plan in ranked[len(fitting) :]]
    assert "the TPU compiler refuses the program: no" in reasons and "does not fit" in reasons[0]
    assert said[0].startswith("[1/100] data 8 x fsdp 1 x tensor 1, microbatch 1")
    told = sweep.render(ranked)
    assert told.index("  1. data 8 x fsdp 1") < told.index("  2. data 4 x fsdp 2") < told.index("What does not")


def test_a_sweep_is_bounded_and_skips_what_cannot_fit(cpu_slice, quick_set_up, monkeypatch):
    said = []
    kwargs = dict(max_compiles=3, say=said.append, make_plan=fake_plan)
    sweep.run(tiny(batch_size=32), "cpu:8", cpu_slice, ("mesh", "microbatch"), **kwargs)
    assert sum(line.startswith("[") for line in said) == 3 and "more not tried" in said[-1]
    monkeypatch.setattr(devices, "find", lambda kind: devices.Device("cpu", 1e9, memory=1000.0))
    kwargs["make_plan"] = None  # nothing is compiled
    ranked = sweep.run(tiny(), "cpu:8", cpu_slice, ("microbatch",), **kwargs)
    assert len(ranked) == 1 and "the state alone is" in ranked[0]["reason"]
    assert "Nothing that was tried fits" in sweep.render(ranked)


def test_a_candidate_that_cannot_be_is_listed(cpu_slice, quick_set_up):
    config = tiny(batch_size=8, mesh__data=8, mesh__fsdp=1, mesh__tensor=1, microbatch=2)
    ranked = sweep.run(config, "cpu:8", cpu_slice, ("remat",), max_compiles=3, say=str, make_plan=fake_plan)
    assert len(ranked) == 3 and all("batch_size=8 does not divide" in plan["reason"] for plan in ranked)


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.fixture
def plan(monkeypatch, capsys):
    """Runs `mmjax plan` with the tiny recipe; returns its status, output and error line."""
    monkeypatch.setattr(topology, "set_environment", lambda: None)
    monkeypatch.setattr(cli, "prepare", lambda config: None)

    def run(*flags):
        status = cli.main(["plan", f"--config={runs.RECIPE}", *flags])
        told = capsys.readouterr()
        return status, told.out, told.err

    return run


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--topology=v5x:2x2"], "--topology=v5x:2x2: the chip 'v5x' is not known (did you mean 'v5"),
        (["--topology=v5e"], "a slice of v5e has 2 sides; write it like v5e:16x16"),
        (["--topology=v5p:4x4"], "a slice of v5p has 3 sides; write it like v5p:4x4x4"),
        (["--topology=v5e:2x0"], "v5e:16x16"),
        (["--topology=v5e:2x2", "--budget=many"], "--budget=many: give a positive number of examples"),
        (["--topology=v5e:2x2", "--budget=-1"], "--budget=-1"),
        (["--topology=v5e:2x2", "--budget=inf"], "--budget=inf"),
        (["--topology=v5e:2x2", "--sweep=mesh,micro"], "--sweep='micro' is not known (did you mean 'microbatch'?)"),
        (["--topology=v5e:2x2", "--sweep", "--max-compiles=0"], "--max-compiles=0 must be at least 1"),
        (["--topology=v5e:2x2", "--output=nowhere/plan.json"], "--output=nowhere/plan.json: its folder does not exist"),
        (["--topology=v5e:2x2", "--config.stepz=3"], "did you mean 'steps'"),
        ([], "--topology"),
    ],
)
def test_mistakes_are_one_line(flags, told, plan):
    status, out, error = plan(*flags)
    assert status == 2 and not out
    assert error.startswith("error: ") and told in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--config.mesh.data=3"], "mesh.data=3"),
        (["--config.batch_size=12"], "batch_size=12 does not divide over mesh.data x mesh.fsdp = 8 devices; choose 8"),
        (["--config.microbatch=3"], "x microbatch = 3"),
        (["--config.model.image.heads=3"], "model.image.heads=3 does not divide"),
    ],
)
def test_mistakes_in_the_config_are_those_of_training(flags, told, plan, cpu_slice, monkeypatch):
    monkeypatch.setattr(topology, "devices", lambda name: cpu_slice)
    status, _, error = plan("--topology=v5e:2x4", *flags)
    assert status == 2 and told in error and error.count("\n") == 1


def test_without_libtpu_it_says_how_to_get_it(plan, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *args: None if name == "libtpu" else find(name, *args)
    )
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    status, _, error = plan("--topology=v5e:2x2")
    assert status == 2 and "pip install 'mmjax[tpu]'" in error and error.count("\n") == 1


def test_the_command_writes_what_it_prints(plan, cpu_slice, quick_set_up, monkeypatch, tmp_path):
    monkeypatch.setattr(topology, "devices", lambda name: cpu_slice)
    monkeypatch.setattr(program, "make_plan", lambda setup, name: fake_plan(setup, name))
    monkeypatch.setattr(report, "render", report.line)
    path = tmp_path / "plan.json"
    flags = ["--topology=v5e:2x4", f"--output={path}"]
    assert plan(*flags, "--config.microbatch=2", "--budget=160")[0] == 0
    written = json.loads(path.read_text())
    assert written["fits"] and written["budget"]["steps"] == 10
    assert plan(*flags)[0] == command.EXIT_DOES_NOT_FIT
    assert not json.loads(path.read_text())["fits"]


@pytest.mark.full
def test_a_topology_that_is_not_there(tmp_path):
    """The TPU compiler itself, twice at the same time; the tiny recipe on four chips."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed")
    code = "import sys; from mmjax import cli; sys.exit(cli.main(sys.argv[1:]))"
    started = []
    for name, mesh in (("a", ["--config.mesh.fsdp=2"]), ("b", ["--config.mesh.tensor=2"])):
        flags = ["plan", f"--config={runs.RECIPE}", "--topology=v5e:2x2", f"--output={tmp_path}/{name}.json", *mesh]
        environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", code, *flags, "--budget=1e6", "--config.data.train="],
                cwd=runs.ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    for process, name, axis in zip(started, "ab", ("fsdp", "tensor"), strict=True):
        out, error = process.communicate(timeout=600)
        assert process.returncode == 0, error
        made = json.loads((tmp_path / f"{name}.json").read_text())
        assert made["device"] == "TPU v5 lite" and made["chips"] == 4 and made["mesh"][axis] == 2
        assert made["memory"]["total"] < made["memory"]["capacity"] == int(15.75 * 2**30)
        # The whole model's state is 12 bytes a parameter; it is replicated, being small, but for what tensor splits.
        assert made["memory"]["parameters"] <= 4 * made["parameter_count"]
        assert 0.9 < made["flops"]["chip"] * 4 / made["flops"]["model"] < 3
        assert any(axis in row["axes"] for row in made["collectives"]), made["collectives"]
        assert "chip-hours" in out and not made["unknown_loops"]
