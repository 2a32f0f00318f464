import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mmjax.data.mixture import open_source, parse_mixture
from mmjax.data.source_protocols import Sharded, SourceOptions
from mmjax.data.sources.tfds import Tfds
from mmjax.errors import UserError
from tests.helpers.source_checks import check_source, png, reasons


def prepare(data_dir, name: str, features: dict, examples: list[dict]) -> None:
    """Has TFDS write a data set with two splits, in three shards."""

    def make_info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def split_generators(self, manager):
        return {"train": enumerate(examples), "test": enumerate(examples[:3])}

    members = {
        "VERSION": tfds.core.Version("1.0.0"),
        "_info": make_info,
        "_split_generators": split_generators,
        "_generate_examples": lambda self: None,
        # As if of a plain module: for one of a package TFDS wants importlib_resources, which is not its dependency.
        "__module__": "test_tfds",
    }
    builder_class = type(name, (tfds.core.GeneratorBasedBuilder,), members, skip_registration=True)
    builder = builder_class(data_dir=str(data_dir), file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=3))


def image(i: int) -> io.BytesIO:
    return io.BytesIO(png(i))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    prepare(
        folder,
        "Captioned",
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "image/filename": tfds.features.Text(),
            "captions": tfds.features.Sequence({"id": tfds.features.Scalar(np.int64), "text": tfds.features.Text()}),
            "objects": tfds.features.Sequence({"label": tfds.features.Scalar(np.int64)}),
        },
        [
            {
                "image": image(i),
                "image/filename": f"{i}.png",
                "captions": [{"id": i, "text": f"a {i}"}, {"id": i, "text": f"größe {i}"}],
                "objects": [],
            }
            for i in range(10)
        ],
    )
    prepare(
        folder,
        "Classes",
        {
            "img": tfds.features.Image(),
            "coarse": tfds.features.ClassLabel(names=["animal"]),
            "label": tfds.features.ClassLabel(names=["cat", "dog", "hen"]),
        },
        [{"img": image(i), "coarse": 0, "label": i % 3 if i < 8 else -1} for i in range(9)],
    )
    return str(folder)


