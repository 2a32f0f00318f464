"""Waveforms against soundfile, soxr and PyAV; spans; files that cannot be used."""

import io
import struct

import av
import numpy as np
import pytest
import soundfile
import soxr

from mmjax.data.audio import waveform
from mmjax.data.audio.waveform import decode_audio, resample
from mmjax.data.bad_example import BadExample
from tests.helpers.media import make_sound, make_video, tones

KINDS = [
    ("wav", None),
    ("wav", "FLOAT"),
    ("wav", "PCM_24"),
    ("flac", None),
    ("ogg", None),
    ("mp3", None),
    ("aiff", None),
]


@pytest.mark.parametrize(("kind", "subtype"), KINDS)
@pytest.mark.parametrize("channels", [1, 2])
def test_equals_soundfile(kind, subtype, channels):
    data = make_sound(kind, tones(30000, 22050)[:, :channels], subtype=subtype)
    expected, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    expected = expected.mean(axis=1)
    samples, actual_rate = decode_audio(data)
    assert actual_rate == rate == 22050 and samples.dtype == np.float32
    np.testing.assert_array_equal(samples, expected)
    for start, stop in ((0.25, 0.75), (0.0, 0.5), (1.0, 9.0), (-1.0, 0.25)):
        part, _ = decode_audio(data, span=(start, stop))
        np.testing.assert_array_equal(part, expected[max(0, round(start * 22050)) : round(stop * 22050)])


def test_resampling_is_soxrs():
    x = tones(22050, 22050)[:, 0]
    np.testing.assert_array_equal(resample(x, 22050, 16000), soxr.resample(x, 22050, 16000))
    assert resample(x, 22050, 22050) is x


@pytest.mark.parametrize(("kind", "codec"), [("h264.mp4", "aac"), ("vp9.webm", "libopus"), ("h264.mkv", "flac")])
def test_the_sound_of_a_video(kind, codec):
    data = make_video(kind, sound=codec)
    samples, rate = decode_audio(data)
    with av.open(io.BytesIO(data)) as opened:
        resampler = av.AudioResampler(format="fltp")
        parts = [part.to_ndarray() for frame in opened.decode(audio=0) for part in resampler.resample(frame)]
    np.testing.assert_array_equal(samples, np.concatenate(parts, axis=1).mean(axis=0))
    assert rate == 48000
    expected = tones(48000).mean(axis=1)
    assert np.abs(samples[2000:40000] - expected[2000:40000]).mean() < 0.03
    part, _ = decode_audio(data, span=(0.5, 0.75))
    np.testing.assert_array_equal(part, samples[24000:36000])


def test_a_sound_that_begins_later_than_its_video():
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as out:
        video, sound = out.add_stream("mpeg4", rate=25), out.add_stream("pcm_s16le", rate=8000, layout="mono")
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for _ in range(25):
            out.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")))
        out.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(np.full((1, 4000), 8192, np.int16), "s16", "mono")
        frame.sample_rate, frame.pts = 8000, 2000
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    samples, rate = decode_audio(file.getvalue())
    np.testing.assert_array_equal(samples, np.repeat([0, 0.25], [2000, 4000]))
    assert rate == 8000


def test_an_mp3_that_does_not_say_how_long_it_is():
    """Soundfile takes its length from the rate of its first frames: here a quarter of it."""
    x = 0.1 * np.random.default_rng(0).standard_normal((88200, 1)).astype(np.float32)
    x[22050:66150] = 0
    file = io.BytesIO()
    soundfile.write(file, x, 44100, format="MP3", bitrate_mode="VARIABLE")
    data = file.getvalue()
    stripped = data[data.index(b"\xff\xfb", data.index(b"Xing")) :]
    assert len(soundfile.read(io.BytesIO(stripped))[0]) < 60000
    samples, _ = decode_audio(stripped)
    assert abs(len(samples) - 88200) < 2500
    tag = b"ID3\x04\0\0\0\0\x01\x00" + bytes(128)
    np.testing.assert_array_equal(decode_audio(tag + stripped)[0], samples)
    np.testing.assert_array_equal(decode_audio(tag + data)[0], decode_audio(data)[0])


def test_headers_are_not_believed():
    """A FLAC that does not say how long it is, as encoders write to a pipe."""
    data = bytearray(make_sound("flac"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    np.testing.assert_array_equal(decode_audio(bytes(data))[0], decode_audio(make_sound("flac"))[0])
    wav = bytearray(make_sound("wav"))
    wav[4:8] = wav[40:44] = b"\xff\xff\xff\xff"
    np.testing.assert_array_equal(decode_audio(bytes(wav))[0], decode_audio(make_sound("wav"))[0])


def test_silence_is_a_sound():
    samples, _ = decode_audio(make_sound("wav", np.zeros((500, 1), np.float32)))
    np.testing.assert_array_equal(samples, np.zeros(500))


def wav_header(rate=8000, channels=1):
    data = bytearray(make_sound("wav", tones(100)[:, :1]))
    data[22:28] = struct.pack("<HI", channels, rate)
    return bytes(data)


NAN = np.array([[0.1], [np.nan]] * 50, np.float32)


@pytest.mark.parametrize(
    ("data", "reason", "message"),
    [
        (b"", "empty", "zero bytes"),
        (b"not a sound", "not_media", "no audio format"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not_media", "no audio format"),
        (make_sound("wav", np.zeros((0, 1), np.float32)), "empty", "no samples"),
        (make_video(), "no_track", "no audio track"),
        (make_sound("wav", NAN, subtype="FLOAT"), "corrupt", "not finite"),
        (wav_header(rate=7), "corrupt", "1 channels at 7 Hz"),
        (wav_header(rate=2**30), "corrupt", "1 channels at 1073741824 Hz"),
        *((make_sound(kind, subtype=subtype)[:-700], "corrupt", "breaks off|lost sync") for kind, subtype in KINDS),
    ],
)
def test_files_that_cannot_be_used(data, reason, message):
    with pytest.raises(BadExample, match=message) as caught:
        decode_audio(data)
    assert caught.value.reason == reason and "\n" not in str(caught.value)


@pytest.mark.parametrize("span", [(1.0, 2.0), (5.0, 6.0), (0.5, 0.5), (0.5, 0.2), (-1.0, 0.0)])
def test_spans_without_samples(span):
    for data in (make_sound("wav"), make_video(sound="aac") if span[0] >= 5 else make_sound("flac")):
        with pytest.raises(BadExample, match="empty: no samples from"):
            decode_audio(data, span=span)


def test_limits(monkeypatch):
    monkeypatch.setattr(waveform, "MAX_SAMPLES", 20000)
    for data in (make_sound("wav"), make_sound("mp3"), make_video(sound="aac")):
        with pytest.raises(BadExample, match="too_large: more than [12]0000 samples"):
            decode_audio(data)
    assert len(decode_audio(make_sound("wav"), span=(0.5, 0.6))[0]) == 2205
    monkeypatch.setattr(waveform, "MAX_BYTES", 1000)
    with pytest.raises(BadExample, match="too_large: .* bytes, the limit is 1000"):
        decode_audio(make_sound("wav"))
