"""What an example of a tar is, and which shards a pattern stands for."""

import collections
import json
import os
import random
import tarfile

import numpy as np
import pytest

from mmjax.data.bad_example import BadExample
from mmjax.data.mixture import open_source, parse_mixture
from mmjax.data.record import stable_id
from mmjax.data.source_protocols import Sharded
from mmjax.data.sources.wds import WebDataset
from mmjax.errors import UserError
from tests.helpers.tar_sets import LENGTHS, TOTAL, example, jpeg, mutate, number_of, options, write_set, write_tar

# Which shards.


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{00000..00003}.tar", ["00000.tar", "00001.tar", "00002.tar", "00003.tar"]),
        ("{00002..00000}.tar", ["00002.tar", "00001.tar", "00000.tar"]),
        ("0000{1,3}.tar", ["00001.tar", "00003.tar"]),
        ("*.tar", ["00000.tar", "00001.tar", "00002.tar", "00003.tar"]),
        ("0000[12].tar", ["00001.tar", "00002.tar"]),
        ("", ["00000.tar", "00001.tar", "00002.tar", "00003.tar"]),
        ("00003.tar::00000.tar", ["00003.tar", "00000.tar"]),
    ],
)
def test_a_pattern_stands_for_shards_in_order(tmp_path, pattern, names):
    folder = write_set(tmp_path / "a+b@2,c", stats=False)
    pattern = "::".join(f"{folder}/{part}" for part in pattern.split("::"))
    ((source, weight),) = parse_mixture(f"wds:{pattern}@0.5", options(tmp_path))
    assert weight == 0.5 and source.name == "a+b@2,c" and isinstance(source, Sharded)
    assert source.shard_lengths.tolist() == [LENGTHS[int(name[:5])] for name in names]
    assert source.shard_lengths.dtype == np.int64
    firsts = np.cumsum((0, *LENGTHS))
    expected = [n for name in names for n in range(firsts[int(name[:5])], firsts[int(name[:5]) + 1])]
    assert [number_of(source[i]) for i in range(len(source))] == expected


def test_sets_in_several_folders_are_joined_and_keep_their_ids_apart(tmp_path):
    one, two = write_set(tmp_path / "cc3m", stats=False), write_set(tmp_path / "cc12m", stats=False)
    source = open_source(f"wds:{one}::{two}/{{00000..00003}}.tar", options(tmp_path))
    assert len(source) == 2 * TOTAL
    assert len({source[i]["id"] for i in range(len(source))}) == 2 * TOTAL


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("wds:{0}/none*.tar", "no file matches"),
        ("wds:{0}/nowhere", "no examples in the one shard|no such"),
        ("wds:{0}/empty", "no \\*.tar in"),
        ("wds:{0}/set::", "nothing on one side"),
        ("wds:pipe:cat {0}/set/00000.tar", "commands are not run"),
        ("wds:{0}/{{7..9}}.tar", "no examples in any of 3 shards .7.tar: missing.*check the pattern"),
        ("wds:", "names no data"),
    ],
)
def test_mistakes_in_the_pattern_are_told(tmp_path, spec, message):
    write_set(tmp_path / "set")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message) as error:
        open_source(spec.format(tmp_path), options(tmp_path))
    assert "data.train" in str(error.value) and "\n" not in str(error.value)


# What an example is.


def one_example(tmp_path, members, **fields):
    write_tar(tmp_path / "s.tar", members)
    return WebDataset(str(tmp_path / "s.tar"), options=options(tmp_path, **fields))[0]


CAPTIONED = [("k.jpg", b"J"), ("k.json", b'{"caption": "a", "deep": {"er": "b"}, "n": 3}'), ("k.txt", b"t")]
TOLD = json.dumps({"caption": "from json", "deep": {"er": ["x", " y "]}, "n": 3}).encode()


@pytest.mark.parametrize(
    ("names", "fields", "captions"),
    [
        ({"txt": b" plain \n", "json": TOLD}, {}, ["plain"]),
        ({"json": TOLD}, {}, ["from json"]),
        ({"caption": b"c"}, {}, ["c"]),
        ({"TXT": b"upper"}, {}, ["upper"]),
        ({"txt": b"two\nlines"}, {}, ["two\nlines"]),
        ({"txt": b"plain", "json": TOLD}, {"caption_keys": "json:deep.er"}, ["x", "y"]),
        ({"txt": b"plain", "json": TOLD}, {"caption_keys": "json:caption@3+txt"}, ["from json", "plain"]),
        ({"txt": "ünï".encode("latin-1")}, {"encoding": "latin-1"}, ["ünï"]),
        ({"txt": b"['a', 'b']"}, {}, ["a", "b"]),
        ({"json": b"{broken", "txt": b"t"}, {}, ["t"]),
        ({"txt": b"x" * 100_000}, {}, ["x" * 100_000]),
    ],
)
def test_captions_are_found_where_the_keys_say(tmp_path, names, fields, captions):
    record = one_example(tmp_path, [("k.jpg", b"J"), *((f"k.{name}", data) for name, data in names.items())], **fields)
    assert record["captions"] == captions and record["image"] == b"J"
    if "@" in fields.get("caption_keys", ""):
        assert record["caption_weights"] == [3, 1]


