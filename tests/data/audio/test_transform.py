"""Spectrograms as models see them: against Hugging Face's feature extractors, crops, padding, masks, mistakes."""

import numpy as np
import pytest
import soxr

from mmjax.data.audio.log_mel import log_mel, preset
from mmjax.data.audio.transform import PRESETS, AudioSpec
from mmjax.data.audio.waveform import decode_audio
from mmjax.data.bad_example import BadExample
from mmjax.data.loading.order import example_rng
from mmjax.errors import UserError
from tests.golden.make_audio import waveform
from tests.helpers.media import make_sound, make_video

RATE = 16000
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 5 * RATE).astype(np.float32)


@pytest.mark.parametrize("name", PRESETS)
def test_shapes(name):
    spec = AudioSpec(preset=name)
    assert spec.shape == (PRESETS[name].frames, preset(name).n_mels)
    for samples in (NOISE, NOISE[:3000], np.concatenate([NOISE] * 7)):
        for rng in (None, np.random.default_rng(0)):
            array = spec.prepare(samples, rng, rate=RATE)
            assert array.shape == spec.shape and array.dtype == spec.dtype and np.isfinite(array).all()
    assert AudioSpec(preset=name, frames=50, mel_bins=20).prepare(NOISE, None, rate=RATE).shape == (50, 20)


def test_a_file_is_decoded_and_resampled():
    spec = AudioSpec(preset="ast", frames=40)
    data = make_sound("wav")
    samples, rate = decode_audio(data)
    expected = log_mel(soxr.resample(samples, rate, RATE)[: spec.log_mel_spec.samples(40)], spec.log_mel_spec)
    np.testing.assert_array_equal(spec.prepare(data, None), expected)
    np.testing.assert_array_equal(spec.prepare(samples, None, rate=rate), expected)
    part = spec.prepare(data, None, span=(0.25, 0.75))
    np.testing.assert_array_equal(part, spec.prepare(samples[5512:16538], None, rate=rate))
    np.testing.assert_array_equal(part, spec.prepare(samples, None, rate=rate, span=(0.25, 0.75)))
    assert spec.prepare(make_video(sound="aac"), None).shape == (40, 128)


def test_evaluation_takes_the_beginning_or_the_middle():
    for name, start in (("ast", 0), ("whisper", 0), ("mbt", (len(NOISE) - 99 * 160 - 400) // 2)):
        spec = AudioSpec(preset=name, frames=100)
        crop = NOISE[start : start + spec.log_mel_spec.samples(100)]
        np.testing.assert_array_equal(spec.prepare(NOISE, None, rate=RATE), log_mel(crop, spec.log_mel_spec))


@pytest.mark.parametrize("name", PRESETS)
def test_training_crops_anywhere(name):
    """An impulse is seen at every time, and not at all where the crop misses it."""
    spec, impulse = AudioSpec(preset=name, frames=50), np.zeros(2 * RATE, np.float32)
    impulse[RATE] = 1
    loudest = []
    for position in range(40):
        array = spec.prepare(impulse, example_rng(0, position), rate=RATE).sum(axis=1)
        loudest.append(int(array.argmax()) if array.max() > array.min() else -1)
    array = spec.prepare(impulse, example_rng(0, 39), rate=RATE).sum(axis=1)
    assert loudest[-1] == (int(array.argmax()) if array.max() > array.min() else -1)
    seen = [frame for frame in loudest if frame >= 0]
    assert min(seen) < 20 and max(seen) > 30 and 0 < len(seen) < 40


def test_padding_is_the_presets():
    half = NOISE[: 25 * 160 + 240]  # 25 frames, but for Whisper's
    ast = AudioSpec(preset="ast", frames=50).prepare(half, None, rate=RATE)
    np.testing.assert_array_equal(ast[:25], log_mel(half, preset("ast")))
    np.testing.assert_allclose(ast[25:], 4.2677393 / (2 * 4.5689974), rtol=1e-6)
    mbt = AudioSpec(preset="mbt", frames=60).prepare(half, None, rate=RATE)
    np.testing.assert_array_equal(mbt[:25], log_mel(half, preset("mbt")))
    np.testing.assert_array_equal(mbt, mbt[np.arange(60) % 25])
    whisper = AudioSpec(preset="whisper", frames=50).prepare(half, None, rate=RATE)
    np.testing.assert_array_equal(whisper, log_mel(np.pad(half, (0, 8000 - len(half))), preset("whisper")))


def test_masks_are_drawn_in_training_alone():
    spec = AudioSpec(preset="ast", frames=60, time_masks=(2, 20), frequency_masks=(1, 30))
    plain = AudioSpec(preset="ast", frames=60).prepare(NOISE, None, rate=RATE)
    short = NOISE[: spec.log_mel_spec.samples(60)]  # leaves no choice of a crop
    np.testing.assert_array_equal(spec.prepare(short, None, rate=RATE), plain)
    masked = [spec.prepare(short, example_rng(0, position), rate=RATE) for position in (1, 1, 2)]
    np.testing.assert_array_equal(masked[0], masked[1])
    assert (masked[0] != masked[2]).any()
    for array in masked:
        hidden = array != plain
        assert hidden.any() and not array[hidden].any()


def test_the_rate_of_a_spec_keeps_its_milliseconds():
    for name in PRESETS:
        spec = AudioSpec(preset=name, sample_rate=8000, mel_bins=20)
        assert (spec.log_mel_spec.window, spec.log_mel_spec.hop) == (200, 80)
        assert spec.log_mel_spec.f_max <= 4000 and spec.log_mel_spec.frames(8000) in (98, 100)
    assert AudioSpec(sample_rate=RATE).log_mel_spec == preset("ast")


def test_silence_is_a_sound():
    for name in PRESETS:
        array = AudioSpec(preset=name).prepare(np.zeros(RATE, np.float32), None, rate=RATE)
        assert np.isfinite(array).all()


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (NOISE[:300], "empty"),
        (NOISE[:0], "empty"),
        (b"", "empty"),
        (NOISE.reshape(2, -1), "corrupt"),
        (np.zeros(RATE, np.int16), "corrupt"),
        (np.full(RATE, np.inf, np.float32), "corrupt"),
    ],
)
def test_sounds_that_cannot_be_used(entry, reason):
    with pytest.raises(BadExample) as caught:
        AudioSpec(preset="ast").prepare(entry, None, rate=RATE)
    assert caught.value.reason == reason


