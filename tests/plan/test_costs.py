"""Costs that are read off a program, against programs whose costs are known by construction."""

import jax
import jax.numpy as jnp
import pytest

from mmjax.plan import costs, hlo
from tests.helpers.programs import module


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
