import re

import numpy as np
import pytest

import mmjax
from mmjax import tasks
from mmjax.config import parse
from mmjax.errors import UserError
from mmjax.inference import sync_offset
from tests.helpers import runs, sync_runs


class Pulses:
    """A `run` of clips in which a bright frame and a loud one belong together: similarity by their windows."""

    def __init__(self):
        self.calls = []

    def __call__(self, columns):
        (video,), (audio,) = columns
        bright = video[:, 0, 0, 0] > 128
        loud = audio.reshape(len(audio) // 5, -1).max(axis=1)
        loud = loud > (audio.max() + audio.min()) / 2
        windows, shifts = len(bright) - 1, 7
        self.calls.append(windows)
        pairs = [[float(bright[m] and loud[m + k]) for k in range(shifts)] for m in range(windows)]
        return np.array(pairs, np.float32)[None]


def flashes(frames, late, every=17):
    """A video with a flash now and then, and a sound with clicks that are late by some frames."""
    video = np.zeros((frames, 32, 32, 3), np.uint8)
    audio = np.random.default_rng(0).normal(0, 1e-4, frames * 400).astype(np.float32)
    for flash in range(4, frames - 8, every):
        video[flash] = 255
        begin = (flash + late) * 400 + 160  # in the middle of a frame, so that 25 ms from 10 to 10 ms are in it alone
        audio[max(0, begin) : max(0, begin + 200)] += 0.9 * np.sin(np.arange(200))[: max(0, min(200, begin + 200))]
    return video, audio


RATES = {"video": 20.0, "audio": 8000.0}


@pytest.fixture(scope="module")
def task():
    config = parse(sync_runs.config())
    return tasks.Task(config, tasks.make_image_spec(config))


@pytest.mark.parametrize("late", [-3, -1, 0, 2, 3])
@pytest.mark.parametrize("windows", [None, 13])
def test_the_offset_of_a_sound_by_parts_and_as_one(task, late, windows):
    video, audio = flashes(100, late)
    run = Pulses()
    (offset,) = sync_offset.sync_offsets(task, run, [video], [audio], RATES, windows)
    assert (offset.frames, offset.seconds) == (late, pytest.approx(late / 20))
    assert offset.confidence > 0 and offset.similarities.shape == (7,)
    assert offset.similarities.argmax() == late + 3
    # 100 frames have 99 windows, of which three at each end lack sound at a shift; the last sound is 15 ms too short.
    assert len(run.calls) == len(offset.parts) and sum(run.calls) >= 92
    assert offset.parts[0] == (0.15, late)
    if windows:
        # Each window counts once, also where the last part begins within the one before it.
        (one,) = sync_offset.sync_offsets(task, Pulses(), [video], [audio], RATES, None)
        np.testing.assert_allclose(offset.similarities, one.similarities, atol=0.02)
        assert set(run.calls) == {13} and len(run.calls) == 8


def test_a_drift_shows_in_the_parts(task):
    video, early = flashes(200, -2)
    _, late = flashes(200, 2)
    audio = np.concatenate([early[: 100 * 400], late[100 * 400 :]])
    (offset,) = sync_offset.sync_offsets(task, Pulses(), [video], [audio], RATES, 40)
    assert [part[1] for part in offset.parts][:2] == [-2, -2] and offset.parts[-1][1] == 2


@pytest.mark.parametrize(
    ("videos", "options", "message"),
    [
        ([np.zeros((7, 32, 32, 3), np.uint8)], {}, "sync_offset: video 0: too_short: 0.35 s of video"),
        ([np.zeros((60, 32, 32, 3), np.uint8)], {"windows": 0}, "sync_offset: windows=0; give an integer, 1 or more"),
        ([], {}, "sync_offset: 1 sounds of 0 videos; give one each"),
        ("clip.mp4", {}, "video: one file alone; give a list of them, such as ['clip.mp4']"),
        (["missing.mp4"], {}, "sync_offset: video 0: video: 'missing.mp4' cannot be read"),
    ],
)
def test_mistakes_are_one_line(task, videos, options, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        sync_offset.sync_offsets(task, Pulses(), videos, [np.zeros(24000, np.float32)], RATES, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.full
def test_a_run_trains_on_files_and_tells_their_offsets(tmp_path):
    """MP4 files with sound: training, evaluation, and the method of the loaded model, which gives what windows do."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for index in range(4):
        sync_runs.write_mp4(folder / f"{index}.mp4", index)
    sync_runs.write_mp4(folder / "silent.mp4", 5, sound=False)  # replaced in training, and counted
    config = sync_runs.config(
        data__train=f"files:{folder}",
        data__eval="bouncing/test",
        data__max_bad_fraction=0.9,
        data__caption_keys="none",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmjax.data.sources.bouncing.TEST_LENGTH", 8)
        assert runs.train(config, tmp_path / "run") is None
    assert runs.lines(tmp_path / "run", "train")[-1]["loss"] > 0
    model = mmjax.load(tmp_path / "run")
    offsets = model.sync_offset([folder / "0.mp4", (folder / "1.mp4").read_bytes()], windows=9)
    assert all(abs(offset.frames) <= 3 for offset in offsets)
    # The same from the frames and the samples themselves, as close as the codecs keep them.
    record = sync_runs.write_mp4(tmp_path / "again.mp4", 0)
    raw = model.sync_offset(
        [record["modalities"]["video"]], [record["modalities"]["audio"]], rates=record["rates"], windows=9
    )
    np.testing.assert_allclose(raw[0].similarities, offsets[0].similarities, atol=0.1)
    with pytest.raises(UserError, match="video 0: no_track: the file has no audio track"):
        model.sync_offset([folder / "silent.mp4"])

    only = tmp_path / "only"
    only.mkdir()
    sync_runs.write_mp4(only / "short.mp4", 0, seconds=1.0)
    changed = sync_runs.config(
        data__train=f"files:{only}", data__eval="", data__caption_keys="none", loss__sync_shifts=15
    )
    with pytest.raises(UserError, match=r"too_short: .*1.00 s of video.*lower loss.sync_shifts") as caught:
        runs.train(changed, tmp_path / "short")
    assert "\n" not in str(caught.value)
