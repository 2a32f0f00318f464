"""Windows of long sounds: cut at pauses, without a gap and without overlap; and what a model writes of them."""

import logging

import numpy as np
import pytest

from mmjax.data.audio.transform import AudioSpec
from mmjax.data.sources.tones import SAMPLE_RATE, Tones
from mmjax.errors import UserError
from mmjax.inference import transcription
from tests.helpers import media

SPEC = AudioSpec(preset="whisper", frames=200, mel_bins=40, sample_rate=SAMPLE_RATE)
LONGEST = 2 * SAMPLE_RATE


def utterances(count):
    """Utterances one after the other, and where each word is in seconds."""
    records = [Tones("test")[i] for i in range(count)]
    words = [
        (2.0 * number + word["start"], 2.0 * number + word["end"])
        for number, record in enumerate(records)
        for word in record["annotation"]["words"]
    ]
    return np.concatenate([record["modalities"]["audio"] for record in records]), words


def written(arrays, first):
    """A text for each spectrogram: its number."""
    return [f"w{first + i}" for i in range(len(arrays))]


def test_parts_follow_each_other_and_no_word_is_cut_in_two():
    samples, words = utterances(30)
    parts = list(transcription.cut_at_pauses(samples, SAMPLE_RATE, LONGEST))
    assert [start for start, _, _ in parts] == [0, *(stop for _, stop, _ in parts[:-1])]
    assert parts[-1][1] == len(samples) and all(0 < stop - start <= LONGEST for start, stop, _ in parts)
    assert all(stop - start >= LONGEST // 2 for start, stop, _ in parts[:-1])
    cut = [stop / SAMPLE_RATE for _, stop, _ in parts[:-1]]
    inside = [(start, end) for start, end in words if any(start + 0.01 < time < end - 0.01 for time in cut)]
    assert not inside


def test_where_there_is_no_pause_the_log_and_the_segment_say_so(caplog):
    hum = np.sin(np.arange(5 * SAMPLE_RATE) * 0.3).astype(np.float32)
    with caplog.at_level(logging.WARNING, logger="mmjax"):
        ((*first, last),) = transcription.transcribe([hum], SPEC, written, rate=SAMPLE_RATE)
    assert [segment.in_pause for segment in (*first, last)] == [False] * len(first) + [True]
    assert len(caplog.records) == len(first) and "audio 0: a window ends at" in caplog.text
    # A second of silence in it is where it is cut.
    hum[int(1.2 * SAMPLE_RATE) : int(1.6 * SAMPLE_RATE)] = 0
    start, stop, in_pause = next(transcription.cut_at_pauses(hum, SAMPLE_RATE, LONGEST))
    assert start == 0 and 1.2 * SAMPLE_RATE < stop < 1.6 * SAMPLE_RATE and in_pause


@pytest.mark.parametrize("length", [1, 100, LONGEST - 1, LONGEST, LONGEST + 1, 3 * LONGEST + 5])
@pytest.mark.parametrize("level", [0.0, 0.1])
def test_every_length_is_covered_once(length, level):
    samples = (level * np.random.default_rng(0).standard_normal(length)).astype(np.float32)
    parts = list(transcription.cut_at_pauses(samples, SAMPLE_RATE, LONGEST))
    assert np.concatenate([samples[start:stop] for start, stop, _ in parts]).tolist() == samples.tolist()
    assert all(0 < stop - start <= LONGEST for start, stop, _ in parts)


@pytest.mark.parametrize("preset", ["ast", "mbt", "whisper"])
def test_the_rest_of_a_sound_gives_a_frame(preset):
    spec = AudioSpec(preset=preset, frames=8, mel_bins=40)
    window = spec.log_mel_spec.samples(1)
    longest = spec.log_mel_spec.samples(8)
    for length in (longest + 1, longest + window // 2, 2 * longest + 1, 5 * longest + 384):
        samples = np.ones(length, np.float32)
        samples[longest - 60 : longest - 20] = 0  # the quietest, and too near to the end where the sound ends behind it
        (segments,) = transcription.transcribe([samples], spec, written, rate=16000)
        ends = [round(segment.end * 16000) for segment in segments]
        starts = [round(segment.start * 16000) for segment in segments]
        assert starts == [0, *ends[:-1]] and ends[-1] == length
        assert all(window <= end - start <= longest for start, end in zip(starts, ends, strict=True))


def test_windows_that_cannot_be_cut_are_one_line():
    spec = AudioSpec(preset="ast", frames=2, mel_bins=40)
    with pytest.raises(UserError, match="audio 0: windows of 560 samples are too short .* raise data.audio.frames"):
        transcription.transcribe([np.ones(561, np.float32)], spec, written, rate=16000)
    assert len(transcription.transcribe([np.ones(560, np.float32)], spec, written, rate=16000)[0]) == 1


def test_windows_of_all_sounds_are_written_in_batches_and_come_back_to_their_sound(tmp_path):
    samples, _ = utterances(4)
    file = tmp_path / "a.wav"
    file.write_bytes(media.make_sound("wav", samples, rate=SAMPLE_RATE))
    sizes = []

    def write(arrays, first):
        sizes.append(len(arrays))
        assert arrays.shape[1:] == (200, 40)
        return written(arrays, first)

    segments = transcription.transcribe([samples, file, samples[:100]], SPEC, write, rate=SAMPLE_RATE, batch_size=3)
    assert max(sizes) == 3 and sum(sizes) == sum(map(len, segments)) and len(segments[2]) == 1
    texts = [segment.text for parts in segments for segment in parts]
    assert texts == [f"w{i}" for i in range(len(texts))]
    assert segments[0][-1].end == pytest.approx(8.0) and segments[0][0].start == 0
    assert [(one.start, one.end) for one in segments[1]] == [(one.start, one.end) for one in segments[0]]
    assert transcription.join(segments[2]) == texts[-1] and transcription.transcribe([], SPEC, write) == []


def test_the_sound_of_a_video_is_transcribed():
    (segments,) = transcription.transcribe([media.make_video("h264.mp4", sound="aac")], SPEC, written)
    assert segments[-1].end == pytest.approx(1.0, abs=0.1) and segments[0].text == "w0"


@pytest.mark.parametrize(
    ("sounds", "message"),
    [
        (["gone.wav"], "audio 0: audio: 'gone.wav' cannot be read"),
        ("a.wav", r"one file alone; give a list of them, such as \['a.wav'\]"),
        (np.zeros(100, np.float32), "one sound alone; give a list of them"),
        ([np.zeros(100, np.float32), b"no sound"], "audio 1: .*no audio format"),
    ],
)
def test_what_is_no_sound_is_one_line(sounds, message):
    with pytest.raises(UserError, match=message) as caught:
        transcription.transcribe(sounds, SPEC, written, rate=SAMPLE_RATE)
    assert "\n" not in str(caught.value)
