"""Log-mel spectrograms against Hugging Face's and SciPy's, SpecAugment's masks."""

import dataclasses

import numpy as np
import pytest
import scipy.signal

from mmjax.data.audio import log_mel as log_mel_lib
from mmjax.data.audio.log_mel import LogMelSpec, fit_frames, log_mel, mel_filters, preset, spec_augment
from mmjax.data.bad_example import BadExample
from mmjax.errors import UserError
from tests.golden.make_audio import PATH, SPECS, reference, waveform


@pytest.fixture(scope="module")
def golden():
    with np.load(PATH) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", SPECS)
def test_equals_hugging_face(name, golden):
    np.testing.assert_allclose(mel_filters(SPECS[name]), golden[f"{name}/filters"], atol=1e-6)
    ours, expected = log_mel(waveform(), SPECS[name]), golden[f"{name}/log_mel"]
    assert ours.dtype == np.float32 and ours.shape == expected.shape
    # Decibels are ten times as large as the others.
    np.testing.assert_allclose(ours, expected, atol=1e-4 if SPECS[name].log == "db" else 1e-5)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.full
def test_golden_is_what_hugging_face_says_today(name, golden):
    np.testing.assert_allclose(golden[f"{name}/log_mel"], reference(waveform(), SPECS[name]), atol=1e-5)


@pytest.mark.full
def test_whisper_preset_equals_its_feature_extractor():
    transformers = pytest.importorskip("transformers")
    x = waveform(16000).astype(np.float32)
    extractor = transformers.WhisperFeatureExtractor(chunk_length=1)
    expected = extractor(x, sampling_rate=16000, return_tensors="np").input_features[0].T
    np.testing.assert_allclose(log_mel(x, preset("whisper")), expected, atol=1e-4)


@pytest.mark.full
def test_ast_preset_equals_its_feature_extractor():
    transformers = pytest.importorskip("transformers")
    x = waveform(8000).astype(np.float32)
    extractor = transformers.ASTFeatureExtractor(max_length=48)
    expected = extractor(x, sampling_rate=16000, return_tensors="np").input_values[0]
    np.testing.assert_allclose(log_mel(x, preset("ast")), expected, atol=1e-4)


@pytest.mark.parametrize("center, window", [(True, 64), (True, 48), (False, 64), (False, 48)])
def test_power_spectrum_equals_scipys(center, window):
    """The filters of a spectrogram are linear in its power: solve for it where there are as many as frequencies."""
    x = waveform(600)
    spec = LogMelSpec(sample_rate=8000, n_fft=64, window=window, hop=20, n_mels=30, center=center, floor=1e-30)
    hann = scipy.signal.get_window("hann", window)
    padded = np.pad(x, window // 2, mode="reflect") if center else x
    count = (len(padded) - window) // spec.hop + 1
    frames = np.stack([padded[20 * i : 20 * i + window] for i in range(count)])
    _, power = scipy.signal.periodogram(frames, 8000, hann, 64, detrend=False, scaling="spectrum", axis=1)
    power = power * hann.sum() ** 2
    power[:, 1:-1] /= 2  # SciPy folds the negative frequencies in
    expected = np.log(np.maximum(power @ mel_filters(spec), 1e-30))
    assert spec.frames(len(x)) == count
    np.testing.assert_allclose(log_mel(x, spec), expected, atol=1e-5)


@pytest.mark.parametrize(
    "scale, hertz, mel", [("htk", 1000.0, 999.9855), ("slaney", 500.0, 7.5), ("slaney", 6400.0, 42)]
)
def test_mel_scales(scale, hertz, mel):
    assert log_mel_lib.hertz_to_mel(np.array(hertz), scale) == pytest.approx(mel, abs=1e-4)
    line = np.linspace(0, 8000, 50)
    np.testing.assert_allclose(log_mel_lib.mel_to_hertz(log_mel_lib.hertz_to_mel(line, scale), scale), line, atol=1e-8)


def test_a_tone_is_loudest_in_its_own_filter():
    spec = LogMelSpec(n_mels=40)
    for hertz in (440.0, 3000.0):
        mel = log_mel(np.sin(2 * np.pi * hertz * np.arange(8000) / 16000), spec)
        centres = log_mel_lib.mel_to_hertz(
            np.linspace(0, log_mel_lib.hertz_to_mel(np.array(8000.0), "htk"), 42)[1:-1], "htk"
        )
        assert (mel.argmax(axis=1)[5:-5] == np.abs(centres - hertz).argmin()).all()


def test_integers_are_fractions_of_full_scale():
    x = np.random.default_rng(0).integers(-(2**15), 2**15, 800).astype(np.int16)
    np.testing.assert_array_equal(log_mel(x, LogMelSpec()), log_mel(x / 32768.0, LogMelSpec()))


def test_dynamic_range_is_below_the_loudest_value():
    spec = LogMelSpec(n_mels=20, log="log10")
    full, clipped = log_mel(waveform(), spec), log_mel(waveform(), dataclasses.replace(spec, dynamic_range=2.0))
    assert full.min() < full.max() - 3
    np.testing.assert_allclose(clipped, np.maximum(full, full.max() - 2), atol=1e-6)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(mel_scale="mell"), "mel_scale='mell' is not known"),
        (dict(log="log"), "log='log' is not known.*log10"),
        (dict(hop=0), "hop=0 is not positive"),
        (dict(std=float("nan")), "std=nan is not positive"),
        (dict(window=401), "window=401 is longer than n_fft=400"),
        (dict(f_max=9000.0), "f_max=9000.0: give 0 <= f_min < f_max <= 8000 Hz"),
        (dict(f_min=-1.0), "f_min=-1.0"),
    ],
)
def test_mistakes_in_a_spec(change, message):
    with pytest.raises(UserError, match=message) as caught:
        LogMelSpec(**change)
    assert "\n" not in str(caught.value)


