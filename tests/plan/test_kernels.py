"""Kernels by class, with the bytes they move and the FLOPs they do, against programs that are known by construction."""

import pytest

from mmjax.plan import costs, kernels, plan_text
from tests.helpers.programs import LOOP, body, loop, module

ATTENTION = (
    '%{0} = ({1}, f32[2,3,8]{{2,1,0}}, u8[0]{{0}}) custom-call({2}), custom_call_target="__cudnn$fmhaSoftmax{3}",'
    ' backend_config={{"cudnn_fmha_backend_config": {{"intermediate_tensor_shape": {{"element_type": "BF16",'
    ' "dimensions": ["2", "3", "8", "6"], "tuple_shapes": []}}}}}}'
)


def counted(entry, *computations, float32_passes=0.0):
    return costs.count(module(entry, *computations), float32_passes)


def only(entry, *computations, **kwargs):
    (kernel,) = counted(entry, *computations, **kwargs).kernels
    return kernel


def fused(lines, arguments="p: f32[8,100]"):
    return f"%inside ({arguments}) -> f32[8,100]", lines


FUSION = """%x = f32[8,100]{1,0} parameter(0)
ROOT %y = f32[8,100]{1,0} fusion(%x), kind=kLoop, calls=%inside"""


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        ("ROOT %r = f32[8,100]{1,0} negate(%p)", "elementwise"),
        ("ROOT %r = f32[8,100]{1,0} copy(%p)", "copies"),
        ("%t = f32[100,8]{1,0} transpose(%p)\nROOT %r = f32[8,100]{1,0} bitcast(%t)", "copies"),
        ("%t = f32[8]{0} reduce(%p, %p), dimensions={1}\nROOT %r = f32[8,100]{1,0} broadcast(%t)", "reductions"),
        ("ROOT %r = f32[8,100]{1,0} scatter(%p, %p, %p)", "scatters"),
        ("%t = f32[8,8]{1,0} dot(%p, %p), lhs_contracting_dims={1}\nROOT %r = f32[8,100]{1,0} pad(%t)", "products"),
        ("ROOT %r = f32[8,100]{1,0} all-reduce(%p), replica_groups={}", "collectives"),
        ('ROOT %r = f32[8,100]{1,0} custom-call(%p), custom_call_target="mine"', "other"),
    ],
)
def test_fusions_are_of_the_class_of_what_they_do(lines, kind):
    kernel = only(FUSION, fused("%p = f32[8,100]{1,0} parameter(0)\n" + lines))
    assert kernel.kind == kind and kernel.times == 1


def test_fills_read_nothing():
    entry = "ROOT %y = f32[8,100]{1,0} fusion(), kind=kLoop, calls=%inside"
    lines = """%c = f32[] constant(0)
    %b = f32[8,100]{1,0} broadcast(%c), dimensions={}
    ROOT %r = f32[8,100]{1,0} copy(%b)"""
    kernel = only(entry, fused(lines, arguments=""))
    assert (kernel.kind, kernel.bytes) == ("fills", 3200)


def test_stacks_are_those_of_loops():
    """The same update of a stack inside a loop and outside of one."""
    update = "%u = f32[4]{0} dynamic-update-slice(%x, %x, %i)"
    inside = counted(loop(), LOOP, body(update, "%u"))
    (stack,) = [kernel for kernel in inside.kernels if kernel.kind == "stacks"]
    assert (stack.times, stack.bytes) == (12, 32)
    outside = only("%x = f32[4]{0} parameter(0)\n%i = s32[] constant(0)\nROOT " + update)
    assert outside.kind == "copies"
    taken = counted(loop(), LOOP, body("%u = f32[4]{0} dynamic-slice(%x, %i), dynamic_slice_sizes={4}", "%u"))
    assert [row for row in taken.by_class() if row["kind"] == "stacks"] == [
        dict(kind="stacks", kernels=12, bytes=12 * 32, flops=0)
    ]


def test_a_fusion_under_way_counts_once_and_where_it_starts():
    """As GPUs write an asynchronous update of a stack: a layer is read and written, not the stack."""
    inside = (
        "%put (p: f32[12,100], u: f32[1,100], i: s32[]) -> f32[12,100]",
        """%p = f32[12,100]{1,0} parameter(0)
        %u = f32[1,100]{1,0} parameter(1)
        %i = s32[] parameter(2)
        ROOT %s = f32[12,100]{1,0} dynamic-update-slice(%p, %u, %i)""",
    )
    entry = """%x = f32[12,100]{1,0} parameter(0)
    %u = f32[1,100]{1,0} parameter(1)
    %i = s32[] parameter(2)
    %s = ((f32[12,100]{1,0}, f32[1,100]{1,0}, s32[]), f32[12,100]{1,0}) fusion-start(%x, %u, %i), calls=%put
    ROOT %y = f32[12,100]{1,0} fusion-done(%s)"""
    kernel = only(entry, inside)
    assert (kernel.name, kernel.bytes) == ("s", 400 + 400 + 4)


def test_copies_between_memories_count_where_they_end():
    entry = """%x = f32[100]{0} parameter(0)
    %s = (f32[100]{0:S(1)}, f32[100]{0}, u32[]) copy-start(%x)
    ROOT %y = f32[100]{0:S(1)} copy-done(%s)"""
    assert (only(entry).kind, only(entry).bytes, only(entry).name) == ("prefetches", 400, "y")
    assert (only(entry.replace(":S(1)", "")).kind, only(entry.replace(":S(1)", "")).bytes) == ("copies", 800)


