"""The formula of a step's memory, and what it chooses to compute again."""

import dataclasses

import pytest

from mmjax.config import parse
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
