import collections
import io
import os
import pickle
import random
import re
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from mmjax.cli import main
from mmjax.data.webdataset import scan as scan_lib
from mmjax.data.webdataset.build import build
from mmjax.data.webdataset.index_file import HEAD_BYTES, MISSING, IndexWriter, TarIndex
from mmjax.data.webdataset.scan import scan_shard
from mmjax.data.webdataset.tar_format import BLOCK, ShardTable, TarError, read_examples, read_members, split_name
from mmjax.errors import UserError
from mmjax.io.reader import Reader
from tests.helpers.tar_sets import example, mutate, write_set, write_tar

READER = Reader(1.0)
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def reading(data):
    return lambda offset, length: data[offset : offset + length]


def by_tarfile(data):
    """(name, where its data starts, size) of the regular files, from the standard library."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(info.name, info.offset_data, info.size) for info in tar if info.isreg() and not info.issparse()]


def by_us(data):
    return [(member.name, member.data, member.size) for member in read_members(reading(data), len(data))]


def odd_tar(format, seed):
    """Names short, long, deep and not ASCII; all kinds of members; sizes around the block's."""
    rng, out = random.Random(seed), io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for number in range(60):
            name = rng.choice(["a", "b/c", "ünï", "x" * 90, "y" * 70, "d/" * 60 + "e", "z" * 40 + "/" + "w" * 90])
            if format == tarfile.USTAR_FORMAT and len(name) > 99:
                name = "p" * 100 + "/" + "q" * 80
            info = tarfile.TarInfo(f"{name}{number}.jpg")
            info.type = rng.choice([tarfile.REGTYPE] * 5 + [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, b"7"])
            info.linkname = "" if info.isreg() else "l" * rng.choice([5, 99])
            if format != tarfile.USTAR_FORMAT and not info.isreg():
                info.linkname = "l" * rng.choice([5, 200])
            if format == tarfile.PAX_FORMAT and rng.random() < 0.3:
                info.pax_headers = {"comment": "k=v\nü" * rng.randint(1, 200)}
            info.size = rng.choice([0, 1, 511, 512, 513, 3000]) if info.isreg() else 0
            info.mtime = rng.choice([0, 1.5, -3]) if format == tarfile.PAX_FORMAT else 0
            tar.addfile(info, io.BytesIO(rng.randbytes(info.size)))
    return out.getvalue()


@pytest.mark.parametrize("format", FORMATS)
def test_members_are_those_that_tarfile_finds(format):
    for seed in range(5):
        data = odd_tar(FORMATS[format], seed)
        assert by_us(data) == by_tarfile(data) and len(by_us(data)) > 20


def test_sizes_in_base_256_and_unpadded_ends_are_read():
    info = tarfile.TarInfo("big.bin")
    info.size = 9 * 2**30  # more than 11 octal digits hold
    header = info.tobuf(tarfile.GNU_FORMAT)
    assert header[124] == 0x80
    small = tarfile.TarInfo("k.jpg")
    small.size = 3
    tail = small.tobuf(tarfile.GNU_FORMAT) + b"abc"
    total = BLOCK + info.size + len(tail)

    def read(offset, length):  # a file with a hole
        if offset < BLOCK:
            return header[offset : offset + length]
        return tail[offset - BLOCK - info.size :][:length]

    assert [tuple(m) for m in read_members(read, total)] == [
        ("big.bin", 0, BLOCK, info.size),
        ("k.jpg", BLOCK + info.size, 2 * BLOCK + info.size, 3),
    ]


def test_gnu_tar_s_own_archives_are_read(tmp_path):
    for name in ("a.jpg", "n" * 150 + ".txt"):
        (tmp_path / name).write_bytes(b"1" * 700)
    with open(tmp_path / "hole.bin", "wb") as file:
        for offset in range(40):  # more pieces than a first header describes
            file.seek(offset * 100_000)
            file.write(b"x" * 4096)
    os.symlink("a.jpg", tmp_path / "link.jpg")
    for format in ("gnu", "pax", "ustar", "v7"):
        names = ["a.jpg", "link.jpg", *(["n" * 150 + ".txt"] if format in ("gnu", "pax") else [])]
        sparse = ["--sparse", "hole.bin"] if format in ("gnu", "pax") else []
        archive = tmp_path / f"{format}.tar"
        command = ["tar", f"--format={format}", "-C", str(tmp_path), "-cf", str(archive), *sparse, *names]
        subprocess.run(command, check=True)
        data = archive.read_bytes()
        assert by_us(data) == by_tarfile(data) and by_us(data)[0][0] == "a.jpg"


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("00001.jpg", ("00001", "jpg")),
        ("a.b/c.d.e.JPG", ("a.b/c", "d.e.jpg")),
        ("./x.txt", ("./x", "txt")),
        ("x.", ("x", "")),
        ("plain", None),
        (".hidden.jpg", None),
        ("d/.hidden.jpg", None),
        ("__meta__/a.json", None),
        ("__a__.json", ("__a__", "json")),
    ],
)
def test_names_are_split_at_the_first_dot_of_the_base_name(name, split):
    assert split_name(name) == split