@pytest.fixture
def in_data_dir(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", data_dir)
    return data_dir


def value(record) -> int:
    return int(re.search(r"\d+", record["captions"][0])[0])


def test_a_set_with_captions_is_as_tfds_reads_it(in_data_dir):
    source = open_source("tfds:captioned/train")
    values = [value(source[i]) for i in range(10)]
    check_source(source, values)
    builder = tfds.builder_from_directory(f"{in_data_dir}/captioned/1.0.0")
    theirs = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    assert len(theirs) == len(source) == 10
    for i in range(10):
        assert source[i]["image"] == theirs[i]["image"]
        assert source[i]["captions"] == [text.decode() for text in theirs[i]["captions"]["text"]]
    assert isinstance(source, Sharded) and sum(source.shard_lengths) == 10 and len(source.shard_lengths) == 3
    assert source.name == "captioned/train" and source.class_names is None
    assert len({source[i]["id"] for i in range(10)}) == 10


def test_classes_have_names_and_make_captions(in_data_dir):
    source = open_source("tfds:classes:1.0.0/train")
    theirs = tfds.builder_from_directory(f"{in_data_dir}/classes/1.0.0").as_data_source("train")
    assert source.class_names == theirs.dataset_info.features["label"].names == ["cat", "dog", "hen"]
    failures = reasons(source)
    assert sorted(failures) == ["no_caption"] + ["ok"] * 8
    for i in range(9):
        label = int(theirs[i]["label"])
        assert (label == -1) == (failures[i] == "no_caption")
        if label >= 0:
            name = source.class_names[label]
            assert source[i]["label"] == label and source[i]["captions"] == [t.format(c=name) for t in source.templates]
    same = [source[i]["id"] for i in range(9) if failures[i] == "ok" and source[i]["label"] == 1]
    assert len(same) == 3 and len(set(same)) == 1
    options = SourceOptions(caption_keys="captions.text")
    assert open_source("tfds:captioned/test", options)[0]["captions"][0].startswith("a ")


@pytest.mark.parametrize("split", ["train[2:5]", "train[:50%]", "train[-3:]+test", "test"])
def test_slices_are_those_of_tfds(in_data_dir, split):
    for name in ("captioned", f"{in_data_dir}/captioned/1.0.0"):
        (source, weight), _ = parse_mixture(f"tfds:{name}/{split}@2+synthetic/9")
        theirs = tfds.builder_from_directory(f"{in_data_dir}/captioned/1.0.0").as_data_source(
            split, decoders={"image": tfds.decode.SkipDecoding()}
        )
        assert weight == 2 and [record["image"] for record in source] == [example["image"] for example in theirs]


def test_it_is_read_where_tensorflow_cannot_be_imported(data_dir, tmp_path):
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("raise RuntimeError('TensorFlow was imported')")
    program = """
import json, sys
from mmjax.data.mixture import open_source
captioned, classes = open_source("tfds:captioned/train"), open_source("tfds:classes/test")
assert not [name for name in sys.modules if name.partition(".")[0] in ("tensorflow", "keras")]
print(json.dumps([[record["image"].hex(), *record["captions"]] for record in captioned] + [classes[0]["label"]]))
"""
    environment = {**os.environ, "TFDS_DATA_DIR": data_dir, "PYTHONPATH": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=120)
    assert run.returncode == 0, run.stderr
    *records, label = json.loads(run.stdout)
    assert sorted(records) == sorted([png(i).hex(), f"a {i}", f"größe {i}"] for i in range(10)) and label in (0, 1)


def test_mistakes_are_named(in_data_dir):
    for path, words in {
        "captioned": r"no split; write tfds:NAME/SPLIT",
        "captioned/trian": r"split='trian' is not known \(did you mean 'train'\?\); choose one of: test, train",
        "captioned/train[5%": r"split 'train\[5%' cannot be read",
        "captioned/train[4:4]": r"split .* has no examples",
        "captoined/train": r"'captoined' is not prepared in .*it has captioned, classes.*did you mean 'captioned'",
        "captioned:3.0.0/train": r"'captioned:3.0.0' is not prepared in .*check version and config",
        "/no/where/1.0.0/train": r"no dataset_info.json in '/no/where/1.0.0'; give a version's folder",
        f"{in_data_dir}/captioned/train": r"no dataset_info.json in .*give a version's folder",
    }.items():
        with pytest.raises(UserError, match=words) as error:
            Tfds(path, field="data.eval")
        assert str(error.value).startswith(f"data.eval='tfds:{path}'") and "\n" not in str(error.value)
    with pytest.raises(UserError, match="no field 'txet', found .*'captions/text'"):
        Tfds("captioned/train", options=SourceOptions(caption_keys="txet"))
    with pytest.raises(UserError, match="field 'image/filename' holds no encoded images, but 'image' could"):
        Tfds("captioned/train", options=SourceOptions(image_key="image/filename"))


@pytest.fixture
def copied(in_data_dir, tmp_path):
    """A copy of the captioned set that a test may damage."""
    subprocess.run(["cp", "-r", f"{in_data_dir}/captioned/1.0.0", str(tmp_path / "1.0.0")], check=True)
    return tmp_path / "1.0.0"


def test_another_format_is_refused_with_the_command_that_converts_it(copied):
    info = json.loads((copied / "dataset_info.json").read_text())
    (copied / "dataset_info.json").write_text(json.dumps({**info, "fileFormat": "tfrecord"}))
    with pytest.raises(UserError, match=f"is in tfrecord format.*--dataset_version_dir={copied} --out_file_format"):
        Tfds(f"{copied}/train")
    # One that has been converted in place says so, and is read.
    both = {**info, "fileFormat": "tfrecord", "alternativeFileFormats": ["array_record"]}
    (copied / "dataset_info.json").write_text(json.dumps(both))
    assert len(Tfds(f"{copied}/train")) == 10


def test_missing_and_damaged_files_are_counted_or_refused(copied):
    source = Tfds(f"{copied}/train")
    files = sorted(copied.glob("*train*"))
    files[0].unlink()
    files[1].write_bytes(b"not an ArrayRecord file")
    first, second, third = source.shard_lengths.tolist()
    assert reasons(source) == ["missing"] * first + ["corrupt"] * second + ["ok"] * third
    files[1].unlink()
    files[2].unlink()
    with pytest.raises(UserError, match=f"{files[0]}' is not there, nor any other"):
        Tfds(f"{copied}/train")
    (copied / "features.json").write_text("{")
    with pytest.raises(UserError, match="cannot be opened .*prepare the set again"):
        Tfds(f"{copied}/train")


def test_without_the_package_the_command_that_installs_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match=r"needs tensorflow_datasets.*pip install 'mmjax\[tfds\]'"):
        Tfds("captioned/train")
