"""Curves over levels of corruption, their areas, and effective robustness."""

import numpy as np
import pytest

from mmjax.metrics import definitions, robustness


def test_curves_are_read_out_of_the_names_of_metrics():
    metrics = {"acc1": 0.9, "acc5": 1.0, "acc1@10": 0.3, "image_retrieval_recall@1": 0.7}
    metrics |= {"acc1@image:noise0.1": 0.8, "acc1@image:noise1e-05": 0.5, "acc1@text:drop0.5": 0.4}
    metrics |= {"acc1@audio:snr10,image:blur2": 0.6, "acc1@audio:snr-5,image:blur4": 0.4}
    metrics |= {"image_retrieval_recall@1@image:blur1": 0.6, "image_retrieval_recall@1@image:blur2": 0.5}
    assert robustness.curves(metrics) == [
        robustness.Curve("acc1", "image:noise", (0.0, 0.1, 1e-05), (0.9, 0.8, 0.5)),
        robustness.Curve("acc1", "audio:snr,image:blur", (10.0, -5.0), (0.6, 0.4)),  # 0 dB is no clean sound
        robustness.Curve("image_retrieval_recall@1", "image:blur", (0.0, 1.0, 2.0), (0.7, 0.6, 0.5)),
    ]
    assert robustness.curves(metrics)[1].area == pytest.approx(0.5)


def test_levels_that_are_written_with_an_exponent_are_read():
    keys = [f"auroc@series:noise{level:g}" for level in (1e-5, 2.0, 1e6, 2e6)]
    assert keys[2:] == ["auroc@series:noise1e+06", "auroc@series:noise2e+06"]
    (curve,) = robustness.curves(dict.fromkeys(keys, 0.5))
    assert curve.levels == (1e-5, 2.0, 1e6, 2e6) and curve.area == pytest.approx(0.5)


def test_a_curve_has_a_level_0_once():
    clean = {"acc1": 0.9}
    both = {"acc1@image:noise0,series:noise0.5": 0.8, "acc1@image:noise1,series:noise1": 0.6}
    (curve,) = robustness.curves(clean | both)
    assert (curve.levels, curve.values) == ((0.0, 1.0), (0.8, 0.6)) and curve.area == pytest.approx(0.7)
    second = {"acc1@image:noise0.5,series:noise0": 0.8, "acc1@image:noise1,series:noise1": 0.6}
    (curve,) = robustness.curves(clean | second)
    assert (curve.levels, curve.values) == ((0.0, 0.5, 1.0), (0.9, 0.8, 0.6))


def test_the_area_is_that_of_trapezoids_over_any_levels():
    rng = np.random.default_rng(0)
    levels, values = np.cumsum(rng.random(9) + 0.1).tolist(), rng.random(9).tolist()
    fine = np.linspace(levels[0], levels[-1], 200_001)
    expected = np.interp(fine, levels, values).mean()
    assert robustness.area_under_curve(levels, values) == pytest.approx(expected, abs=1e-5)
    assert robustness.area_under_curve(levels[::-1], values[::-1]) == pytest.approx(expected, abs=1e-5)
    # MultiBench's: levels 0, 0.1, ..., 1, and a sum of 0.1 / 2 times neighbours.
    values = rng.random(11).tolist()
    multibench = sum((values[i] + values[i + 1]) * 0.1 / 2 for i in range(10))
    assert robustness.area_under_curve([i / 10 for i in range(11)], values) == pytest.approx(multibench)
    for wrong in (([0], [1]), ([0, 1], [1]), ([0, 1, 1], [1, 1, 1]), ([0, 2, 1], [1, 1, 1])):
        with pytest.raises(ValueError, match="in their order"):
            robustness.area_under_curve(*wrong)


def test_effective_robustness_is_how_much_less_is_lost_than_by_the_baseline():
    assert robustness.effective_robustness([0.9, 0.8, 0.7], [0.9, 0.8, 0.7]) == 0
    assert robustness.effective_robustness([0.5, 0.5, 0.4], [0.9, 0.8, 0.6]) == pytest.approx(0.1 + 0.2)
    assert robustness.effective_robustness([0.9, 0.5], [0.5, 0.5]) == pytest.approx(-0.4)
    with pytest.raises(ValueError, match="2 values and 3 of the baseline"):
        robustness.effective_robustness([1, 2], [1, 2, 3])


def test_metrics_of_corrupted_examples_are_defined():
    assert definitions.definition("acc1@image:noise0.1") == "acc1 of examples corrupted by image:noise0.1"
    area = definitions.definition("image_retrieval_recall@1_area@audio:snr,image:blur")
    assert area == "mean of image_retrieval_recall@1 over the levels of audio:snr,image:blur, by trapezoids"
