import collections
import json
import logging
import os
import pickle
import random
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from serving import serve
from tar_sets import example, jpeg, mutate, write_set, write_tar

from mmjax import cli
from mmjax.data.examples import TrainExamples
from mmjax.data.faults import BadExample
from mmjax.data.images import ImageSpec
from mmjax.data.pipeline import train_batches
from mmjax.data.shard_list import list_shards
from mmjax.data.source import Sharded, SourceOptions, stable_id
from mmjax.data.specs import open_source, parse_mixture
from mmjax.data.tars import Tars
from mmjax.data.tokenizers import make_tokenizer
from mmjax.errors import UserError

LENGTHS = (7, 5, 9, 6)
TOTAL = sum(LENGTHS)


def options(tmp_path, **fields):
    return SourceOptions(**{"cache": str(tmp_path / "cache"), "retry_seconds": 5.0, **fields})


def make_examples(source, order="global", window=2):
    return TrainExamples(
        [(source, 1)],
        seed=3,
        image_spec=ImageSpec(size=8),
        tokenizer=make_tokenizer("bytes", 16),
        order=order,
        window=window,
    )


def number_of(record):
    return int(record["captions"][0].split()[-1])


def ids(batches):
    """[steps, rows] of 64-bit ids."""
    return [[int(low) | int(high) << 32 for low, high in batch["id"]] for batch in batches]


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
    ("spec", "told"),
    [
        ("wds:{0}/none*.tar", "no file matches"),
        ("wds:{0}/nowhere", "no examples in 1 shards|no such"),
        ("wds:{0}/empty", "no \\*.tar in"),
        ("wds:{0}/set::", "nothing on one side"),
        ("wds:pipe:cat {0}/set/00000.tar", "commands are not run"),
        ("wds:{0}/{{7..9}}.tar", "no examples in 3 shards .7.tar is missing"),
        ("wds:", "names no data"),
    ],
)
def test_mistakes_in_the_pattern_are_told(tmp_path, spec, told):
    write_set(tmp_path / "set")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=told) as error:
        open_source(spec.format(tmp_path), options(tmp_path))
    assert "data.train" in str(error.value) and "\n" not in str(error.value)


# What an example is.


def one_example(tmp_path, members, **fields):
    write_tar(tmp_path / "s.tar", members)
    return Tars(str(tmp_path / "s.tar"), options=options(tmp_path, **fields))[0]


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
        ({"txt": "ünï".encode() + b"\xff"}, {}, ["ünï\ufffd"]),
        ({"json": b"{broken", "txt": b"t"}, {"caption_keys": "json:caption+txt"}, ["t"]),
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
    source = Tars(str(tmp_path / "s.tar"), options=options(tmp_path))
    reasons = []
    for index in range(1, 4):
        with pytest.raises(BadExample) as error:
            source[index]
        reasons.append(error.value.reason)
    assert len(source) == 4 and reasons == ["no_image", "no_caption", "no_caption"]
    with pytest.raises(IndexError):
        source[4]


@pytest.mark.parametrize(
    ("members", "fields", "told"),
    [
        ([("k.mp4", b""), ("k.txt", b"")], {}, "1 examples have mp4, txt; none has jpg, .*data.image_key"),
        ([("k.jpg", b""), ("k.cls", b"")], {}, "1 examples have cls, jpg; none has caption, json, txt .*caption_keys"),
        ([("k.jpg", b""), ("k.txt", b"")], {"image_key": "png"}, "none has png; set data.image_key"),
        ([("k.jpg", b""), ("k.txt", b"")], {"caption_keys": "json:caption"}, "none has json for captions"),
        ([("n01.10026.jpg", b""), ("n01.10027.jpg", b"")], {}, "10026.jpg, 10027.jpg"),
    ],
)
@pytest.mark.parametrize("order", ["global", "windowed"])
def test_shards_without_the_wanted_members_fail_at_the_start(tmp_path, members, fields, told, order):
    write_tar(tmp_path / "0.tar", members)
    (tmp_path / "sizes.json").write_text('{"0.tar": 1}')
    with pytest.raises(UserError, match=told):
        Tars(str(tmp_path), options=options(tmp_path, order=order, **fields))


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
    source = Tars(f"{folder}/test", options=options(tmp_path))
    assert source[1]["captions"] == ["a caption"] and source[1]["label"] == 1
    (folder / "classnames.txt").write_text("cat")
    with pytest.raises(BadExample, match="no number of a class"):
        Tars(f"{folder}/test", options=options(tmp_path))[1]