def test_unknown_preset():
    with pytest.raises(UserError, match="audio preset='wisper' is not known .did you mean 'whisper'"):
        preset("wisper")


@pytest.mark.parametrize(
    "x, center, reason",
    [
        (np.zeros(0), True, "empty"),
        (np.zeros(399), False, "empty"),
        (np.array([0.0, np.nan] * 300), True, "corrupt"),
        (np.array([0.0, np.inf] * 300), True, "corrupt"),
    ],
)
def test_waveforms_that_cannot_be_used(x, center, reason):
    with pytest.raises(BadExample) as caught:
        log_mel(x, LogMelSpec(center=center))
    assert caught.value.reason == reason


@pytest.mark.parametrize("x", [np.zeros((2, 900)), np.zeros(900, np.int32), np.zeros(900, np.uint8)])
def test_what_is_no_waveform(x):
    with pytest.raises(TypeError, match="a waveform is"):
        log_mel(x, LogMelSpec())


def test_silence_and_single_samples_are_finite():
    for x in (np.zeros(800), np.ones(1), np.zeros(3)):
        mel = log_mel(x, LogMelSpec(n_mels=20))
        assert np.isfinite(mel).all() and len(mel) == LogMelSpec().frames(len(x))
    assert (log_mel(np.zeros(800), LogMelSpec(n_mels=20)) == np.float32(np.log(1e-10))).all()


def test_fit_frames():
    x = np.ones((3, 2), np.float32)
    longer, valid = fit_frames(x, 5)
    np.testing.assert_array_equal(longer[:, 0], [1, 1, 1, 0, 0])
    np.testing.assert_array_equal(valid, [1, 1, 1, 0, 0])
    shorter, valid = fit_frames(x, 2)
    assert shorter.shape == (2, 2) and valid.all()


def test_spec_augment_hides_whole_bands():
    x = np.random.default_rng(0).uniform(1, 2, (60, 30))
    before = x.copy()
    masks = set()
    for seed in range(200):
        settings = dict(time_masks=1, time_width=50, time_share=0.25, frequency_masks=1, frequency_width=4)
        out = spec_augment(x, np.random.default_rng(seed), **settings)
        hidden = out == 0
        rows, columns = hidden.all(axis=1), hidden.all(axis=0)
        np.testing.assert_array_equal(hidden, rows[:, None] | columns)
        np.testing.assert_array_equal(out[~hidden], x[~hidden])
        for line in (rows, columns):  # one stretch
            assert np.abs(np.diff(np.concatenate([[0], line, [0]]).astype(int))).sum() in (0, 2)
        masks.add((int(rows.sum()), int(columns.sum())))
    np.testing.assert_array_equal(x, before)
    # Widths are uniform from nothing to the widest: a quarter of 60 frames, and 4 bins.
    assert {rows for rows, _ in masks} == set(range(16)) and {columns for _, columns in masks} == set(range(5))


def test_spec_augment_reaches_every_place_and_is_a_function_of_its_generator():
    x = np.ones((12, 8))
    counts = sum(spec_augment(x, np.random.default_rng(seed), frequency_width=3) == 0 for seed in range(300))
    assert (counts > 0).all() and (counts < 300).all()
    a, b, c = (spec_augment(x, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
    np.testing.assert_array_equal(spec_augment(x, np.random.default_rng(0), time_masks=0, frequency_masks=0), x)
