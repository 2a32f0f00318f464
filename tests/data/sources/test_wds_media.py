"""Videos, sounds and arrays in tars: their records, what is missing, classes, and counts of bad examples."""

import collections
import dataclasses
import json
import pickle

import numpy as np
import pytest

from mmjax.data.audio.transform import AudioSpec
from mmjax.data.bad_example import REASONS, BadExample
from mmjax.data.image.transforms import ImageSpec
from mmjax.data.loading.batches import train_batches
from mmjax.data.loading.example_transforms import id_words
from mmjax.data.loading.train_examples import TrainExamples
from mmjax.data.record import record_mistake
from mmjax.data.sources.wds import WebDataset
from mmjax.data.video.transform import VideoSpec
from mmjax.errors import UserError
from tests.data.formats.test_input_files import npy
from tests.helpers.media import make_sound, make_video, tones
from tests.helpers.source_checks import png
from tests.helpers.tar_sets import options, write_tar

MP4, FLAC, SILENT = make_video(sound="aac"), make_sound("flac"), make_video("vp9.webm")
SERIES = np.arange(20, dtype=np.float32).reshape(10, 2)


def write(tmp_path, *examples):
    """A tar of examples, each a mapping of endings to contents."""
    members = [(f"{i:04d}.{ending}", content) for i, parts in enumerate(examples) for ending, content in parts.items()]
    write_tar(tmp_path / "set.tar", members)
    return f"{tmp_path}/set.tar"


def test_members_are_modalities(tmp_path):
    path = write(
        tmp_path,
        {"mp4": MP4, "txt": b"a video"},
        {"flac": FLAC, "json": json.dumps({"caption": ["a sound", "a tone"]}).encode()},
        {"webm": SILENT, "wav": FLAC, "jpg": png(1), "txt": b"all"},
        {"npy": npy(SERIES), "txt": b"a series"},
        {"jpg": png(2), "npy": pickle.dumps({}), "txt": b"an image beside what is none of its inputs"},
    )
    source = WebDataset(path, options=options(tmp_path))
    records = [source[i] for i in range(5)]
    assert not any(map(record_mistake, records))
    assert records[0]["modalities"] == {"video": MP4, "audio": MP4} and "image" not in records[0]
    assert records[0]["captions"] == ["a video"] and records[0]["path"] == f"{path}/0000.mp4"
    assert records[1]["modalities"] == {"audio": FLAC} and records[1]["captions"] == ["a sound", "a tone"]
    assert records[2]["modalities"] == {"video": SILENT, "audio": FLAC} and records[2]["image"] == png(1)
    np.testing.assert_array_equal(records[3]["modalities"]["series"], SERIES)
    assert records[4]["image"] == png(2) and "modalities" not in records[4]


def test_the_config_names_what_counts(tmp_path):
    path = write(tmp_path, {"mp4": MP4, "wav": FLAC, "jpg": png(1), "npy": npy(SERIES), "txt": b"all"})
    record = WebDataset(path, options=options(tmp_path, image_key="npy;jpg"))[0]
    assert record["image"] == png(1) and record["modalities"].keys() == {"series"}
    assert WebDataset(path, options=options(tmp_path, image_key="mp4"))[0]["modalities"].keys() == {"video", "audio"}
    assert "modalities" not in WebDataset(path, options=options(tmp_path, image_key="jpg"))[0]


def test_arrays_that_cannot_be_read_are_bad_examples(tmp_path):
    path = write(tmp_path, {"npy": npy(SERIES), "txt": b"a"}, {"npy": pickle.dumps({}), "txt": b"b"})
    source = WebDataset(path, options=options(tmp_path))
    with pytest.raises(BadExample, match=r"not_media: .*set.tar/0001: .* no .npy file"):
        source[1]


@pytest.mark.parametrize(
    ("ending", "content", "prompt"),
    [("mp4", MP4, "a video of a dog."), ("wav", FLAC, "the sound of a dog."), ("jpg", png(0), "a photo of a a dog.")],
)
def test_classes(tmp_path, ending, content, prompt):
    (tmp_path / "classnames.txt").write_text("a cat\na dog\n")
    path = write(tmp_path, {ending: content, "cls": b"1"}, {ending: content, "cls": b"0"})
    source = WebDataset(path, options=options(tmp_path))
    assert source.class_names == ["a cat", "a dog"] and source[0]["label"] == 1
    assert source[0]["captions"][0] == prompt


