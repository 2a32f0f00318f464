"""WAV files of every width against SciPy's reader, and damaged ones."""

import io
import wave

import numpy as np
import pytest
import scipy.io.wavfile

from mmjax.data.audio import log_mel
from mmjax.data.audio.wav import read_wav, wav_to_log_mel
from mmjax.data.bad_example import BadExample
from mmjax.errors import UserError

TONE = np.sin(np.arange(500) / 7.0)


def write(samples, width=2, rate=16000):
    """A PCM file of [N, channels] samples in [-1, 1), by the standard library."""
    integers = np.floor(samples * 2.0 ** (8 * width - 1)).astype(np.int64)
    if width == 1:
        integers += 128
    raw = integers.astype("<i8").reshape(-1, 1).view(np.uint8)[:, :width].tobytes()
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(samples.shape[1])
        out.setsampwidth(width)
        out.setframerate(rate)
        out.writeframes(raw)
    return file.getvalue()


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_width_equals_scipys_reader(width, channels):
    samples = np.stack([0.9 * TONE, -0.5 * TONE**2], axis=1)[:, :channels]
    data = write(samples, width, 22050)
    ours, rate = read_wav(data)
    assert rate == 22050 and ours.dtype == np.float32 and ours.shape == (500,)
    _, expected = scipy.io.wavfile.read(io.BytesIO(data))
    expected = expected.astype(np.float64).reshape(500, channels)
    # SciPy gives 24 bits in the upper bytes of 32.
    expected = (expected - 128) / 128 if width == 1 else expected / 2.0 ** (15 if width == 2 else 31)
    np.testing.assert_allclose(ours, expected.mean(axis=1), atol=1e-7)
    np.testing.assert_allclose(ours, samples.mean(axis=1), atol=2.0 ** (1 - 8 * width) + 1e-7)


def test_extremes_do_not_leave_the_range():
    for width in (1, 2, 3, 4):
        x, _ = read_wav(write(np.array([[-1.0], [0.0], [1.0 - 2.0**-31]]), width))
        assert x[0] == -1 and x[1] == 0 and 0.99 < x[2] <= 1


def test_wav_to_log_mel():
    data = write(TONE[:, None])
    np.testing.assert_array_equal(
        wav_to_log_mel(data, log_mel.AudioSpec()), log_mel.log_mel(read_wav(data)[0], log_mel.AudioSpec())
    )
    with pytest.raises(UserError, match="sample_rate=22050, but the WAV file has 16000 Hz; resample") as caught:
        wav_to_log_mel(data, log_mel.preset("librosa"))
    assert "\n" not in str(caught.value)


def float_wav():
    file = io.BytesIO()
    scipy.io.wavfile.write(file, 16000, TONE.astype(np.float32))
    return file.getvalue()


@pytest.mark.parametrize(
    "data, reason, message",
    [
        (b"", "empty", "zero bytes"),
        (write(np.zeros((0, 1))), "empty", "without samples"),
        (b"not a sound", "corrupt", "no WAV file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "corrupt", "no WAV file"),
        (write(TONE[:, None])[:30], "corrupt", "no WAV file"),
        (write(TONE[:, None])[:300], "corrupt", "breaks off after 256 of 1000 bytes"),
        (float_wav(), "corrupt", "PCM"),
    ],
)
def test_files_that_cannot_be_used(data, reason, message):
    with pytest.raises(BadExample, match=message) as caught:
        read_wav(data)
    assert caught.value.reason == reason and "\n" not in str(caught.value)


def test_no_damage_raises_anything_else():
    """Bytes changed in the header, and files cut anywhere, are read or refused, nothing else."""
    complete = write(np.stack([TONE, TONE], axis=1)[:60])
    rng = np.random.default_rng(0)
    refused = 0
    for trial in range(2000):
        data = bytearray(complete[: rng.integers(1, len(complete) + 1)] if trial % 4 == 0 else complete)
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(0, min(44, len(data)))] = rng.integers(0, 256)
        try:
            samples, rate = read_wav(bytes(data))
            assert len(samples) and rate > 0 and np.abs(samples).max() <= 1
        except BadExample as error:
            refused += 1
            assert "\n" not in str(error)
    assert 500 < refused < 2000