def test_each_line_is_a_caption_in_clip_benchmark_s_retrieval_sets_only(tmp_path):
    (tmp_path / "test").mkdir()
    write_tar(tmp_path / "test" / "0.tar", [("a.jpg", jpeg(1)), ("a.txt", b"one\ntwo\n\nthree ")])
    (tmp_path / "test" / "nshards.txt").write_text("1\n")
    spec = f"wds:{tmp_path}/test"
    assert open_source(spec, options(tmp_path), field="data.eval")[0]["captions"] == ["one\ntwo\n\nthree"]
    (tmp_path / "dataset_type.txt").write_text("retrieval\n")
    source = open_source(spec, options(tmp_path), field="data.eval")
    assert source[0]["captions"] == ["one", "two", "three"] and source.class_names is None


# The index.


def test_the_index_is_built_once_and_lies_beside_the_shards(tmp_path, capfd):
    folder = write_set(tmp_path / "set")
    first = Tars(str(folder), options=options(tmp_path))
    assert "indexing shards" in capfd.readouterr().err
    (index,) = folder.glob("mmjax-*.index")
    before = index.stat().st_mtime_ns
    again = Tars(f"{folder}/*.tar", options=options(tmp_path))
    assert index.stat().st_mtime_ns == before and capfd.readouterr().err == ""
    assert first[4]["id"] == again[4]["id"]
    moved = tmp_path / "moved"
    shutil.move(folder, moved)
    assert number_of(Tars(str(moved), options=options(tmp_path))[20]) == 20
    assert capfd.readouterr().err == ""  # it moves with them


def test_an_index_that_cannot_lie_there_lies_in_the_cache(tmp_path, monkeypatch):
    folder = write_set(tmp_path / "set")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert len(Tars(str(folder), options=options(tmp_path))) == TOTAL
    assert not list(folder.glob("*.index")) and len(list((tmp_path / "cache" / "index").glob("*.index"))) == 1


@pytest.mark.parametrize("change", ["grown", "new", "appeared"])
def test_an_index_of_other_shards_is_refused_until_it_is_made_again(tmp_path, change):
    folder = write_set(tmp_path / "set")
    pattern = f"{folder}/{{00000..00004}}.tar" if change == "appeared" else str(folder)
    before = len(Tars(pattern, options=options(tmp_path)))
    name = "00001.tar" if change == "grown" else "00004.tar"
    write_tar(folder / name, [member for number in range(50, 100) for member in example(number)])
    with pytest.raises(UserError, match=f"{name}.*run mmjax index '.*' again"):
        Tars(pattern, options=options(tmp_path))
    assert cli.main(["index", pattern, "--cache", str(tmp_path / "cache")]) == 0
    assert len(Tars(pattern, options=options(tmp_path))) == before + 50 - (5 if change == "grown" else 0)