@pytest.mark.parametrize(("suffix", "products"), [("", 2), ("Backward", 5)])
def test_fused_attention_counts_every_pair(suffix, products):
    """[2, 8, 3, 16] queries on six keys: two products forward; logits again and four gradients backward."""
    q = "bf16[2,8,3,16]{3,2,1,0}"
    entry = f"""%q = {q} parameter(0)
    %k = bf16[2,6,3,16]{{3,2,1,0}} parameter(1)
    ROOT """ + ATTENTION.format("y", q, "%q, %k, %k", suffix)
    kernel = only(entry)
    assert (kernel.kind, kernel.flops) == ("attention", products * 2 * 2 * 3 * 8 * 6 * 16)
    assert kernel.bytes == 2 * (2 * 2 * 8 * 3 * 16 + 2 * 2 * 6 * 3 * 16) + 4 * 2 * 3 * 8


@pytest.mark.parametrize(("name", "kind"), [("fused_attention_forward", "attention"), ("mine", "other")])
def test_kernels_for_tpus_count_what_they_say(name, kind):
    entry = """%q = bf16[2,8,48]{2,1,0} parameter(0)
    ROOT %y = bf16[2,8,16]{2,1,0} custom-call(%q), custom_call_target="tpu_custom_call",
    """.rstrip()
    entry += f' metadata={{op_name="jit(step)/jvp({name})/pallas_call"}}, backend_config={{"custom_call_config":'
    entry += '{"body":"TUzv","cost_estimate":{"flops":"34628","transcendentals":"7"}}}'
    kernel = only(entry)
    assert (kernel.kind, kernel.flops, kernel.bytes) == (kind, 34628, 2 * 2 * 8 * (48 + 16))


def test_cublas_and_cudnn_products():
    gemm = (
        """%a = f32[4,5]{1,0} parameter(0)
    %b = f32[5,3]{1,0} parameter(1)
    ROOT %c = (f32[4,3]{1,0}, s8[64]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm",
    """.rstrip()
        + (
            ' backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],'
            '"rhs_contracting_dimensions":["0"]},"precision_config":{"operand_precision":["HIGHEST","HIGHEST"]}}}'
        )
    )
    kernel = only(gemm, float32_passes=15.0)
    assert (kernel.kind, kernel.flops, kernel.matrix_flops) == ("products", 120, 15 * 120)
    assert only(gemm.replace("HIGHEST", "DEFAULT"), float32_passes=15.0).matrix_flops == 2 * 120  # TF32
    assert only(gemm).matrix_flops == 6 * 120  # six passes of a TPU
    # A kernel of 3 over 8 pixels without padding: 6 outputs, whichever of the three is the result.
    shapes = {"input": "f32[1,8,1]", "filter": "f32[3,1,1]", "output": "f32[1,6,1]"}
    for target, (a, b, result) in {
        "Forward": ("input", "filter", "output"),
        "BackwardInput": ("output", "filter", "input"),
        "BackwardFilter": ("input", "output", "filter"),
    }.items():
        entry = f"""%a = {shapes[a]}{{2,1,0}} parameter(0)
        %b = {shapes[b]}{{2,1,0}} parameter(1)
        ROOT %c = ({shapes[result]}{{2,1,0}}, u8[0]{{0}}) custom-call(%a, %b), window={{size=3}},"""
        kernel = only(entry + f' dim_labels=b0f_0io->b0f, custom_call_target="__cudnn$conv{target}"')
        assert (kernel.kind, kernel.flops) == ("products", 2 * 6 * 3), target


def test_classes_are_told_with_their_sums():
    entry = """%x = f32[8,100]{1,0} parameter(0)
    %a = f32[8,100]{1,0} negate(%x)
    %b = f32[8,100]{1,0} negate(%a)
    ROOT %c = f32[8,8]{1,0} dot(%b, %b), lhs_contracting_dims={1}"""
    rows = counted(entry).by_class()
    assert [(row["kind"], row["kernels"], row["bytes"], row["flops"]) for row in rows] == [
        ("elementwise", 2, 12800, 0),
        ("products", 1, 6400 + 256, 12800),
    ]
    text = "\n".join(plan_text.kernel_table(rows))
    assert kernels.CLASSES["products"] in text and "65.8%" in text and "19.46 kB" in text


def test_what_is_computed_again_is_told():
    """One product twice by the compiler, one by the model's policy, and one that the compiler only moved."""
    dot = "f32[8,8]{1,0} dot(%x, %x), lhs_contracting_dims={1}, metadata={op_name="
    policy = '"jit(f)/transpose(jvp(g))/checkpoint/rematted_computation/dot"}'
    entry = f"""%x = f32[8,100]{{1,0}} parameter(0)
    %a.remat = {dot}"jit(f)/jvp(g)/dot"}}
    %b = {dot}"jit(f)/jvp(g)/dot"}}
    %b.remat2 = {dot}"jit(f)/jvp(g)/dot"}}
    ROOT %c = {dot}{policy}"""
    assert counted(entry).flops == 4 * 12800
    assert counted(entry).recomputed() == {"policy": 12800, "compiler": 12800}
