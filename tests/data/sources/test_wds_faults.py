"""Tars of mp4, flac and npy with every fault planted: order, resuming and counts hold, with workers as without."""

import collections
import io
import json
import pickle

import numpy as np
import pytest

from mmjax.data.audio.transform import AudioSpec
from mmjax.data.bad_example import REASONS
from mmjax.data.image.transforms import ImageSpec
from mmjax.data.loading.batches import train_batches
from mmjax.data.loading.example_transforms import PairTransform
from mmjax.data.loading.inputs import InputSpecs, ModalitySpec
from mmjax.data.loading.train_examples import TrainExamples
from mmjax.data.sources.wds import WebDataset
from mmjax.data.text.make_tokenizer import make_tokenizer
from mmjax.data.video.transform import VideoSpec
from tests.data.formats.test_input_files import npy
from tests.helpers.media import frames, make_sound, make_video, tones
from tests.helpers.tar_sets import options, write_tar

MP4 = make_video(pixels=frames(8, (32, 24)), rate=8)  # without sound
FLAC = make_sound("flac", tones(3000, 8000), rate=8000)
SERIES = np.arange(12, dtype=np.float32).reshape(6, 2)
SHARDS, LENGTH, MISSING, CUT = 4, 12, 3, 2  # the last shard is not there, of the one before the last two examples are


def good(number):
    return {"mp4": MP4, "flac": FLAC, "npy": npy(SERIES + number), "txt": f"text {number}".encode()}


def huge():
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 2)})
    return file.getvalue()


def without(name):
    return {name: None}


FAULTS = {
    0: ({"mp4": MP4[:900]}, "corrupt"),
    2: ({"mp4": b""}, "empty"),
    3: ({"mp4": b"<html>404</html>"}, "not_media"),
    5: ({"mp4": FLAC}, "not_media"),
    7: (without("mp4"), "no_input"),
    8: ({"flac": FLAC[:300]}, "corrupt"),
    10: ({"flac": b""}, "empty"),
    11: ({"flac": MP4}, "no_track"),
    13: (without("flac"), "no_track"),  # the video's own sound, of which it has none
    14: ({"flac": make_sound("wav", np.full((4000, 1), np.nan, np.float32), subtype="FLOAT")}, "corrupt"),
    16: ({"npy": pickle.dumps({"a": 1})}, "not_media"),
    17: ({"npy": npy(SERIES)[:-9]}, "corrupt"),
    19: ({"npy": npy(SERIES[:5])}, "other"),
    20: ({"npy": npy(np.full((6, 2), np.inf, np.float32))}, "other"),
    22: (without("npy"), "no_input"),
    23: ({"npy": huge()}, "corrupt"),
    24: (without("txt"), "no_caption"),
    26: ({"txt": b" \n"}, "no_caption"),
    27: ({"txt": b"\xff\xfe\xfa"}, "encoding"),
    29: (dict.fromkeys(("mp4", "flac", "npy")), "no_image"),
    **{number: ({}, "cut") for number in range(MISSING * LENGTH - CUT, MISSING * LENGTH)},
    **{number: ({}, "missing") for number in range(MISSING * LENGTH, SHARDS * LENGTH)},
}
TRANSFORM = PairTransform(
    InputSpecs(
        None,
        (
            ModalitySpec.decoded("video", VideoSpec(image=ImageSpec(size=16, flip=True), frames=2, stride=1)),
            ModalitySpec.decoded("audio", AudioSpec(frames=20, mel_bins=16, time_masks=(1, 4))),
            ModalitySpec("series", (6, 2), nan_allowed=True),
        ),
    ),
    make_tokenizer("bytes", 16),
)


def write(folder, faults):
    folder.mkdir(exist_ok=True)
    for shard in range(SHARDS):
        path, members = folder / f"{shard:05d}.tar", []
        for number in range(shard * LENGTH, (shard + 1) * LENGTH):
            changes, reason = faults.get(number, ({}, ""))
            if reason != "cut":
                contents = good(number) | changes
                members += [(f"{number:05d}.{end}", data) for end, data in contents.items() if data is not None]
        if not faults or shard != MISSING:
            write_tar(path, members)
    (folder / "sizes.json").write_text(json.dumps({f"{shard:05d}.tar": LENGTH for shard in range(SHARDS)}))


def examples_of(folder, faults):
    write(folder, faults)
    chosen = options(folder, order="windowed", image_key="mp4;flac;npy", max_bad_fraction=0.5)
    source = WebDataset(f"{folder}/{{00000..{SHARDS - 1:05d}}}.tar", options=chosen)
    return TrainExamples([(source, 1)], seed=5, transform=TRANSFORM, order="windowed", window=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The examples of two epochs, those of files without any fault, and the examples to make them again."""
    folder = tmp_path_factory.mktemp("tars")
    intact = examples_of(folder / "intact", {})
    expected = [intact[i] for i in range(SHARDS * LENGTH)]
    examples = examples_of(folder / "faults", FAULTS)
    return [examples[i] for i in range(2 * SHARDS * LENGTH)], expected, examples


def test_each_fault_is_counted_once_an_epoch_and_shifts_nothing(made):
    examples, intact, _ = made
    planted = collections.Counter(reason for _, reason in FAULTS.values())
    for epoch in (examples[: len(intact)], examples[len(intact) :]):
        reasons = collections.Counter(REASONS[example["substitution_reason"]] for example in epoch)
        assert reasons == planted + collections.Counter(ok=len(intact) - len(FAULTS))
    for example, expected in zip(examples, intact, strict=False):
        if not example["substitution_reason"]:
            assert all(np.array_equal(example[name], expected[name]) for name in ("video", "audio", "series", "text"))


@pytest.mark.parametrize("settings", [{"threads": 2}, pytest.param({"workers": 2}, marks=pytest.mark.full)])
@pytest.mark.parametrize("start", [0, 5])
def test_workers_and_resuming_from_the_middle_change_nothing(made, settings, start):
    expected, _, examples = made
    rows, stop = 8, 2 * SHARDS * LENGTH // 8
    opened = train_batches(examples, start_step=start, stop_step=stop, global_batch=rows, rows=range(rows), **settings)
    with opened as batches:
        steps = list(batches)
    assert len(steps) == stop - start
    for step, batch in enumerate(steps, start):
        for row in range(rows):
            example = expected[rows * step + row]
            assert batch.keys() == example.keys()
            assert all(np.array_equal(batch[name][row], example[name]) for name in example)
