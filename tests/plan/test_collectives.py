"""Collectives, their groups and bytes, against programs that are known by construction."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mmjax.plan import collectives, hlo
from tests.helpers.programs import LOOP, MESH, body, loop, module


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
    (result,) = collectives.find(
        module(f"%x = f32[8,4]{{1,0}} parameter(0)\nROOT %y = f32[8,4] all-reduce(%x), replica_groups={groups}"), MESH
    )
    assert (result.axes, result.group, result.executions, result.bytes) == (axes, group, 1, 128)


def test_pairs_of_start_and_done_count_once_and_loops_multiply():
    text = body(
        """%s = (f32[4]{0}, f32[8]{0}) all-gather-start(%x), replica_groups={{0,1},{2,3},{4,5},{6,7}}, dimensions={0}
        %d = f32[8]{0} all-gather-done(%s)
        %c = (f32[4]{0}, f32[4]{0}, u32[]) collective-permute-start(%x), source_target_pairs={{0,4},{4,0},{1,5},{5,1}}
        %e = f32[4]{0} collective-permute-done(%c)
        %r = f32[2]{0} reduce-scatter(%x), replica_groups=[4,2]<=[2,2,2]T(0,2,1), dimensions={0}
        %one = f32[4]{0} all-reduce(%x), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}"""
    )
    result = collectives.find(module(loop(), LOOP, text), MESH)
    assert {(c.kind, c.axes, c.executions, c.bytes, c.sent_bytes) for c in result} == {
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
    (result,) = collectives.find(module(entry, *insides), MESH)
    assert (result.executions, result.bytes, result.sent_bytes) == (1, 128, 112)


def test_a_fused_all_reduce_of_which_a_slice_is_kept_is_a_reduce_scatter():
    inside = (
        "%scatter (p: f32[8], i: s32[]) -> f32[1]",
        """%p = f32[8]{0} parameter(0)
        %i = s32[] parameter(1)
        %r = f32[8]{0} all-reduce(%p), replica_groups=[1,8]<=[8]
        ROOT %s = f32[1]{0} dynamic-slice(%r, %i), dynamic_slice_sizes={1}""",
    )
    entry = "%x = f32[8]{0} parameter(0)\n%i = s32[] constant(0)\nROOT %y = f32[1] fusion(%x, %i), calls=%scatter"
    (result,) = collectives.find(module(entry, inside), MESH)
    assert (result.kind, result.bytes, result.sent_bytes) == ("reduce-scatter", 32, 28)


def test_collectives_of_a_real_program_on_every_axis(mesh):
    """Eight devices, a scan of five turns; sizes are those of one device's blocks."""

    def turn(x, _):
        x = jax.lax.psum(x, "data") * 0.5
        gathered = jax.lax.all_gather(x, "fsdp", tiled=True)  # [8, 16]
        x = x + jax.lax.psum_scatter(gathered, ("fsdp", "tensor"), scatter_dimension=0, tiled=True).sum()
        x = jax.lax.ppermute(x, "tensor", [(0, 1), (1, 0)])
        return x + jax.lax.all_to_all(x, "data", 0, 0, tiled=True), None

    def full(x):
        return jax.lax.psum(jax.lax.scan(turn, x, length=5)[0], ("data", "fsdp", "tensor"))

    block = jax.ShapeDtypeStruct((32, 16), jnp.float32, sharding=NamedSharding(mesh, P(("data", "fsdp", "tensor"))))
    mapped = jax.shard_map(full, mesh=mesh, in_specs=P(("data", "fsdp", "tensor")), out_specs=P(), check_vma=False)
    result = collectives.find(hlo.parse(jax.jit(mapped).lower(block).compile().as_text()), MESH)
    local_bytes = 4 * 16 * 4  # bytes of a device's block
    assert {(c.kind, c.axes, c.executions, c.bytes) for c in result} == {
        ("all-reduce", "data", 5, local_bytes),
        ("all-gather", "fsdp", 5, 2 * local_bytes),
        ("reduce-scatter", "fsdp+tensor", 5, 2 * local_bytes),
        ("collective-permute", "tensor", 5, local_bytes),
        ("all-to-all", "data", 5, local_bytes),
        ("all-reduce", "data+fsdp+tensor", 1, local_bytes),
    }
    sums = collectives.totals(result)
    assert [row["bytes"] for row in sums] == sorted((row["bytes"] for row in sums), reverse=True)
    (permute,) = [row for row in sums if row["kind"] == "collective-permute"]
    assert permute == dict(
        kind="collective-permute",
        axes="tensor",
        dtype="f32",
        executions=5,
        bytes=5 * local_bytes,
        sent_bytes=5 * local_bytes,
        network_bytes=0,
    )


def test_the_compilers_own_collectives_are_found(mesh):
    """A matrix product split along what it sums over, left to the partitioner: an all-reduce of the result."""
    spec = lambda *axes: NamedSharding(mesh, P(*axes))
    x = jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=spec("data", "tensor"))
    w = jax.ShapeDtypeStruct((16, 4), jnp.float32, sharding=spec("tensor", None))
    compiled = jax.jit(jnp.dot, out_shardings=spec("data", None)).lower(x, w).compile()
    (result,) = collectives.find(hlo.parse(compiled.as_text()), MESH)
    assert (result.kind, result.axes, result.executions, result.bytes) == ("all-reduce", "tensor", 1, 4 * 4 * 4)
