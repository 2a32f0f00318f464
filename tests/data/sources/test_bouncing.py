import numpy as np
import pytest

from mmjax.data.mixture import open_source
from mmjax.data.record import record_mistake
from mmjax.data.source_protocols import HasModalities, Source
from mmjax.data.sources.bouncing import GAPS, Bouncing
from mmjax.errors import UserError


@pytest.fixture(scope="module")
def scenes():
    source = Bouncing("train")
    return [source[i] for i in range(60)]


def seen(record):
    """Seconds of the bounces that the picture shows: when the ball turns round, between two frames."""
    video, rate = record["modalities"]["video"].astype(np.float32), record["rates"]["video"]
    moved = np.abs(video - np.median(video, axis=0)).sum(-1) > 60  # what is not the background
    centres = np.array([np.argwhere(frame).mean(axis=0) for frame in moved])
    along = centres[:, np.argmax(centres.std(axis=0))]
    turns = [i for i in range(1, len(along) - 1) if (along[i] - along[i - 1]) * (along[i + 1] - along[i]) <= 0]
    return np.array(turns) / rate


def heard(record):
    """Seconds of the clicks: where the energy of 5 ms rises to several times what it was."""
    audio, rate = record["modalities"]["audio"].astype(np.float64), record["rates"]["audio"]
    width = int(rate // 200)
    energy = (audio[: len(audio) // width * width].reshape(-1, width) ** 2).sum(axis=1)
    before = np.maximum.reduce([np.roll(energy, 1), np.roll(energy, 2)])
    rises = np.flatnonzero((energy > 3 * before) & (energy > 0.1))
    return rises[np.diff(rises, prepend=-100) > 20] * width / rate


def test_it_is_a_source_of_valid_records(scenes):
    source = open_source("bouncing/test")
    assert isinstance(source, Source) and isinstance(source, HasModalities)
    assert len(source) == 1000 and source.name == "bouncing"
    assert not any(record_mistake(record) for record in scenes)
    video, audio = scenes[0]["modalities"]["video"], scenes[0]["modalities"]["audio"]
    assert (video.shape, audio.shape) == (source.modality_shapes["video"], source.modality_shapes["audio"])
    assert video.shape == (30, 32, 32, 3) and video.dtype == np.uint8
    assert audio.shape == (24000,) and audio.dtype == np.float32 and np.abs(audio).max() <= 1


def test_an_example_is_a_function_of_split_and_index(scenes):
    again = Bouncing("train")[7]
    assert (again["modalities"]["video"] == scenes[7]["modalities"]["video"]).all()
    assert (again["modalities"]["audio"] == scenes[7]["modalities"]["audio"]).all()
    other = Bouncing("test")[7]
    assert other["id"] != again["id"] and other["annotation"] != again["annotation"]


def test_bounces_come_at_irregular_times_all_along(scenes):
    for record in scenes:
        gaps = np.diff([0.0, *record["annotation"]["bounce_times"], 3.0])
        assert gaps.max() <= GAPS[1] and gaps[1:-1].min() >= GAPS[0]
    gaps = np.concatenate([np.diff(record["annotation"]["bounce_times"]) for record in scenes])
    assert gaps.std() > 0.1
    first = np.array([record["annotation"]["bounce_times"][0] for record in scenes])
    assert first.min() < 0.1  # the beginning of a scene is no pause


def test_bounces_are_seen_and_heard_when_they_are(scenes):
    """Measured from pixels and samples alone."""
    for record in scenes:
        times = np.array([time for time in record["annotation"]["bounce_times"] if 0.1 < time < 2.75])
        turns, clicks = seen(record), heard(record)
        assert all(np.abs(turns - time).min() <= 0.101 for time in times)  # a frame is 100 ms
        assert all(np.abs(clicks - time).min() <= 0.006 for time in times)


def test_rates_sizes_and_lengths():
    record = Bouncing("test", frames=25, seconds=2.0, size=48, sample_rate=16000, length=3)[2]
    assert record["modalities"]["video"].shape == (50, 48, 48, 3)
    assert record["modalities"]["audio"].shape == (32000,)
    assert record["rates"] == {"video": 25.0, "audio": 16000.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "val"}, "split='val' is not known"),
        ({"frames": 4}, "frames=4 is too small"),
        ({"seconds": 0.5}, "seconds=0.5 is too small"),
        ({"length": 0}, "length=0: give a positive number"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        Bouncing(**arguments)
    assert "\n" not in str(caught.value)
