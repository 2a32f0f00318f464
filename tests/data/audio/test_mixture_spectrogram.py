import io

import numpy as np
import pytest
import soundfile

from mmjax.data.audio.mixture_spectrogram import MixtureSpec
from mmjax.data.bad_example import BadExample
from mmjax.errors import UserError

SPEC = MixtureSpec(sample_rate=8000, n_fft=254, hop=64, frames=32, log_bins=0)


def tone(frequency, samples=4000, rate=8000):
    return (0.3 * np.sin(2 * np.pi * frequency * np.arange(samples) / rate)).astype(np.float32)


def test_published_sizes_are_the_default():
    spec = MixtureSpec()
    assert (spec.samples, spec.stft.bins, spec.magnitudes_shape) == (65535, 512, (256, 256))
    assert round(spec.seconds, 2) == 5.94


def test_evaluation_takes_the_middle_and_training_a_stretch_with_a_gain():
    wave = np.linspace(0.1, 0.2, 4000, dtype=np.float32)
    middle = SPEC.prepare(wave, None, rate=8000)
    assert middle.shape == SPEC.shape == (2047,) and middle.dtype == np.float32
    np.testing.assert_array_equal(middle, wave[976 : 976 + 2047])
    gains, starts = set(), set()
    for seed in range(20):
        part = SPEC.prepare(wave, np.random.default_rng(seed), rate=8000)
        gain = (part[1] - part[0]) / (wave[1] - wave[0])
        gains.add(round(float(part[-1] - part[0]) / float(wave[2046] - wave[0]), 3))
        starts.add(round(float(part[0]) / gain, 3))
    assert min(gains) > 0.49 and max(gains) < 1.51 and len(gains) > 10 and len(starts) > 10
    first = SPEC.prepare(wave, np.random.default_rng(0), rate=8000, position=0.0)
    last = SPEC.prepare(wave, np.random.default_rng(0), rate=8000, position=1 - 1e-9)
    assert first[0] / last[0] == pytest.approx(wave[0] / wave[-2047], rel=1e-5)


def test_short_sounds_end_in_silence_and_files_are_resampled():
    part = SPEC.prepare(tone(440, 500), None, rate=8000)
    assert part[:500].any() and not part[500:].any()
    file = io.BytesIO()
    soundfile.write(file, tone(440, 16000, 16000), 16000, format="WAV", subtype="FLOAT")
    decoded = SPEC.decode(file.getvalue(), span=(0.25, 0.75))
    assert abs(len(decoded) - 4000) <= 2
    spectrum = abs(np.fft.rfft(decoded))
    assert spectrum.argmax() * 8000 / len(decoded) == pytest.approx(440, abs=3)


def test_masks_of_ones_give_the_mixture_and_ideal_ones_its_sounds():
    one, other = (SPEC.prepare(tone(f), None, rate=8000) for f in (500, 2000))
    mixture = SPEC.mix([one, other])
    np.testing.assert_allclose(mixture, (one + other) / 2, atol=1e-7)
    np.testing.assert_allclose(SPEC.apply(np.ones(SPEC.magnitudes_shape), mixture)[0], mixture, atol=1e-9)
    magnitudes = [SPEC.magnitudes(sound / 2) for sound in (one, other)]
    estimate, linear = SPEC.apply((magnitudes[0] > magnitudes[1]).astype(np.float32), mixture)
    assert linear.shape == (32, 128) and np.square(estimate - one / 2).sum() < 1e-3 * np.square(one / 2).sum()


def test_magnitudes_on_the_logarithmic_axis_are_as_large():
    spec = MixtureSpec(sample_rate=8000, n_fft=254, hop=64, frames=32, log_bins=64)
    magnitudes = spec.magnitudes(spec.prepare(tone(1000), None, rate=8000))
    assert magnitudes.shape == spec.magnitudes_shape == (32, 64) and magnitudes.dtype == np.float32
    assert magnitudes[16].max() == pytest.approx(
        SPEC.magnitudes(SPEC.prepare(tone(1000), None, rate=8000))[16].max(), rel=0.2
    )
    mixture = spec.prepare(tone(1000), None, rate=8000)
    np.testing.assert_allclose(spec.apply(np.ones(spec.magnitudes_shape), mixture)[0], mixture, atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        (dict(sources=1), "sources=1"),
        (dict(frames=0), "frames=0"),
        (dict(log_bins=1), "log_bins=1"),
        (dict(gain=(0.0, 1.0)), "gain="),
        (dict(gain=(1.0,)), "gain="),
        (dict(sample_rate=10), "sample_rate=10"),
        (dict(hop=1000), "hop=1000"),
    ],
)
def test_fields_that_make_no_sense_are_one_line(changes, field):
    with pytest.raises(UserError, match=f"data.separation.{field}") as caught:
        MixtureSpec(**changes)
    assert "\n" not in str(caught.value)


def test_bad_sounds_are_bad_examples():
    for entry in (b"", np.zeros(0, np.float32), np.full(9, np.nan, np.float32)):
        with pytest.raises(BadExample):
            SPEC.prepare(entry, None, rate=8000)
    with pytest.raises(UserError, match="rates="):
        SPEC.prepare(tone(440), None)
