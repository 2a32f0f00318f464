import logging
import os
import pickle

import pytest

from mmjax.data.source_protocols import Sharded, SourceOptions
from mmjax.data.sources import arrayrecord
from mmjax.data.sources.arrayrecord import ArrayRecords, RecordFiles
from mmjax.errors import UserError
from tests.helpers.source_checks import check_source, count_substitutions, png, reasons
from tests.helpers.tf_examples import serialize, write_records


def example(i: int, **features) -> bytes:
    return serialize({"image": png(i), "caption": f"caption {i}", "size": [4, 4], **features})


@pytest.fixture
def shards(tmp_path):
    for shard, (start, stop) in enumerate([(0, 4), (4, 5), (5, 11)]):
        write_records(tmp_path / f"train-{shard:05d}-of-00003.array_record", [example(i) for i in range(start, stop)])
    return str(tmp_path)


@pytest.mark.parametrize("pattern", ["train-{00000..00002}-of-00003.array_record", "train-*"])
def test_examples_are_as_protobuf_wrote_them(shards, pattern):
    source = ArrayRecords(f"{shards}/{pattern}")
    check_source(source, list(range(11)))
    assert isinstance(source, Sharded) and source.shard_lengths.tolist() == [4, 1, 6] and source.name == "train"
    assert source[6]["captions"] == ["caption 6"] and source[6]["path"].endswith("00002-of-00003.array_record[1]")
    assert len({source[i]["id"] for i in range(11)}) == 11


def test_features_are_chosen_by_key(tmp_path):
    features = {"image/encoded": png(7), "caption": [], "alt": ["a", "b"], "texts/ragged_flat_values": ["c", " "]}
    write_records(tmp_path / "a", [serialize(features)])
    options = SourceOptions(image_key="image/encoded", caption_keys="alt@3+caption@2")
    record = ArrayRecords(str(tmp_path / "a"), options=options)[0]
    assert record["captions"] == ["a", "b"] and record["caption_weights"] == [1.5, 1.5] and record["image"] == png(7)
    with pytest.raises(UserError, match="no field 'altt', found 'alt', 'caption', .*did you mean 'alt'"):
        ArrayRecords(str(tmp_path / "a"), options=SourceOptions(caption_keys="altt"))
    with pytest.raises(UserError, match="images: looked for jpg, found 'alt', 'caption', 'image/encoded'"):
        ArrayRecords(str(tmp_path / "a"), options=SourceOptions(image_key="jpg"))


def test_bad_examples_and_files_are_counted(tmp_path):
    bad = [
        serialize({"caption": "no image"}),
        example(1, image=[]),
        example(2, image=b""),
        example(3, caption=" "),
        serialize({"image": png(4)}),
        b"no proto",
        example(6, image=[1, 2]),
        example(7),
    ]
    write_records(tmp_path / "a", bad)
    for name in "bcd":
        # Random bytes, so that a chunk of the file is one record and damage hits one.
        write_records(tmp_path / name, [example(i, noise=os.urandom(3000)) for i in range(8, 40)])
    source = ArrayRecords(f"{tmp_path}/[abcd]")
    data = bytearray((tmp_path / "b").read_bytes())
    data[40_000:40_010] = bytes(byte ^ 255 for byte in data[40_000:40_010])
    (tmp_path / "b").write_bytes(data)
    (tmp_path / "c").unlink()
    (tmp_path / "d").write_bytes(data[:70_000])
    failures = reasons(source)
    assert failures[:8] == ["no_image", "no_image", "ok", "no_caption", "no_caption", "corrupt", "not_image", "ok"]
    assert sorted(failures[8:40]) == ["corrupt"] + ["ok"] * 31
    assert failures[40:] == ["missing"] * 32 + ["corrupt"] * 32
    counted = count_substitutions(source)
    assert counted["missing"] == 32 and counted["corrupt"] == 34 and counted["empty"] == 1 and counted["ok"] == 32


def test_files_that_cannot_be_read_are_named(shards, tmp_path):
    (tmp_path / "text").write_bytes(b"image,caption\n" * 9)
    write_records(tmp_path / "none", [])
    write_records(tmp_path / "other", [b"\xff\xff", b"\xff"])
    for pattern, words in {
        "gone": "gone' cannot be read .no such file.*check the pattern",
        "gone*": "no file matches",
        "": "cannot be read .Is a directory.*check the pattern",
        "text": "text: no complete ArrayRecord file .*leave the file out or write it again",
        "none": "no records",
        "other": "none of 2 records looked at is a tf.train.Example proto",
    }.items():
        with pytest.raises(UserError, match=words) as error:
            ArrayRecords(f"{tmp_path}/{pattern}", field="data.eval")
        assert str(error.value).startswith("data.eval='arrayrecord:") and "\n" not in str(error.value)
    with pytest.raises(UserError, match="gs://.*local paths; mount the bucket"):
        ArrayRecords("gs://bucket/train-*")


def test_files_written_in_groups_are_read_and_warned_of(tmp_path, caplog):
    write_records(tmp_path / "a", [example(i) for i in range(10)], group_size=5)
    with caplog.at_level(logging.WARNING, "mmjax.data"):
        check_source(ArrayRecords(str(tmp_path / "a")), list(range(10)))
    assert len(caplog.records) == 1 and "group_size:5" in caplog.text


def test_few_files_are_open_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(arrayrecord, "_OPEN_FILES", 4)
    for i in range(40):
        write_records(tmp_path / f"{i:02d}", [b"%d" % i, b"x"])
    files = RecordFiles([f"{tmp_path}/{i:02d}" for i in range(40)], [0] * 40, [2] * 40)

    def open_files():
        return sum(
            os.path.realpath(f"/proc/self/fd/{fd}").startswith(str(tmp_path)) for fd in os.listdir("/proc/self/fd")
        )

    before = open_files()
    assert [files[2 * i] for i in range(40)] == [b"%d" % i for i in range(40)]
    assert open_files() - before <= 5
    assert pickle.loads(pickle.dumps(files))[2] == b"1"