@pytest.mark.parametrize("pattern", ["*.tar", "{00000..00003}.tar"])
def test_shards_that_vanish_or_shrink_are_borne(tmp_path, pattern, caplog):
    folder = write_set(tmp_path / "set")
    good = Tars(f"{folder}/{pattern}", options=options(tmp_path))
    expected = {i: good[i] for i in range(TOTAL)}
    os.remove(folder / "00001.tar")
    (folder / "00002.tar").write_bytes((folder / "00002.tar").read_bytes()[:4000])
    del good
    from mmjax.data import reading

    reading.forget(str(folder / "00001.tar"))
    with caplog.at_level(logging.WARNING, "mmjax.data"):
        source = Tars(f"{folder}/{pattern}", options=options(tmp_path))
    assert [record.message for record in caplog.records] == [
        "set: 1 shards are gone and 1 are shorter than when they were indexed, such as 00001.tar; "
        "examples in them are replaced and counted"
    ]
    for index in range(TOTAL):
        if 7 <= index < 12:
            with pytest.raises(FileNotFoundError):
                source[index]
        elif index in (12, *range(22, TOTAL)) or index < 7:
            assert source[index] == expected[index]
    with pytest.raises(BadExample, match="cut"):
        source[20]


def test_a_source_travels_small(tmp_path):
    source = Tars(str(write_set(tmp_path / "set")), options=options(tmp_path))
    expected = source[5]
    data = pickle.dumps(source)
    assert len(data) < 4000 and pickle.loads(data)[5] == expected


# The order `windowed`.


@pytest.mark.parametrize("told", ["stats", "sizes"])
def test_windowed_needs_only_the_lengths(tmp_path, told):
    folder = write_set(tmp_path / "set", stats=told == "stats")
    if told == "sizes":
        sizes = {f"{i:05d}.tar": n for i, n in enumerate(LENGTHS)}
        (folder / "sizes.json").write_text(json.dumps(sizes))
    source = Tars(str(folder), options=options(tmp_path, order="windowed"))
    assert not list(folder.glob("*.index")) and source.shard_lengths.tolist() == list(LENGTHS)
    assert [number_of(source[i]) for i in range(TOTAL)] == list(range(TOTAL))


def test_local_shards_without_lengths_are_indexed(tmp_path):
    folder = write_set(tmp_path / "set", stats=False)
    source = Tars(str(folder), options=options(tmp_path, order="windowed"))
    assert source.shard_lengths.tolist() == list(LENGTHS) and list(folder.glob("*.index"))


def test_shards_with_fewer_or_more_examples_than_declared(tmp_path, caplog):
    folder = write_set(tmp_path / "set")
    (folder / "00000_stats.json").write_text('{"successes": 9}')
    (folder / "00001_stats.json").write_text('{"successes": 3}')
    source = Tars(str(folder), options=options(tmp_path, order="windowed"))
    with caplog.at_level(logging.WARNING, "mmjax.data"):
        for index in range(7):
            assert number_of(source[index]) == index
        for index in (7, 8):
            with pytest.raises(BadExample, match="cut: .*00000.tar has 7 examples, not 9"):
                source[index]
        assert [number_of(source[index]) for index in (9, 11, 12)] == [7, 9, 12]
    assert [record.message.split("set/")[1] for record in caplog.records] == [
        "00000.tar has 7 examples, 9 declared ",
        "00001.tar has 5 examples, 3 declared ",
    ]


@pytest.mark.parametrize("content", ["{", "[]", '{"successes": "many"}', '{"successes": -3}', '{"count": 3}'])
def test_statistics_that_say_nothing_are_told(tmp_path, content):
    folder = write_set(tmp_path / "set")
    (folder / "00002_stats.json").write_text(content)
    with pytest.raises(UserError, match="00002_stats.json"):
        Tars(str(folder), options=options(tmp_path, order="windowed"))


# Every example once.

BATCH = 24


def read(examples, start, stop, hosts, **how):
    """ids [steps][rows], read by so many hosts."""
    size = BATCH // hosts
    parts = []
    for host in range(hosts):
        rows = range(host * size, (host + 1) * size)
        with train_batches(examples, start_step=start, stop_step=stop, global_batch=BATCH, rows=rows, **how) as batches:
            parts.append(ids(batches))
    return [sum((part[step] for part in parts), []) for step in range(stop - start)]


