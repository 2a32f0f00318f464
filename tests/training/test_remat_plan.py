"""The formula of a step's memory, and what it chooses to compute again."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from mmjax.config import parse
from mmjax.nn import transformer
from mmjax.nn.attention import AttentionSpec
from mmjax.training.remat_plan import Planner, Remat, Tower, make_planner
from tests.helpers import mesh_steps

# B/16 and its texts, 256 pairs on one H100 with cuDNN's attention.
IMAGE = Tower(12, 256 * 198, 768, 768, 3072, 12, 0, 2, True)
TEXT = Tower(12, 256 * 78, 512, 512, 2048, 8, 0, 2, True)
PARAMS = 149_620_737 * 4
B16 = Planner({"image": IMAGE, "text": TEXT}, {}, PARAMS, 3 * PARAMS, 80e9)
NONE = {"image": Remat("none"), "text": Remat("none")}
L14 = Planner(
    {"image": Tower(24, 128 * 264, 1024, 1024, 4096, 16, 0, 2, True, tpu=True),
     "text": Tower(12, 36 * 80, 768, 768, 3072, 12, 128, 2, True, tpu=True)},
    {}, 427_616_513 * 4, 3 * 427_616_513 * 4, 16.9e9, overhead=427_616_513 * 6, ahead=2,
)  # fmt: skip


def deep(tower, depth):
    return dataclasses.replace(tower, depth=depth)


@pytest.mark.parametrize(
    ("planner", "remat", "compiled"),
    [
        # Arguments and temporaries of the step, as XLA compiled it for an H100 (jax 0.10.2).
        (B16, NONE, 20.09e9),
        # B/16 at 128 pairs a TPU v5e, whose memory is laid out in tiles, on XLA's attention, which keeps its weights.
        (
            Planner({"image": Tower(12, 128 * 200, 768, 768, 3072, 12, 256, 2, True, tpu=True),
                     "text": Tower(12, 128 * 80, 512, 512, 2048, 8, 128, 2, True, tpu=True)},
                    {}, PARAMS, 3 * PARAMS, 16.9e9, overhead=PARAMS * 3 // 2, ahead=2),
            NONE, 15.26e9,
        ),
        # The same on the fused kernel, with packed texts.
        (
            Planner({"image": Tower(12, 128 * 200, 768, 768, 3072, 12, 0, 2, True, tpu=True),
                     "text": Tower(12, 36 * 80, 512, 512, 2048, 8, 128, 2, True, tpu=True)},
                    {}, PARAMS, 3 * PARAMS, 16.9e9, overhead=PARAMS * 3 // 2, ahead=2),
            NONE, 9.98e9,
        ),
        # L/14 at 128 pairs a TPU v5e on the fused kernel, packed texts, in loops.
        (L14, dict.fromkeys(NONE, Remat("full")), 13.05e9),
        (L14, {"image": Remat("full", 2), "text": Remat("full", 4)}, 13.35e9),
        (L14, dict.fromkeys(NONE, Remat("full", 3)), 15.34e9),
        (
            dataclasses.replace(B16, towers={"image": deep(IMAGE, 6), "text": deep(TEXT, 6)}, gradients=88_179_201 * 4,
                                held=88_179_201 * 12),
            dict.fromkeys(NONE, Remat("attention")), 3.40e9,
        ),
        (
            dataclasses.replace(B16, towers={"image": deep(IMAGE, 6), "text": deep(TEXT, 6)}, gradients=88_179_201 * 4,
                                held=88_179_201 * 12),
            dict.fromkeys(NONE, Remat("dots")), 7.25e9,
        ),
    ],
)  # fmt: skip
def test_formula_is_near_the_compiler(planner, remat, compiled):
    assert abs(planner.bytes(remat) / compiled - 1) < 0.1


def kept_by_layers(depth, **block):
    """Bytes of activations that the backward pass of layers needs, as jax says before anything is compiled."""
    fields = dict(heads=4, mlp_dim=96, activation="silu", norm_eps=1e-6, scan=False, dtype=jnp.bfloat16)
    module, x = transformer.Transformer(depth=depth, block=block or None, **fields), jnp.zeros((2, 8, 32), jnp.bfloat16)
    params = jax.eval_shape(lambda key: module.init(key, x, AttentionSpec()), jax.random.key(0))
    apply = lambda params, x: module.apply(params, x, AttentionSpec()).tokens
    residuals = jax.tree.leaves(jax.eval_shape(lambda params, x: jax.vjp(apply, params, x)[1], params, x))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in residuals if leaf.shape[:2] == (2, 8))


@pytest.mark.parametrize(
    ("block", "fields"),
    [
        (dict(mlp_gate=True), dict(gated=True)),
        (dict(head_dim=16), dict(inner=64)),
        (dict(layer_scale=1.0), dict(scaled=True)),
        (dict(mlp_norm=True), dict(mlp_norm=True)),
        (dict(attention_norm=True), dict(attention_norm=True)),
        (dict(mlp_gate=True, mlp_norm=True, head_dim=4), dict(gated=True, mlp_norm=True, inner=16)),
    ],
)
def test_what_a_block_has_besides_is_counted(block, fields):
    plain = Tower(2, 16, 32, 32, 96, 4, 8, 2, False)
    of_layer = lambda **block: kept_by_layers(2, **block) - kept_by_layers(1, **block)
    counted = dataclasses.replace(plain, **fields).kept("none") - plain.kept("none")
    assert counted == of_layer(**block) - of_layer()


def test_blocks_of_a_config_are_counted():
    run = mesh_steps.Steps((1, 1, 1))
    block = dict(mlp_gate=True, mlp_norm=True, head_dim=12, layer_scale=0.1)
    with run.config.unlocked(), run.config.ignore_type():
        run.config.model.image.update(block=block, remat="auto")
        run.config.model.text.remat = "auto"
    planner = make_planner(parse(run.config), run.task.kernels, run.mesh, run.abstract, run.abstract.params, 1e9)
    image, text = planner.towers["image"], planner.towers["text"]
    assert (image.inner, image.gated, image.mlp_norm, image.scaled) == (image.heads * 12, True, True, True)
    assert (text.inner, text.gated, text.scaled) == (text.width, False, False)


def test_nothing_is_computed_again_where_all_fits():
    assert B16.choose() == NONE
    assert "nothing" in B16.describe(NONE)


@pytest.mark.parametrize("room", [19.0, 14.0, 12.0, 8.0, 5.5])
def test_as_much_as_fits_is_kept(room):
    planner = dataclasses.replace(B16, available=room * 1e9)
    remat = planner.choose()
    assert planner.fits(remat)
    for name, item in remat.items():
        if item.policy != "none":
            assert not planner.fits(remat | {name: Remat(item.policy, item.keep + 1)})
            assert f"{name} {item.policy}, but for the last {item.keep}" in planner.describe(remat)
    # Products are computed again only where keeping them all would not fit.
    dots = planner.fits(dict.fromkeys(NONE, Remat("dots")))
    assert {item.policy for item in remat.values()} <= {"none", "dots" if dots else "full"}


def test_what_the_config_decides_stays():
    fixed = {"text": Remat("full")}
    remat = dataclasses.replace(B16, available=10e9, fixed=fixed).choose()
    assert set(remat) == {"image"} and remat["image"].policy != "none"


def test_the_least_memory_is_asked_for_where_nothing_fits():
    assert dataclasses.replace(B16, available=1e9).choose() == dict.fromkeys(NONE, Remat("full"))


def test_a_frozen_tower_keeps_nothing():
    run = mesh_steps.Steps((1, 1, 1))
    for tower in (run.config.model.image, run.config.model.text):
        tower.remat = "auto"
    planned = lambda trained: make_planner(
        parse(run.config),
        run.task.kernels,
        run.mesh,
        run.abstract,
        {name: run.abstract.params[name] for name in trained},
        1e9,
    )
    assert set(planned(["image", "text"]).towers) == {"image", "text"}
    assert set(planned(["text", "text_head"]).choose()) == {"text"}
    assert planned(["text_head"]) is None
