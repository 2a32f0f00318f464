"""Transforms and back against SciPy; the logarithmic axis against PyTorch's grid_sample in the full tests."""

import numpy as np
import pytest
import scipy.signal

from mmjax.data.audio.stft import STFTSpec, from_log_frequency, to_log_frequency
from mmjax.errors import UserError

SPECS = [
    STFTSpec(n_fft=64, hop=16),
    STFTSpec(n_fft=62, hop=31),
    STFTSpec(n_fft=1022, hop=256),
    STFTSpec(n_fft=2, hop=1),
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_inverse_gives_the_waveform_back(spec):
    rng = np.random.default_rng(0)
    for samples in (1, spec.hop, 3 * spec.n_fft + 1, spec.samples(7)):
        wave = rng.standard_normal(samples)
        transform = spec.forward(wave)
        assert transform.shape == (spec.frames(samples), spec.bins)
        np.testing.assert_allclose(spec.inverse(transform, samples), wave, atol=1e-9)
    assert spec.frames(spec.samples(7)) == 7 and spec.frames(spec.samples(7) + 1) == 8


@pytest.mark.parametrize("spec", SPECS[:3], ids=str)
def test_the_transform_is_scipy_s(spec):
    wave = np.random.default_rng(1).standard_normal(spec.samples(9))
    window = scipy.signal.get_window("hann", spec.n_fft)
    theirs = scipy.signal.ShortTimeFFT(window, spec.hop, fs=1.0, phase_shift=None)
    expected = theirs.stft(wave, p0=0, p1=9).T
    np.testing.assert_allclose(spec.forward(wave), expected, atol=1e-9)


def test_a_masked_transform_has_the_least_squares_waveform():
    """Of all waveforms the inverse is the one whose windowed frames are nearest: brute force over a matrix."""
    spec, samples = STFTSpec(n_fft=8, hop=3), 14
    rng = np.random.default_rng(2)
    transform = spec.forward(rng.standard_normal(samples)) * rng.random((spec.frames(samples), spec.bins))
    frames = np.fft.irfft(transform, spec.n_fft, axis=1).ravel()
    window = scipy.signal.get_window("hann", 8)
    matrix = np.zeros((spec.frames(samples), 8, samples))
    for t in range(len(matrix)):
        for i in range(8):
            if 0 <= (n := t * 3 + i - 4) < samples:
                matrix[t, i, n] = window[i]
    expected = np.linalg.lstsq(matrix.reshape(-1, samples), frames, rcond=None)[0]
    np.testing.assert_allclose(spec.inverse(transform, samples), expected, atol=1e-9)


def test_sizes_that_do_not_fit_are_refused():
    for settings, field in (
        (dict(n_fft=5, hop=1), "n_fft=5"),
        (dict(n_fft=8, hop=5), "hop=5"),
        (dict(n_fft=8, hop=0), "hop=0"),
    ):
        with pytest.raises(UserError, match=f"data.separation.{field}"):
            STFTSpec(**settings)
    with pytest.raises(ValueError, match="is not that of 40 samples"):
        STFTSpec(n_fft=8, hop=4).inverse(np.zeros((3, 5), complex), 40)


def test_the_logarithmic_axis_keeps_what_changes_slowly():
    values = np.stack([np.linspace(0, 3, 100), np.ones(100)])
    warped = to_log_frequency(values, 80)
    assert warped.shape == (2, 80) and np.allclose(warped[:, [0, -1]], values[:, [0, -1]])
    np.testing.assert_allclose(from_log_frequency(warped, 100), values, atol=0.02)
    # Low frequencies have more bins than high ones.
    assert warped[0, 40] < 0.6


@pytest.mark.full
def test_the_axis_is_that_of_sound_of_pixels():
    """Its `warpgrid` with PyTorch's `grid_sample`, whose corners were aligned at its time."""
    import torch

    rng = np.random.default_rng(3)
    for is_warp, (size, new) in ((True, (512, 256)), (False, (256, 512))):
        values = rng.random((1, 1, size, 4)).astype(np.float32)
        y = np.linspace(-1, 1, new)
        y = (np.power(21, (y + 1) / 2) - 11) / 10 if is_warp else np.log(y * 10 + 11) / np.log(21) * 2 - 1
        x, y = np.meshgrid(np.linspace(-1, 1, 4), y)
        grid = torch.from_numpy(np.stack([x, y], axis=-1)[None].astype(np.float32))
        expected = torch.nn.functional.grid_sample(torch.from_numpy(values), grid, align_corners=True)[0, 0].numpy()
        ours = (to_log_frequency if is_warp else from_log_frequency)(values[0, 0].T.astype(np.float64), new)
        np.testing.assert_allclose(ours.T, expected, atol=2e-4)
