import numpy as np
import pytest

from mmjax.metrics.synchronization import offset_metrics


def brute_force(similarities, shifts, scale):
    """Clip by clip, shift by shift."""
    within = exact = error = loss = 0.0
    for row, true in zip(similarities.tolist(), shifts.tolist(), strict=True):
        answer = max(range(len(row)), key=lambda k: (row[k], -k))
        within, exact, error = within + (abs(answer - true) <= 1), exact + (answer == true), error + abs(answer - true)
        loss -= np.log(np.exp(scale * row[true]) / sum(np.exp(scale * x) for x in row))
    constants = [[abs(answer - true) for true in shifts.tolist()] for answer in range(similarities.shape[1])]
    return {
        "offset_accuracy": within / len(shifts),
        "offset_accuracy_exact": exact / len(shifts),
        "offset_error": error / len(shifts),
        "chance_offset_accuracy": max(sum(e <= 1 for e in errors) for errors in constants) / len(shifts),
        "chance_offset_accuracy_exact": max(sum(e == 0 for e in errors) for errors in constants) / len(shifts),
        "chance_offset_error": min(sum(errors) for errors in constants) / len(shifts),
        "loss": loss / len(shifts),
    }


@pytest.mark.parametrize("seed", range(4))
def test_metrics_are_those_of_a_loop(seed):
    rng = np.random.default_rng(seed)
    similarities = np.round(rng.uniform(-1, 1, (40, 7)), 1).astype(np.float32)  # some are equal
    shifts = rng.integers(7, size=40)
    expected = brute_force(similarities, shifts, 9.0)
    assert offset_metrics(similarities, shifts, logit_scale=9.0) == pytest.approx(expected, rel=1e-6)


def test_a_perfect_model_a_constant_one_and_one_clip():
    shifts = np.arange(9)
    perfect = offset_metrics(np.eye(9, dtype=np.float32), shifts)
    assert perfect["offset_accuracy_exact"] == 1 and perfect["offset_error"] == 0
    assert perfect["chance_offset_accuracy"] == pytest.approx(3 / 9)
    assert perfect["chance_offset_accuracy_exact"] == pytest.approx(1 / 9)
    equal = offset_metrics(np.zeros((9, 9), np.float32), shifts)
    assert equal["offset_accuracy"] <= equal["chance_offset_accuracy"]  # the first of equal ones
    assert equal["loss"] == pytest.approx(np.log(9))
    one = offset_metrics(np.array([[0.1, 0.9, 0.2]], np.float32), np.array([2]))
    assert one["offset_accuracy"] == 1 and one["offset_error"] == 1 and one["chance_offset_error"] == 0


@pytest.mark.parametrize("shifts", [[], [3, 0], [-1]])
def test_shifts_that_do_not_fit_are_refused(shifts):
    with pytest.raises(ValueError, match="want one each"):
        offset_metrics(np.zeros((len(shifts), 3), np.float32), np.array(shifts, int))