def test_examples_are_those_that_webdataset_finds(tmp_path):
    import webdataset  # imports torch, where there is one

    names = ["a.jpg", "a.txt", "b.JPG", "x/a.jpg", "x/a.seg.png", "x/c.jpg", "x/c.cls", "nodot", "d.jpg", "a.b.txt"]
    path = tmp_path / "s.tar"
    write_tar(path, [(name, name.encode()) for name in names])
    data = path.read_bytes()
    ours = [(e.key, set(e.endings)) for e in read_examples(reading(data), len(data))]
    theirs = [
        (sample["__key__"], {key for key in sample if not key.startswith("__")})
        for sample in webdataset.WebDataset(str(path), shardshuffle=False)
    ]
    assert ours == theirs and len(ours) == 6


def test_every_row_of_an_index_holds_one_example(tmp_path):
    write_set(tmp_path / "set")
    shards = [(f"{i:05d}.tar", str(tmp_path / "set" / f"{i:05d}.tar")) for i in range(4)]
    index = build(shards, str(tmp_path / "i.index"), reader=READER, workers=2)
    description = index.shards()
    assert description.rows.tolist() == [7, 5, 9, 6] and description.rows.dtype == np.int64 and len(index) == 27
    assert description.all_key_sets == {"jpg;json;txt": 27} and description.problems == {}
    assert description.sizes.tolist() == [os.path.getsize(path) for _, path in shards]
    copy = pickle.loads(pickle.dumps(index))
    number = 0
    for (_, path), rows in zip(shards, description.rows, strict=True):
        for _ in range(rows):
            start, length = copy.row(number)
            with open(path, "rb") as file:
                file.seek(start)
                results = by_tarfile(file.read(length))
            assert [name for name, _, _ in results] == [name for name, _ in example(number)]
            number += 1
    assert [p.name for p in tmp_path.iterdir() if ".part" in p.name] == []


def test_shards_that_have_not_changed_are_taken_over(tmp_path, monkeypatch):
    write_set(tmp_path / "set")
    shards = [(f"{i:05d}.tar", str(tmp_path / "set" / f"{i:05d}.tar")) for i in range(5)]
    target = str(tmp_path / "i.index")
    build(shards[:3], target, reader=READER, workers=1)
    write_tar(shards[1][1], example(3) + example(4))
    scanned = []
    scan = scan_lib.scan_shard
    monkeypatch.setattr(scan_lib, "scan_shard", lambda path, **options: scanned.append(path) or scan(path, **options))
    again = build(shards, target, reader=READER, workers=1, previous=[target])
    assert scanned == [path for _, path in shards[1:2] + shards[3:]]
    fresh = build(shards, str(tmp_path / "fresh.index"), reader=READER, workers=1)
    assert again.shards().rows.tolist() == fresh.shards().rows.tolist() == [7, 2, 9, 6, 0]
    assert again.shards().problems == {"00004.tar": "missing"} and again.shards().sizes[4] == MISSING
    assert [again.row(i) for i in range(24)] == [fresh.row(i) for i in range(24)]


@pytest.mark.parametrize(
    ("make", "rows", "problem"),
    [
        (lambda data: b"", 0, "empty"),
        (lambda data: b"no tar" * 200, 0, "not a tar"),
        (lambda data: b"\x1f\x8b" + data, 0, "compressed with gzip; decompress it"),
        (lambda data: bytes(10240), 0, "no examples"),
        (lambda data: data[:4000], None, "cut off at byte 4000"),
        (lambda data: data[: 8 * BLOCK + 100], None, "cut off at byte 4196"),
        (lambda data: data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % BLOCK), 7, "ends at byte"),
        (lambda data: data, 7, ""),
    ],
)
def test_what_is_wrong_with_a_shard_is_told(tmp_path, make, rows, problem):
    write_set(tmp_path, lengths=(7,))
    path = tmp_path / "00000.tar"
    path.write_bytes(make(path.read_bytes()))
    table = scan_shard(str(path), READER).table
    assert table.problem.startswith(problem) and bool(table.problem) == bool(problem)
    if rows is not None:
        assert len(table.rows) == rows


@pytest.mark.parametrize("damage", ["magic", "version", "cut", "longer", "short"])
def test_an_index_that_is_not_whole_is_refused(tmp_path, damage):
    path = tmp_path / "i.index"
    with IndexWriter(str(path)) as writer:
        writer.add("a.tar", 10, 0, ShardTable(np.ones((5, 2), np.uint32), {"jpg": 5}, ""))
    data = bytearray(path.read_bytes())
    data = {
        "magic": b"x" + data[1:],
        "version": data[:8] + b"\xff" + data[9:],
        "cut": data[:-1],
        "longer": data + b"x",
        "short": data[:10],
    }[damage]
    path.write_bytes(data)
    with pytest.raises(UserError, match="run mmjax index --force again"):
        TarIndex(str(path))


