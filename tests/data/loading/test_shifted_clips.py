import io

import numpy as np
import pytest

from mmjax.data.audio.transform import AudioSpec
from mmjax.data.bad_example import BadExample
from mmjax.data.image.transforms import ImageSpec
from mmjax.data.loading.inputs import InputSpecs, ModalitySpec
from mmjax.data.loading.shifted_clips import ShiftedClips
from mmjax.data.record import Record
from mmjax.data.video.transform import VideoSpec

RATE, SHIFTS, WINDOWS = 20.0, 3, 4
IMAGE = ImageSpec(size=32, mean=(0.5,) * 3, std=(0.5,) * 3, train_resize="squash")


def clips(frames=2, windows=WINDOWS):
    """Windows of two frames, 100 ms, at 20 frames a second and 8 kHz."""
    video = VideoSpec(image=IMAGE, frames=frames, stride=1, rate=RATE)
    audio = AudioSpec(frames=5 * frames, mel_bins=16, sample_rate=8000)
    specs = InputSpecs(others=(ModalitySpec.decoded("video", video), ModalitySpec.decoded("audio", audio)))
    return ShiftedClips.of_windows(specs, SHIFTS, windows)


def numbered(seconds=2.0, **changes):
    """Frame i is as bright as i; the sound is silent but for a click at the beginning of every fifth frame."""
    count = round(seconds * RATE)
    video = np.broadcast_to((4 * np.arange(count, dtype=np.uint8))[:, None, None, None], (count, 32, 32, 3))
    audio = np.zeros(round(seconds * 8000), np.float32)
    audio[:: 5 * 400] = 1.0
    modalities = {"video": np.ascontiguousarray(video), "audio": audio} | changes
    modalities = {name: value for name, value in modalities.items() if value is not None}
    return Record(id=5, modalities=modalities, rates={"video": RATE, "audio": 8000.0})


def first_frame(arrays):
    return arrays["video"][:, 0, 0, 0].astype(int) // 4


def clicks(arrays):
    """The frame, within the clip, of each click: spectrogram frame t shows 25 ms from 10 t ms on."""
    energy = arrays["audio"].mean(axis=1)
    loud = np.flatnonzero(energy > (energy.max() + energy.min()) / 2)
    return loud[np.diff(loud, prepend=-10) > 3]


def test_shapes_are_those_of_the_windows_with_the_shifts():
    specs = clips()
    arrays = specs.train(numbered(), np.random.default_rng(0))
    assert arrays["video"].shape == (2 + WINDOWS - 1, 32, 32, 3) and arrays["video"].dtype == np.uint8
    assert arrays["audio"].shape == ((2 + WINDOWS - 1 + 2 * SHIFTS) * 5, 16)
    assert {name: (x.shape, x.dtype) for name, x in arrays.items()} == specs.batch_shapes()


def test_the_shift_says_where_in_the_sound_the_video_is():
    specs, record, shifts, begins = clips(), numbered(), [], []
    for seed in range(60):
        arrays = specs.train(record, np.random.default_rng(seed))
        frames, shift = first_frame(arrays), int(arrays["shift"])
        assert (np.diff(frames) == 1).all()  # consecutive ones
        begin = frames[0] - shift  # the frame with which the sound begins
        for click in clicks(arrays):
            time = begin / RATE + click * 0.01  # from when on the click is in a window of 25 ms
            assert -0.026 <= time - 0.25 * round(time / 0.25) <= 0.0
        shifts.append(shift)
        begins.append(begin)
    assert set(shifts) == set(range(2 * SHIFTS + 1))
    assert min(begins) == 0 and max(begins) > 20


def test_the_sound_is_independent_of_the_shift():
    """The same draws but for the shift give the same sound, so that nothing in it can tell where the video is."""

    class Draws(np.random.Generator):
        def __init__(self, shift):
            super().__init__(np.random.PCG64(0))
            self.shift = shift

        def integers(self, count):
            drawn = super().integers(count)
            return self.shift if count == 2 * SHIFTS + 1 else drawn

    specs, record = clips(), numbered()
    made = [specs.train(record, Draws(shift)) for shift in range(2 * SHIFTS + 1)]
    assert all((arrays["audio"] == made[0]["audio"]).all() for arrays in made)
    assert [first_frame(arrays)[0] - first_frame(made[0])[0] for arrays in made] == list(range(2 * SHIFTS + 1))


def test_evaluation_takes_the_middle_and_the_shift_of_the_id():
    specs, record = clips(), numbered()
    arrays, again = specs.evaluate(record), specs.evaluate(record)
    assert all((arrays[name] == again[name]).all() for name in arrays)
    # 40 frames hold 29 beginnings of 11, of which frame 14 is the middle; the sound wants 15 ms more than its frames.
    assert first_frame(arrays)[0] - int(arrays["shift"]) == 14
    shifts = [int(specs.evaluate(record | {"id": number})["shift"]) for number in range(150)]
    assert np.bincount(shifts, minlength=7).min() >= 10  # all as likely


def test_a_span_of_a_file_is_all_that_there_is():
    specs, record = clips(), numbered(3.0) | {"spans": {"video": (1.0, 2.0), "audio": (1.0, 2.0)}}
    for seed in range(20):
        frames = first_frame(specs.train(record, np.random.default_rng(seed)))
        assert frames.min() >= 20 and frames.max() < 40


def test_the_shortest_clip_fits_and_nothing_shorter():
    specs = clips()
    seconds = (5 + 6) / RATE  # and 15 ms, by which the last window of the spectrogram is longer than its step
    enough = numbered(seconds, audio=np.zeros(round((seconds + 0.015) * 8000), np.float32))
    assert specs.train(enough, np.random.default_rng(0))["video"].shape[0] == 5
    short = numbered(seconds, audio=np.zeros(round((seconds + 0.014) * 8000), np.float32))
    with pytest.raises(
        BadExample, match=r"too_short: 0.55 s of video and 0.56 s of sound; objectives.sync needs 0.55 s"
    ):
        specs.train(short, np.random.default_rng(0))
    with pytest.raises(BadExample, match=r"too_short: 0.50 s of video"):
        specs.evaluate(numbered(0.5))


@pytest.mark.parametrize("name", ["video", "audio"])
def test_a_record_that_lacks_one_of_the_two_is_bad(name):
    with pytest.raises(BadExample, match=f"no_input: no {name}"):
        clips().train(numbered(**{name: None}), np.random.default_rng(0))


@pytest.mark.full
def test_a_file_without_sound_and_one_whose_picture_begins_later():
    from tests.helpers import media

    silent = media.make_video("h264.mp4")
    with pytest.raises(BadExample, match="no_track: the file has no audio track"):
        clips().train(Record(id=1, modalities={"video": silent, "audio": silent}), np.random.default_rng(0))
    pixels = np.broadcast_to((10 * np.arange(20, dtype=np.uint8))[:, None, None, None], (20, 48, 48, 3))
    late = media.make_video(
        "h264.mp4", np.ascontiguousarray(pixels), milliseconds=[200 + 50 * i for i in range(20)], sound="aac"
    )
    record = Record(id=1, modalities={"video": late, "audio": io.BytesIO(late).getvalue()})
    specs = clips(windows=1)
    first, _ = specs.video.shown(late)
    assert first == pytest.approx(0.2, abs=0.03)
    assert specs.train(record, np.random.default_rng(0))["video"].shape[0] == 2