@pytest.mark.parametrize("order", ["global", "windowed"])
def test_each_example_comes_once_an_epoch_whatever_reads_it(tmp_path, order):
    lengths = (11, 13, 17, 7)  # 48: an epoch is two steps
    source = Tars(str(write_set(tmp_path / "set", lengths)), options=options(tmp_path, order=order))
    all_of_them = collections.Counter(source[i]["id"] for i in range(48))
    examples = make_examples(source, order)
    one_host = read(examples, 0, 4, 1, threads=0)
    first, second = sum(one_host[:2], []), sum(one_host[2:], [])
    assert collections.Counter(first) == collections.Counter(second) == all_of_them and len(all_of_them) == 48
    assert first != second
    for hosts in (2, 3, 8):
        assert read(pickle.loads(pickle.dumps(examples)), 0, 4, hosts, threads=2) == one_host
    for start in (1, 2, 3):
        assert read(make_examples(source, order), start, 4, 3, threads=1) == one_host[start:]


@pytest.mark.full
@pytest.mark.parametrize("order", ["global", "windowed"])
def test_workers_read_the_same(tmp_path, order):
    lengths = (11, 13, 17, 7)
    source = Tars(str(write_set(tmp_path / "set", lengths)), options=options(tmp_path, order=order))
    one_host = read(make_examples(source, order), 0, 4, 1, threads=0)
    for hosts, start in ((1, 0), (2, 1)):
        assert read(make_examples(source, order), start, 4, hosts, workers=2) == one_host[start:]


# Buckets.


def test_remote_shards_are_indexed_by_the_command_and_trained_on(tmp_path):
    local = Tars(str(write_set(tmp_path / "set")), options=options(tmp_path))
    os.remove(next((tmp_path / "set").glob("*.index")))
    with serve(tmp_path) as bucket:
        pattern = f"{bucket.url}/set/{{00000..00003}}.tar"
        with pytest.raises(UserError, match="run mmjax index '.*', or set data.order=windowed"):
            Tars(pattern, options=options(tmp_path))
        assert cli.main(["index", pattern, "--cache", str(tmp_path / "cache")]) == 0
        source = Tars(pattern, options=options(tmp_path))
        bucket.requests.clear()
        for index in (0, 6, 7, 26):
            assert {**source[index], "id": 0, "path": ""} == {**local[index], "id": 0, "path": ""}
        assert [asked.startswith("bytes=") for _, _, asked in bucket.requests] == [True] * 4  # one request an example
        assert len({e for batch in read(make_examples(source), 0, 9, 1, threads=4) for e in batch}) == TOTAL


def test_an_index_beside_remote_shards_is_found(tmp_path):
    folder = write_set(tmp_path / "set")
    Tars(str(folder / "{00000..00003}.tar"), options=options(tmp_path))
    with serve(tmp_path) as bucket:
        source = Tars(
            f"{bucket.url}/set/{{00000..00003}}.tar", options=options(tmp_path, cache=str(tmp_path / "other"))
        )
        assert number_of(source[13]) == 13 and list((tmp_path / "other" / "index").glob("*.index"))


def test_windowed_reads_a_bucket_without_an_index(tmp_path):
    folder = write_set(tmp_path / "set")
    with serve(tmp_path) as bucket:
        spec = f"wds:{bucket.url}/set/{{00000..00003}}.tar"
        chosen = options(tmp_path, order="windowed")
        source = open_source(spec, chosen)
        bucket.requests.clear()
        order = read(make_examples(source, "windowed"), 0, 9, 2, threads=2)
        assert order == read(make_examples(pickle.loads(pickle.dumps(source)), "windowed"), 0, 9, 1, threads=3)
        assert len({e for batch in order for e in batch}) == TOTAL
        whole = [path for method, path, asked in bucket.requests if method == "GET" and asked is None]
        assert sorted(whole) == [f"/set/{i:05d}.tar" for i in range(4)]  # each downloaded once
        os.remove(folder / "00003_stats.json")
        with pytest.raises(UserError, match="nothing tells how many examples 1 of 4 shards have"):
            open_source(spec, chosen)