def test_an_error_leaves_the_old_index_and_no_other_file(tmp_path):
    path = tmp_path / "i.index"
    path.write_text("old")
    with pytest.raises(RuntimeError), IndexWriter(str(path)):
        raise RuntimeError
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("count", [300, pytest.param(2000, marks=pytest.mark.full)])
def test_mutated_tars_neither_crash_nor_hang(tmp_path, count):
    originals = [odd_tar(format, 0) for format in FORMATS.values()]
    path = tmp_path / "m.tar"
    counts = collections.Counter()
    for number in range(count):
        rng = random.Random(number)
        path.write_bytes(mutate(rng.choice(originals), rng))
        scanned = scan_shard(str(path), READER)
        size = os.path.getsize(path)
        ends = (scanned.table.rows.astype(np.int64).sum(axis=1) - 1) * BLOCK
        assert (ends < size).all() and (np.diff(scanned.table.rows[:, 0].astype(np.int64)) > 0).all()
        counts[scanned.table.problem.split(" ")[0]] += 1
    assert counts["cut"] and counts["damaged"] and counts[""]  # all kinds


def test_members_before_the_damage_are_found():
    data = bytearray(odd_tar(tarfile.USTAR_FORMAT, 1))
    all_of_them = by_us(bytes(data))
    _, offset, _ = all_of_them[10]
    data[offset - BLOCK + 3] ^= 255
    results = []
    with pytest.raises(TarError, match=f"damaged header at byte {offset - BLOCK}"):
        for member in read_members(reading(bytes(data)), len(data)):
            results.append((member.name, member.data, member.size))
    assert results == all_of_them[:10]


def test_the_command_tells_what_it_found(tmp_path, capsys):
    folder = write_set(tmp_path / "set")
    (folder / "00001.tar").write_bytes((folder / "00001.tar").read_bytes()[:1000])
    (folder / "00002.tar").write_bytes(b"")
    pattern = str(folder / "{00000..00004}.tar")
    assert main.main(["index", pattern, "--workers", "2", "--cache", str(tmp_path / "cache")]) == 0
    out = capsys.readouterr().out
    assert "shards: 4 of 5" in out and "jpg, json, txt" in out and "shards with something wrong: 3" in out
    for line in ("00001.tar: cut off at byte 1000", "00002.tar: empty", "00004.tar: missing"):
        assert line in out
    (index,) = folder.glob("*.index")
    assert str(index) in out and f"examples: {len(TarIndex(str(index)))}" in out
    assert main.main(["index", pattern, "--output", str(tmp_path / "o.index")]) == 0
    assert (tmp_path / "o.index").read_bytes()[HEAD_BYTES:] == index.read_bytes()[HEAD_BYTES:]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["/nowhere/*.tar"], "no file matches"),
        (["/nowhere"], "no such file|check the path|missing"),
        (["x.tar", "--workers", "0"], "above 0"),
        (["x.tar", "--config.seed=1"], "sets nothing"),
        (["pipe:cat x.tar"], "commands are not run"),
        (["nosuch://a/{0..3}.tar"], "nosuch"),
    ],
)
def test_the_command_s_mistakes_are_one_line(argv, message, capsys, tmp_path):
    assert main.main(["index", *argv, "--cache", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert re.search(message, captured.err + captured.out)
    assert "Traceback" not in captured.err


LOOK_UP = """
import random, resource, sys
from mmjax.data.webdataset.index_file import TarIndex
from mmjax.utils.string_array import StringArray
# Not ru_maxrss, which begins with that of the process that started this one.
memory = lambda: int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
before = memory()
index = TarIndex(sys.argv[1]); shards = index.shards()
kept = StringArray(shards.names), shards.rows.cumsum()  # what a source keeps
del shards
rng = random.Random(0)
for _ in range(100_000):
    assert index.row(rng.randrange(len(index))) == (0, 0)
print(len(index), memory() - before)
"""


@pytest.mark.full
def test_a_hundred_million_rows_stay_out_of_memory(tmp_path):
    path, shards, rows = str(tmp_path / "large.index"), 10_000, 10_000
    with IndexWriter(path) as writer:  # a file with a hole: rows of zeros that take no disk
        empty = ShardTable(np.zeros((0, 2), np.uint32), {"jpg;json;txt": rows}, "")
        for shard in range(shards):
            writer.add(f"{shard:05d}.tar", 10**9, 0, empty)
        writer._columns["rows"] = [rows] * shards
        writer._count = shards * rows
        writer._file.seek(8 * shards * rows, 1)
    ran = subprocess.run([sys.executable, "-c", LOOK_UP, path], capture_output=True, text=True, check=True)
    length, grown = map(float, ran.stdout.split())
    assert length == 1e8 and os.path.getsize(path) > 8e8
    assert grown < 100e6 and len(pickle.dumps(TarIndex(path))) < 1000
