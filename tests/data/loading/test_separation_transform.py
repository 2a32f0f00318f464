"""Mixtures of training: the same by position, of other ids, with bad partners replaced and counted."""

import dataclasses
import pickle

import numpy as np
import pytest

from mmjax.data.audio.mixture_spectrogram import MixtureSpec
from mmjax.data.bad_example import REASONS, BadExample
from mmjax.data.image.transforms import ImageSpec
from mmjax.data.loading.batches import train_batches
from mmjax.data.loading.inputs import InputSpecs, ModalitySpec
from mmjax.data.loading.separation_transform import SeparationTransform, clip_specs
from mmjax.data.loading.train_examples import TrainExamples
from mmjax.data.video.transform import VideoSpec
from mmjax.errors import UserError

SPEC = MixtureSpec(sample_rate=8000, n_fft=64, hop=32, frames=8, log_bins=0, gain=(1.0, 1.0))
VIDEO = VideoSpec(image=ImageSpec(size=8, train_resize="squash"), frames=2)
TRANSFORM = SeparationTransform(InputSpecs(None, (ModalitySpec.decoded("video", VIDEO),)), SPEC)


class Clips:
    """Sounds of a number's loudness with pictures of its shade; `faults` maps an index to what is raised or changed."""

    name, class_names, templates = "clips", None, None

    def __init__(self, count, faults=None, ids=None):
        self.count, self.faults, self.ids = count, faults or {}, ids

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        fault = self.faults.get(index)
        if isinstance(fault, Exception):
            raise fault
        sound = np.full(SPEC.samples, 0.1 * (index + 1), np.float32)
        modalities = {"video": np.full((2, 8, 8, 3), 20 * index, np.uint8), "audio": sound} | (fault or {})
        rates = {name: rate for name, rate in {"video": 2.0, "audio": 8000.0}.items() if name in modalities}
        return {"id": index if self.ids is None else self.ids[index], "modalities": modalities, "rates": rates}


def make(source, seed=0, transform=TRANSFORM, **options):
    return TrainExamples([(source, 1)], seed=seed, transform=transform, **options)


def loudness(magnitudes):
    """The level of a constant sound, times 10."""
    return round(float(magnitudes[4, 0]) / 32 * 10, 3)


def parts(example):
    """Numbers of the clip and of its partner, by their loudness."""
    clip = loudness(example["target"]) * 2
    return round(clip) - 1, round(loudness(example["mixture"]) * 2 - clip) - 1


def test_an_example_is_a_clip_in_a_mixture_with_another_one():
    examples = make(Clips(6))
    assert set(examples[0]) == {"video", "mixture", "target", "id", "substitution_reason", "text_is_full"}
    pairs = [parts(examples[i]) for i in range(60)]
    assert all(0 <= b < 6 and a != b for a, b in pairs)
    assert len(set(pairs)) > 20  # partners are others from epoch to epoch
    for i, (clip, _) in enumerate(pairs):
        assert examples[i]["id"][0] == clip and examples[i]["video"][0, 0, 0, 0] == 20 * clip
    assert sorted(clip for clip, _ in pairs[:6]) == list(range(6))


def test_a_mixture_is_a_pure_function_of_seed_and_position():
    one, other = make(Clips(9), seed=3), pickle.loads(pickle.dumps(make(Clips(9), seed=3)))
    for i in (17, 2, 40):
        assert all(np.array_equal(one[i][name], other[i][name]) for name in one[i])
    assert [parts(make(Clips(9), seed=4)[i])[1] for i in range(9)] != [parts(one[i])[1] for i in range(9)]


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [2, 0]])
def test_batches_hold_the_mixtures_of_their_positions(rows):
    """Whatever the step that a run begins with, and the rows that a process has."""
    examples = make(Clips(9))
    with train_batches(examples, start_step=3, stop_step=5, global_batch=4, rows=rows, threads=2) as batches:
        for step, batch in enumerate(batches, 3):
            for row, position in enumerate(rows):
                np.testing.assert_array_equal(batch["mixture"][row], examples[4 * step + position]["mixture"])


def test_partners_have_other_ids():
    """Of three clips two have one description: they are mixed with the third alone, and it with either."""
    pairs = {parts(example) for example in map(make(Clips(3, ids=[5, 5, 7])).__getitem__, range(90))}
    assert pairs == {(0, 2), (1, 2), (2, 0), (2, 1)}
    three = SeparationTransform(TRANSFORM.inputs, MixtureSpec(**{**vars(SPEC), "sources": 3}))
    examples = make(Clips(4, ids=[1, 2, 3, 3]), transform=three)
    totals = {round(loudness(examples[i]["mixture"]) * 3) for i in range(60)}
    assert totals == {1 + 2 + 3, 1 + 2 + 4}