def test_evaluation_is_on_all_of_a_set(tmp_path):
    path = write(tmp_path, {"mp4": MP4, "txt": b"a"}, {"mp4": MP4}, {"txt": b"b"})
    with pytest.raises(UserError, match="2 of 3 examples lack an image, a video, a sound or a text"):
        WebDataset(path, options=options(tmp_path, keys_field="eval"), field="data.eval")


@dataclasses.dataclass(frozen=True)
class _Prepared:
    """Both modalities of an example, by the specs under test."""

    video: VideoSpec = VideoSpec(image=ImageSpec(size=16, flip=True), frames=2, stride=1)
    audio: AudioSpec = AudioSpec(preset="ast", frames=20)

    def __call__(self, record, rng):
        arrays = {"id": id_words(record["id"])}
        for name, spec in (("video", self.video), ("audio", self.audio)):
            if name not in record["modalities"]:
                raise BadExample("no_input", name)
            arrays[name] = spec.prepare(record["modalities"][name], rng)
        return arrays


GOOD = {"mp4": MP4, "wav": make_sound("wav", tones(4000, 8000), rate=8000), "txt": b"good"}
FAULTS = {
    3: ({**GOOD, "mp4": MP4[:900]}, "corrupt"),
    5: ({**GOOD, "mp4": b""}, "empty"),
    6: ({**GOOD, "mp4": b"<html>404</html>"}, "not_media"),
    8: ({"mp4": SILENT, "txt": b"no sound"}, "no_track"),
    9: ({"wav": GOOD["wav"], "txt": b"no video"}, "no_input"),
    11: ({**GOOD, "wav": GOOD["wav"][:300]}, "corrupt"),
    13: ({**GOOD, "wav": make_sound("wav", np.zeros((0, 1), np.float32))}, "empty"),
    14: ({**GOOD, "wav": b"ID3 or not"}, "corrupt"),
    16: ({**GOOD, "mp4": make_sound("flac")}, "not_media"),
    17: ({**GOOD, "wav": make_sound("wav", np.full((4000, 1), np.nan, np.float32), subtype="FLOAT")}, "corrupt"),
}
COUNT = 20


def examples_of(folder, faults):
    folder.mkdir()
    path = write(folder, *(faults.get(i, (GOOD, ""))[0] for i in range(COUNT)))
    return TrainExamples([(WebDataset(path, options=options(folder)), 1)], seed=0, transform=_Prepared())


def test_faults_are_counted_and_replaced(tmp_path):
    """A fault in place of a good example is counted by its reason, and nothing else shifts."""
    examples, intact = examples_of(tmp_path / "faults", FAULTS), examples_of(tmp_path / "intact", {})
    epoch = [examples[i] for i in range(COUNT)]
    reasons = collections.Counter(REASONS[example["substitution_reason"]] for example in epoch)
    planted = collections.Counter(reason for _, reason in FAULTS.values())
    assert reasons == planted + collections.Counter(ok=COUNT - len(FAULTS))
    for i, example in enumerate(epoch):
        if not example["substitution_reason"]:
            np.testing.assert_array_equal(example["video"], intact[i]["video"])
            np.testing.assert_array_equal(example["audio"], intact[i]["audio"])


@pytest.mark.parametrize("settings", [{"threads": 3}, pytest.param({"workers": 2}, marks=pytest.mark.full)])
@pytest.mark.parametrize("start", [0, 3])
def test_threads_workers_and_resuming_change_nothing(tmp_path, settings, start):
    examples = examples_of(tmp_path / "faults", FAULTS)
    made = train_batches(examples, start_step=start, stop_step=5, global_batch=4, rows=range(4), **settings)
    with made as batches:
        for step, batch in enumerate(batches, start):
            for row in range(4):
                expected = examples[4 * step + row]
                assert all(np.array_equal(batch[name][row], expected[name]) for name in expected)
    assert step == 4


def test_examples_without_texts(tmp_path):
    """For contrast between videos and their sounds."""
    path = write(tmp_path, {"mp4": MP4}, {"mp4": MP4, "txt": b"not read"}, {"json": b"{}"})
    with pytest.raises(UserError, match="none has caption, json, txt|lack"):
        WebDataset(path, options=options(tmp_path, keys_field="eval"), field="data.eval")
    source = WebDataset(path, options=options(tmp_path, caption_keys="none"))
    assert source[0].keys() == {"id", "modalities", "path"} == source[1].keys() and not record_mistake(source[0])
    with pytest.raises(UserError, match="1 of 3 examples lack an image, a video, a sound; evaluation"):
        WebDataset(path, options=options(tmp_path, keys_field="eval", caption_keys="none"), field="data.eval")