def test_a_folder_of_a_bucket_is_listed(tmp_path):
    write_set(tmp_path / "set")
    with serve(tmp_path) as bucket:
        assert list_shards(f"{bucket.url}/set/*.tar", reader=_reader(), where="x").names == [
            f"{i:05d}.tar" for i in range(4)
        ]
        source = Tars(f"{bucket.url}/set", options=options(tmp_path, order="windowed"))
        assert len(source) == TOTAL and source.name == "set"


def _reader():
    from mmjax.data.reading import Reader

    return Reader(2.0)


def test_a_server_without_ranges_is_read_all_the_same(tmp_path, caplog):
    write_set(tmp_path / "set")
    with serve(tmp_path) as bucket:
        bucket.ranges = False
        pattern = f"{bucket.url}/set/{{00000..00003}}.tar"
        assert cli.main(["index", pattern, "--cache", str(tmp_path / "cache")]) == 0
        source = Tars(pattern, options=options(tmp_path))
        assert [number_of(source[i]) for i in range(TOTAL)] == list(range(TOTAL))
    assert sum("sends whole files" in record.message for record in caplog.records) == 1


def test_formats_of_tar_make_no_difference(tmp_path):
    key = "k" * 120 + "/ü"
    for number, format in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        path = tmp_path / f"{number}.tar"
        write_tar(path, [(f"{key}.jpg", b"J"), (f"{key}.txt", b"t"), ("b.jpg", b"K"), ("b.txt", b"u")], format)
        source = Tars(str(path), options=options(tmp_path))
        assert [source[i]["image"] for i in range(2)] == [b"J", b"K"]
        assert source[0]["id"] == stable_id("image", str(path), key)


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.full)])
def test_shards_that_change_behind_their_index_give_records_or_reasons(tmp_path, count):
    folder = write_set(tmp_path / "set", (8,))
    source = Tars(str(folder), options=options(tmp_path))
    path, intact = folder / "00000.tar", (folder / "00000.tar").read_bytes()
    found = collections.Counter()
    for number in range(count):
        path.write_bytes(mutate(intact, random.Random(number)))
        for index in range(8):
            try:
                found["record"] += source[index]["captions"] != []
            except BadExample as error:
                found[error.reason] += 1
    assert set(found) <= {"record", "cut", "read", "no_image", "no_caption"} and found["record"] and found["cut"]


@pytest.mark.full
def test_processes_index_many_shards_alike(tmp_path):
    folder = write_set(tmp_path / "set", (2,) * 40)
    found = []
    for workers in (1, 2):
        output = tmp_path / f"{workers}.index"
        command = ["index", str(folder), "--force", "--workers", str(workers), "--output", str(output)]
        code = "import sys; from mmjax.cli import main; sys.exit(main())"
        ran = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
        assert ran.returncode == 0 and "examples: 80" in ran.stdout, ran.stderr
        found.append(output.read_bytes())
    assert found[0] == found[1]


def test_an_index_is_made_of_a_bucket_that_fails_for_a_while(tmp_path, capsys):
    write_set(tmp_path / "set")
    with serve(tmp_path) as bucket:
        bucket.fail_next = 3
        pattern = f"{bucket.url}/set/{{00000..00003}}.tar"
        assert cli.main(["index", pattern, "--cache", str(tmp_path / "cache"), "--retry-seconds", "20"]) == 0
        assert f"examples: {TOTAL}" in capsys.readouterr().out
        bucket.fail_until = float("inf")
        again = ["index", pattern, "--cache", str(tmp_path / "cache"), "--retry-seconds", "0.3"]
        assert cli.main(again) == 2
        assert "503" in capsys.readouterr().err