@pytest.mark.parametrize(
    ("names", "key", "image"),
    [
        (["png", "jpg"], "", "jpg"),
        (["PNG", "webp"], "", "PNG"),
        (["jpg", "seg.png", "left.jpg"], "left.jpg;jpg", "left.jpg"),
        (["jpg", "png"], "png;jpg", "png"),
    ],
)
def test_the_image_is_the_first_member_under_the_wanted_endings(tmp_path, names, key, image):
    members = [(f"d.e/k.{name}", name.encode()) for name in names]
    record = one_example(tmp_path, [*members, ("d.e/k.txt", b"c")], image_key=key)
    assert record["image"] == image.encode()
    assert record["id"] == stable_id("image", str(tmp_path / "s.tar"), "d.e/k") and record["path"].endswith(
        image.lower()
    )


def test_every_missing_part_has_its_reason(tmp_path):
    members = [*example(0), ("1.txt", b"x"), ("2.jpg", jpeg(2)), ("3.jpg", jpeg(3)), ("3.txt", b" \n")]
    write_tar(tmp_path / "s.tar", members)
    source = WebDataset(str(tmp_path / "s.tar"), options=options(tmp_path))
    reasons = []
    for index in range(1, 4):
        with pytest.raises(BadExample) as error:
            source[index]
        reasons.append(error.value.reason)
    assert len(source) == 4 and reasons == ["no_image", "no_caption", "no_caption"]
    with pytest.raises(IndexError):
        source[4]


@pytest.mark.parametrize(
    ("members", "fields", "message"),
    [
        ([("k.pdf", b""), ("k.txt", b"")], {}, "1 examples have pdf, txt; none has jpg, .*data.image_key"),
        ([("k.jpg", b""), ("k.cls", b"")], {}, "1 examples have cls, jpg; none has caption, json, txt .*caption_keys"),
        ([("k.jpg", b""), ("k.txt", b"")], {"image_key": "png"}, "none has png; set data.image_key"),
        ([("k.jpg", b""), ("k.txt", b"")], {"caption_keys": "json:caption"}, "none has json for captions"),
        ([("k.jpg", b""), ("k.txt", b"")], {"caption_keys": "txt2"}, "none has txt2 .*mean 'txt'.*data.caption_keys"),
        ([("k.jpg", b""), ("k.txt", b"")], {"image_key": "png", "keys_field": "eval"}, "set eval.image_key"),
        (CAPTIONED, {"caption_keys": "nope@0.9+txt@0.1"}, "keys='nope@0.9.txt@0.1': 1 examples .* none has 'nope'"),
        (CAPTIONED, {"caption_keys": "json:captoin@0.7+txt@0.3"}, "under 'json:captoin' in 1 .*mean 'json:caption'"),
        (CAPTIONED, {"caption_keys": "json:n"}, "no text under 'json:n' .* have json:caption, json:deep, json:deep/er"),
        ([("k.jpg", b""), ("k.json", b'{"alt": "x"}')], {}, "no text under 'json:caption' in 1 .* have json:alt"),
        ([("k.jpg", b""), ("k.json", b"{")], {"caption_keys": "json:a", "keys_field": "eval"}, "eval.caption_keys='js"),
        ([("n01.10026.jpg", b""), ("n01.10027.jpg", b"")], {}, "10026.jpg, 10027.jpg"),
    ],
)
@pytest.mark.parametrize("order", ["global", "windowed"])
def test_shards_without_the_wanted_members_fail_at_the_start(tmp_path, members, fields, message, order):
    write_tar(tmp_path / "0.tar", members)
    (tmp_path / "sizes.json").write_text('{"0.tar": 1}')
    with pytest.raises(UserError, match=message):
        WebDataset(str(tmp_path), options=options(tmp_path, order=order, **fields))