def test_bad_clips_and_bad_partners_are_replaced_and_counted():
    faults = {1: BadExample("corrupt", "cut"), 4: {"audio": np.zeros(0, np.float32)}, 5: {"video": None}}
    examples = make(Clips(12, faults))
    counted = {0: [], 1: []}
    for i in range(240):
        _, _, index = examples.locate(i)
        example = examples[i]
        clip, partner = parts(example)
        assert clip not in faults and partner not in (1, 4)
        counted[int(index in faults)].append(REASONS[int(example["substitution_reason"])])
    assert set(counted[1]) == {"corrupt", "empty", "no_input"}
    # A clip that is fine with a first partner that was not; a partner without pictures is one all the same.
    assert {"ok", "corrupt", "empty"} == set(counted[0])
    assert 0.7 < counted[0].count("ok") / len(counted[0]) < 0.95
    alone = [make(Clips(12, {5: {"video": None}}))[i] for i in range(120)]
    assert 5 in {parts(example)[1] for example in alone}


def test_a_source_without_partners_ends_the_run_in_one_line():
    with pytest.raises(
        UserError, match="all had the id of one that was there already; give examples of 2 ids"
    ) as caught:
        make(Clips(3, ids=[1, 1, 1]))[0]
    assert "\n" not in str(caught.value)
    broken = {index: {"audio": np.zeros(0, np.float32)} for index in range(1, 40)}
    with pytest.raises(UserError, match="could not be used"):
        [make(Clips(40, broken), max_tries=3)[i] for i in range(40)]


def test_pictures_and_sound_begin_at_one_time():
    """Of a clip that is longer than a stretch the frames that are seen lie where the sound is from."""

    class Long(Clips):
        def __getitem__(self, index):
            seconds = np.arange(80) // 10
            video = np.broadcast_to((30 * seconds)[:, None, None, None], (80, 8, 8, 3)).astype(np.uint8)
            sound = np.repeat(np.arange(8) + 1, 8000).astype(np.float32) / 10
            modalities, rates = {"video": video, "audio": sound}, {"video": 10.0, "audio": 8000.0}
            return {"id": index, "modalities": modalities, "rates": rates}

    video = VideoSpec(image=ImageSpec(size=8, train_resize="squash"), frames=2, stride=1)
    transform = SeparationTransform(InputSpecs(None, (ModalitySpec.decoded("video", video),)), SPEC)
    seen = []
    for i in range(30):
        example = make(Long(30), transform=transform)[i]
        seen.append((int(example["video"][0, 0, 0, 0]) // 30, loudness(example["target"]) * 2 - 1))
    assert len({second for second, _ in seen}) > 4
    assert all(abs(frame - second) <= 1 for frame, second in seen)


def seconds_seen(sound_seconds, video_seconds, spans=None, rates=True):
    """The first and the last second that evaluation sees of a video, and the one it hears; each has its own level."""
    shades = np.arange(10 * video_seconds) // 10
    video = np.broadcast_to((10 * shades)[:, None, None, None], (len(shades), 8, 8, 3)).astype(np.uint8)
    sound = np.repeat(np.arange(sound_seconds), 8000).astype(np.float32) / 100
    record = {"id": 0, "modalities": {"video": video, "audio": sound}, "rates": {"audio": 8000.0}, "spans": spans or {}}
    record["rates"] |= {"video": 10.0} if rates else {}
    spec = dataclasses.replace(SPEC, frames=241)  # 7680 samples, 0.96 s
    arrays = clip_specs(TRANSFORM.inputs, spec).evaluate(record)
    first, last = arrays["video"][[0, -1], 0, 0, 0] // 10
    middle = sound if spans is None else sound[slice(*(int(8000 * second) for second in spans["audio"]))]
    np.testing.assert_array_equal(arrays["audio"], spec.prepare(middle, None, rate=8000.0))
    return int(first), int(last), round(100 * float(arrays["audio"][spec.samples // 2]))


@pytest.mark.parametrize(
    ("case", "seen"),
    [
        (dict(sound_seconds=21, video_seconds=21), (10, 10, 10)),
        (dict(sound_seconds=21, video_seconds=21, spans=dict(video=(2.0, 7.0), audio=(2.0, 7.0))), (4, 4, 4)),
        (dict(sound_seconds=21, video_seconds=21, spans=dict(video=(12.0, 17.0), audio=(2.0, 7.0))), (14, 14, 4)),
        (dict(sound_seconds=21, video_seconds=5), (4, 4, 10)),  # its last second
        (dict(sound_seconds=21, video_seconds=21, rates=False), (5, 15, 10)),  # not timed: all of it
    ],
    ids=["middle", "spans", "spans of their own", "short video", "no rate"],
)
def test_evaluation_sees_what_is_shown_while_the_middle_of_a_sound_is_heard(case, seen):
    assert seconds_seen(**case) == seen


def test_a_sound_that_is_no_longer_than_a_stretch_leaves_its_video():
    record = Clips(3)[2]
    record["modalities"]["video"] = np.arange(8, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    arrays = clip_specs(TRANSFORM.inputs, SPEC).evaluate(record)
    np.testing.assert_array_equal(arrays["video"], VIDEO.prepare(record["modalities"]["video"], None))
    np.testing.assert_array_equal(arrays["audio"], record["modalities"]["audio"])
