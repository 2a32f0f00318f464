"""The order of a program, where its gradients are reduced, and how long that takes, by hand."""

import pytest

from mmjax.plan import collectives, costs, schedule, times
from mmjax.training import device_specs
from tests.helpers.programs import LOOP, MESH, body, loop, module

GROUPS = "replica_groups=[2,4]<=[8]"  # along fsdp and tensor
DATA = "replica_groups=[4,2]<=[2,4]T(1,0)"
BACKWARD = 'metadata={op_name="jit(step)/transpose(jvp(f))/dot_general"}'
DOT = "lhs_contracting_dims={1}, " + BACKWARD
HEAD = (
    """%x = bf16[64,64]{1,0} parameter(0)
%one = bf16[64,64]{1,0} dot(%x, %x), """
    + DOT
)
EXACT = device_specs.Sustained(matrix=1.0, attention=1.0, memory=1.0, links=1.0, measured=True)
CHIP = device_specs.Device("chip", 1e6, 1e9, 1e9, link_bandwidth=8192.0, sustained=EXACT)


def reduced(entry, *computations):
    program = module(entry, *computations)
    counted = costs.count(program)
    started = collectives.started(program, MESH)
    reductions = schedule.gradient_reductions(program, started, counted.kernels)
    return schedule.summary(program, reductions, counted.kernels)


def predicted(entry, *computations, device=CHIP):
    program = module(entry, *computations)
    return times.predict(program, costs.count(program), collectives.started(program, MESH), device, None)


def test_loops_are_walked_turn_by_turn():
    names = [instruction.name for _, instruction in schedule.walk(module(loop(start=9), LOOP, body("")))]
    assert names.count("lt") == 3 and names.count("t") == 3 + 1 and names[-1] == "w"


def test_gradients_are_told_from_activations_by_who_reads_them():
    """A sum that a later product reads is not one of gradients; neither is one along another axis."""
    entry = (
        HEAD
        + f"""
    %sum = bf16[64,64]{{1,0}} all-reduce(%one), {DATA}
    %two = bf16[64,64]{{1,0}} dot(%sum, %x), {DOT}
    %gradient = f32[32,64]{{1,0}} all-reduce(%x), {DATA}
    %other = bf16[64,64]{{1,0}} all-reduce(%two), replica_groups={{{{0,1}},{{2,3}},{{4,5}},{{6,7}}}}
    ROOT %t = (bf16[64,64]{{1,0}}, f32[32,64]{{1,0}}) tuple(%other, %gradient)"""
    )
    result = reduced(entry)
    assert result["bytes"] == 64 * 64 * 2 and result["by_dtype"] == {"bf16": 64 * 64 * 2}
    assert result["after_last_product"] == 1.0 and result["first"] == 3 / 5
    assert reduced(HEAD.replace("%one", "ROOT %one")) is None


def test_the_share_after_the_last_product():
    """One of 4 kB that starts before the last product and ends after it, one of 8 kB after it."""
    entry = (
        HEAD
        + f"""
    %s = bf16[32,64]{{1,0}} all-reduce-start(%half), {DATA}
    %two = bf16[64,64]{{1,0}} dot(%one, %x), {DOT}
    %d = bf16[32,64]{{1,0}} all-reduce-done(%s)
    %late = bf16[64,64]{{1,0}} all-reduce(%two), {DATA}
    ROOT %t = (bf16[64,64]{{1,0}}) tuple(%late)"""
    )
    entry = entry.replace("%s =", "%half = bf16[32,64]{1,0} slice(%one)\n%s =")
    result = reduced(entry)
    assert result["bytes"] == 3 * 4096 and result["after_last_product"] == pytest.approx(2 / 3)
    forward = entry.replace("%two = bf16[64,64]{1,0} dot(%one, %x), " + DOT, "%two = bf16[64,64]{1,0} negate(%one)")
    assert reduced(forward)["after_last_product"] == 1.0


def test_a_loop_reduces_its_last_layer_after_its_last_product():
    inside = body(f"""%m = f32[4]{{0}} dot(%x, %x), {DOT.replace("{1}", "{}")}
    %r = f32[4]{{0}} all-reduce(%m), {DATA}""")  # fmt: skip
    result = reduced(loop(), LOOP, inside)
    assert result["bytes"] == 12 * 16 and result["after_last_product"] == pytest.approx(1 / 12)
    assert result["by_dtype"] == {"f32": 12 * 16}