@pytest.mark.parametrize("rate", [None, 0, 7, 1e9])
def test_samples_come_with_their_rate(rate):
    with pytest.raises(UserError, match="rates={'audio': .*give their rate in Hz"):
        AudioSpec().prepare(NOISE, None, rate=rate)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(preset="wisper"), "data.audio.preset='wisper' is not known .did you mean 'whisper'"),
        (dict(frames=-1), "data.audio.frames=-1: give a positive number"),
        (dict(sample_rate=7), "data.audio.sample_rate=7: give 1000 to 768000 Hz"),
        (dict(time_masks=(1,)), "data.audio.time_masks=.1,.: give .masks, widest."),
        (dict(frequency_masks=(1, -2)), "data.audio.frequency_masks"),
        (dict(time_share=2.0), "data.audio.time_share=2.0: give a share"),
    ],
)
def test_mistakes_in_a_spec(fields, message):
    with pytest.raises(UserError, match=message) as caught:
        AudioSpec(**fields)
    assert "\n" not in str(caught.value)


@pytest.mark.full
@pytest.mark.parametrize("mel_bins", [80, 128])
@pytest.mark.parametrize("seconds", [3.3, 30.0, 41.0])
def test_equals_whispers_feature_extractor(mel_bins, seconds):
    transformers = pytest.importorskip("transformers")
    x = waveform(int(seconds * RATE)).astype(np.float32)
    extractor = transformers.WhisperFeatureExtractor(feature_size=mel_bins)
    expected = extractor(x, sampling_rate=RATE, return_tensors="np").input_features[0].T
    ours = AudioSpec(preset="whisper", mel_bins=mel_bins).prepare(x, None, rate=RATE)
    np.testing.assert_allclose(ours, expected, atol=1e-4)  # PyTorch's, in float32
    padded = np.pad(x, (0, max(0, 30 * RATE - len(x))))[None, : 30 * RATE]
    expected = extractor._np_extract_fbank_features(padded, "cpu")[0].T
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.full
@pytest.mark.parametrize("seconds", [0.5, 3.3, 10.24, 15.0])
def test_equals_asts_feature_extractor(seconds):
    transformers = pytest.importorskip("transformers")
    x = waveform(int(seconds * RATE)).astype(np.float32)
    expected = transformers.ASTFeatureExtractor()(x, sampling_rate=RATE, return_tensors="np").input_values[0]
    np.testing.assert_allclose(AudioSpec(preset="ast").prepare(x, None, rate=RATE), expected, atol=1e-5)
