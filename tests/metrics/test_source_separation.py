"""SI-SDR against its formula, BSS Eval against brute force, and mir_eval's in the full tests."""

import warnings

import numpy as np
import pytest
import scipy.linalg

from mmjax.metrics.source_separation import BSSEval, bss_eval, si_sdr

SAMPLES = 900


def sounds(count=2, samples=SAMPLES, seed=0):
    """References, and two attempts at estimates with interference, another colour and noise."""
    rng = np.random.default_rng(seed)
    references = rng.standard_normal((count, samples)) * np.linspace(1, 3, count)[:, None]
    mixing = np.eye(count) + 0.3 * rng.standard_normal((2, count, count))
    estimates = mixing @ references + 0.2 * rng.standard_normal((2, count, samples))
    return references, np.apply_along_axis(lambda x: np.convolve(x, [1, 0.4, -0.2])[:samples], -1, estimates)


def test_si_sdr_is_its_formula():
    references, estimates = sounds()
    expected = np.empty((2, 2))
    for attempt in range(2):
        for i in range(2):
            s, e = references[i] - references[i].mean(), estimates[attempt, i] - estimates[attempt, i].mean()
            target = (e @ s) / (s @ s) * s
            expected[attempt, i] = 10 * np.log10((target @ target) / ((e - target) @ (e - target)))
    got = si_sdr(estimates, np.broadcast_to(references, estimates.shape))
    np.testing.assert_allclose(got, expected, rtol=1e-10)
    np.testing.assert_allclose(si_sdr(3 * estimates + 0.5, np.broadcast_to(7 * references - 1, estimates.shape)), got)


def test_si_sdr_of_what_is_silent_or_right():
    references, estimates = sounds()
    silent = np.full_like(references, 0.25)
    assert np.isnan(si_sdr(estimates[0], silent)).all()
    assert (si_sdr(silent, references) == -np.inf).all()
    assert (si_sdr(2.0 * references[:, :128], references[:, :128]) > 250).all()


def brute_force(references, estimates, taps):
    """Projections on delayed references by least squares over whole matrices."""
    count, samples = references.shape
    delayed = [scipy.linalg.convolution_matrix(reference, taps, "full") for reference in references]
    nearest = lambda matrix, x: matrix @ np.linalg.lstsq(matrix, x, rcond=None)[0]
    result = np.empty((3, count))
    for i in range(count):
        x = np.pad(estimates[i], (0, taps - 1))
        one, every = nearest(delayed[i], x), nearest(np.concatenate(delayed, axis=1), x)
        for row, (signal, noise) in enumerate(((one, x - one), (one, every - one), (every, x - every))):
            result[row, i] = 10 * np.log10((signal @ signal) / (noise @ noise))
    return BSSEval(*result)


@pytest.mark.parametrize(("count", "taps"), [(2, 8), (3, 5), (2, 1)])
def test_bss_eval_is_least_squares_over_delayed_references(count, taps):
    references, estimates = sounds(count, 200)
    got = bss_eval(references, estimates, taps)
    for attempt in range(2):
        for name, expected in brute_force(references, estimates[attempt], taps)._asdict().items():
            np.testing.assert_allclose(getattr(got, name)[attempt], expected, atol=1e-6, err_msg=name)
    alone = bss_eval(references, estimates[1], taps)
    np.testing.assert_allclose(alone.sdr, got.sdr[1], rtol=1e-9)


def test_a_filter_of_the_reference_is_no_distortion():
    references, _ = sounds()
    filtered = np.stack([np.convolve(x, [0.5, 0, 0.3])[:SAMPLES] for x in references])
    got = bss_eval(references[:, :-8], filtered[:, :-8], 16)
    assert (got.sdr > 20).all() and (si_sdr(filtered, references) < 10).all()


def test_silent_sounds_have_no_value():
    references, estimates = sounds()
    references[1] = 0
    assert all(np.isnan(values).all() and values.shape == (2, 2) for values in bss_eval(references, estimates, 4))
    references, estimates = sounds()
    estimates[0, 1] = 0
    got = bss_eval(references, estimates, 4)
    assert got.sdr[0, 1] == got.sir[0, 1] == -np.inf and np.isfinite(got.sdr[[0, 1, 1], [0, 0, 1]]).all()
    with pytest.raises((ValueError, TypeError), match="estimates"):  # checked types come first
        bss_eval(references, estimates[:, :1], 4)


@pytest.mark.full
@pytest.mark.parametrize(("count", "samples"), [(1, 1500), (2, 3000)])
def test_bss_eval_is_mir_eval_s(count, samples):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mir_eval.separation import bss_eval_sources

        references, estimates = sounds(count, samples, seed=count)
        got = bss_eval(references, estimates)
        for attempt in range(2):
            theirs = bss_eval_sources(references, estimates[attempt], compute_permutation=False)
            for name, expected in zip(("sdr", "sir", "sar"), theirs, strict=False):
                if name == "sir" and count == 1:  # nothing interferes
                    continue
                np.testing.assert_allclose(getattr(got, name)[attempt], expected, atol=1e-6, err_msg=name)