def test_a_step_by_hand():
    """Kernels one after the other; a collective of a second beside a product of half a second."""
    product = 2 * 64**3 / 1e6
    entry = (
        HEAD
        + f"""
    %s = bf16[32,64]{{1,0}} all-reduce-start(%x), {DATA}
    %two = bf16[64,64]{{1,0}} dot(%one, %x), {DOT}
    ROOT %d = bf16[32,64]{{1,0}} all-reduce-done(%s)"""
    )
    result = predicted(entry)
    assert result["products"] == pytest.approx(2 * product) and result["attention"] == 0
    # 8,192 bytes over a link of 8,192 bytes/s take a second, of which the product hides its own time.
    assert result["waiting"] == pytest.approx(1 - product) and result["step"] == pytest.approx(1 + product)
    at_once = entry.replace("all-reduce-start(%x)", "all-reduce(%x)").replace("all-reduce-done(%s)", "bitcast(%s)")
    assert predicted(at_once)["waiting"] == pytest.approx(1)
    blocking = entry.replace("-start(%x), ", '-start(%x), backend_config={"is_sync":true}, ')
    assert predicted(blocking)["waiting"] == pytest.approx(1)


def test_a_kernel_takes_the_longer_of_products_and_bytes():
    slow = device_specs.Device("slow", 1e12, 1e9, memory_bandwidth=1e6, link_bandwidth=1.0, sustained=EXACT)
    result = predicted(HEAD.replace("%one", "ROOT %one"), device=slow)
    assert result["products"] == pytest.approx(3 * 64 * 64 * 2 / 1e6) and result["step"] == result["products"]
    prefetch = """%s = (bf16[64,64]{1,0:S(1)}, bf16[64,64]{1,0}, u32[]) copy-start(%x)
    ROOT %y = bf16[64,64]{1,0:S(1)} copy-done(%s)"""
    # Products that leave memory idle hide a copy; those that do not, do not.
    assert predicted(f"{HEAD}\n{prefetch}")["other"] == 0
    assert predicted(f"{HEAD}\n{prefetch}", device=slow)["other"] == pytest.approx(64 * 64 * 2 / 1e6)


def test_what_leaves_a_host():
    """Eight devices on two hosts, or on four, under a network of a tenth of the links."""
    device = device_specs.Device("gpu", 1e6, 1e9, 1e9, link_bandwidth=1000.0, network_bandwidth=100.0)
    program = module(f"%x = f32[8,4]{{1,0}} parameter(0)\nROOT %y = f32[8,4]{{1,0}} all-reduce(%x), {GROUPS}")
    (inside,) = collectives.find(program, MESH, [0] * 4 + [1] * 4)
    assert (inside.hosts, inside.network_bytes) == (1, 0) and inside.sent_bytes == 192
    assert times.link_seconds(inside, device) == pytest.approx(0.192)
    (across,) = collectives.find(program, MESH, [0, 0, 1, 1, 2, 2, 3, 3])
    # Two on a host sum first; each sends a half to the other host and gets it back: 2 x 1/2 x 128 / 2.
    assert (across.hosts, across.network_bytes) == (2, 64)
    assert times.link_seconds(across, device) == pytest.approx(0.64)
    entry = "%x = f32[8,4]{1,0} parameter(0)\nROOT %y = f32[8,4]{1,0} "
    ring = "{{0,1},{1,2},{2,3},{3,4},{4,5},{5,6},{6,7},{7,0}}"
    permute = module(entry + f"collective-permute(%x), source_target_pairs={ring}")
    (moved,) = collectives.find(permute, MESH, [0] * 4 + [1] * 4)
    assert (moved.hosts, moved.network_bytes, moved.sent_bytes, moved.dtype) == (2, 128, 128, "f32")
    exchanged = module(entry + "all-to-all(%x), replica_groups={}")
    assert [one.network_bytes for one in collectives.find(exchanged, MESH, [0] * 4 + [1] * 4)] == [64]