@pytest.mark.parametrize("order", ["global", "windowed"])
def test_a_key_that_some_examples_have_is_enough(tmp_path, order):
    """They may lie in other shards, and far from the first example."""
    write_set(tmp_path / "set", (40, 40), change=lambda number, members: members[:1] + members[1 + (number < 50) :])
    source = WebDataset(
        str(tmp_path / "set"), options=options(tmp_path, order=order, caption_keys="json:caption@0.7+txt@1")
    )
    assert source[0]["caption_weights"] == [1.0] and source[79]["caption_weights"] == [0.7, 1.0]


def classification_set(folder, captions=False):
    """CLIP_benchmark's layout."""
    (folder / "test").mkdir(parents=True)
    for shard in range(2):
        members = []
        for row in range(3):
            members += [(f"s{row}.webp", jpeg(row)), (f"s{row}.cls", str(row % 2).encode())]
            members += [(f"s{row}.txt", b"a caption")] if captions else []
        write_tar(folder / "test" / f"{shard}.tar", members)
    (folder / "test" / "nshards.txt").write_text("2")
    (folder / "classnames.txt").write_text("cat\nblack dog\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\na {c}\n")
    return folder


@pytest.mark.parametrize("inside", ["", "/test"])
def test_clip_benchmark_s_classification_sets_are_read(tmp_path, inside):
    folder = classification_set(tmp_path / "pets")
    source = open_source(f"wds:{folder}{inside}", options(tmp_path), field="data.eval")
    assert source.name == "pets" and len(source) == 6
    assert source.class_names == ["cat", "black dog"] and source.templates == ["a photo of a {c}.", "a {c}"]
    assert [source[i]["label"] for i in range(6)] == [0, 1, 0, 0, 1, 0]
    assert source[1]["captions"] == ["a photo of a black dog.", "a black dog"]
    assert source[0]["id"] == source[2]["id"] == stable_id("class", "cat")


def test_captions_go_before_classes_and_labels_beyond_the_classes_are_bad(tmp_path):
    folder = classification_set(tmp_path / "pets", captions=True)
    source = WebDataset(f"{folder}/test", options=options(tmp_path))
    assert source[1]["captions"] == ["a caption"] and source[1]["label"] == 1
    (folder / "classnames.txt").write_text("cat")
    with pytest.raises(BadExample, match="no number of a class"):
        WebDataset(f"{folder}/test", options=options(tmp_path))[1]


def test_each_line_is_a_caption_in_clip_benchmark_s_retrieval_sets_only(tmp_path):
    (tmp_path / "test").mkdir()
    write_tar(tmp_path / "test" / "0.tar", [("a.jpg", jpeg(1)), ("a.txt", b"one\ntwo\n\nthree ")])
    (tmp_path / "test" / "nshards.txt").write_text("1\n")
    spec = f"wds:{tmp_path}/test"
    assert open_source(spec, options(tmp_path), field="data.eval")[0]["captions"] == ["one\ntwo\n\nthree"]
    (tmp_path / "dataset_type.txt").write_text("retrieval\n")
    source = open_source(spec, options(tmp_path), field="data.eval")
    assert source[0]["captions"] == ["one", "two", "three"] and source.class_names is None


def test_formats_of_tar_make_no_difference(tmp_path):
    key = "k" * 120 + "/ü"
    for number, format in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        path = tmp_path / f"{number}.tar"
        write_tar(path, [(f"{key}.jpg", b"J"), (f"{key}.txt", b"t"), ("b.jpg", b"K"), ("b.txt", b"u")], format)
        source = WebDataset(str(path), options=options(tmp_path))
        assert [source[i]["image"] for i in range(2)] == [b"J", b"K"]
        assert source[0]["id"] == stable_id("image", str(path), key)


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.full)])
def test_shards_that_change_behind_their_index_give_records_or_reasons(tmp_path, count):
    folder = write_set(tmp_path / "set", (8,))
    source = WebDataset(str(folder), options=options(tmp_path))
    path, intact = folder / "00000.tar", (folder / "00000.tar").read_bytes()
    counts = collections.Counter()
    for number in range(count):
        path.write_bytes(mutate(intact, random.Random(number)))
        for index in range(8):
            try:
                counts["record"] += source[index]["captions"] != []
            except BadExample as error:
                counts[error.reason] += 1
    assert set(counts) <= {"record", "cut", "read", "no_image", "no_caption", "encoding"}
    assert counts["record"] and counts["cut"]


def test_names_of_shards_and_folders_need_not_be_utf_8(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    write_set(folder, (3, 2), stats=False)
    (folder / "00000.tar").rename(folder / os.fsdecode(b"\xe9.tar"))
    for order in ("global", "windowed"):
        source = WebDataset(str(folder), options=options(tmp_path, order=order))
        assert [number_of(source[i]) for i in range(5)] == [3, 4, 0, 1, 2]
