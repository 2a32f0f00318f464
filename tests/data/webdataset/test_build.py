"""Where indexes lie, which one counts, and what they are made from."""

import json
import logging
import os
import subprocess
import sys
import threading
import time
import uuid

import fsspec
import numpy as np
import pytest

from mmjax.cli import main
from mmjax.data.sources.wds import WebDataset
from mmjax.data.webdataset import scan as scan_lib
from mmjax.data.webdataset.build import build
from mmjax.data.webdataset.find import find_index
from mmjax.data.webdataset.index_file import IndexWriter, TarIndex
from mmjax.data.webdataset.shard_cache import ShardCache
from mmjax.data.webdataset.shard_list import list_shards
from mmjax.data.webdataset.tar_format import ShardTable
from mmjax.errors import UserError
from mmjax.io import file_locks, file_pool
from mmjax.io.file_locks import exclusive_build, locked
from mmjax.io.patterns import list_files
from mmjax.io.reader import Reader
from tests.helpers.http_server import serve
from tests.helpers.tar_sets import TOTAL, example, number_of, options, write_set, write_tar

READER = Reader(2.0)
PATTERN = "{00000..00003}.tar"


def index_command(pattern, tmp_path, *more):
    return main.main(["index", str(pattern), "--cache", str(tmp_path / "cache"), "--retry-seconds", "2", *more])


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def scanned(monkeypatch):
    """Paths that are scanned in this process."""
    paths, scan = [], scan_lib.scan_shard
    monkeypatch.setattr(scan_lib, "scan_shard", lambda path, reader: paths.append(path) or scan(path, reader))
    return paths


@pytest.fixture
def store(tmp_path):
    """A bucket that can be listed and written to: (its URL, its fsspec file system)."""
    fs, root = fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}"
    write_set(tmp_path / "set")
    for path in (tmp_path / "set").iterdir():
        fs.pipe_file(f"{root}/{path.name}", path.read_bytes())
    yield f"memory:/{root}", fs, root
    fs.rm(root, recursive=True)


# Which index counts.


def test_a_stale_index_beside_remote_shards_is_mended_by_the_command(tmp_path, capsys):
    folder = write_set(tmp_path / "set")
    WebDataset(str(folder / PATTERN), options=options(tmp_path))
    write_tar(folder / "00003.tar", example(50) + example(51))
    with serve(tmp_path) as bucket:
        pattern = f"{bucket.url}/set/{PATTERN}"
        assert len(WebDataset(pattern, options=options(tmp_path))) == TOTAL  # plain HTTP tells no sizes
        assert index_command(pattern, tmp_path) == 0
        assert "in this machine's cache" in capsys.readouterr().out
        for _ in range(2):
            assert len(WebDataset(pattern, options=options(tmp_path))) == TOTAL - 6 + 2
        (newer,) = folder.glob("*.index")
        os.remove(newer)
        WebDataset(str(folder / PATTERN), options=options(tmp_path))  # and the one beside is newer now
        assert find_index(list_shards(pattern, reader=READER, where="x"), cache=str(tmp_path / "cache"), reader=READER)
        copies = [path for path in files_below(tmp_path / "cache") if path.endswith("-copy.index")]
        assert len(copies) == 1 and (tmp_path / "cache" / copies[0]).read_bytes() == newer.read_bytes()


def test_a_stale_index_beside_local_shards_that_cannot_be_written_is_mended(tmp_path, monkeypatch):
    folder = write_set(tmp_path / "set")
    WebDataset(str(folder), options=options(tmp_path))
    write_tar(folder / "00003.tar", [member for number in range(30) for member in example(number)])
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="again"):
        WebDataset(str(folder), options=options(tmp_path))
    assert index_command(folder, tmp_path) == 0
    assert len(WebDataset(str(folder), options=options(tmp_path))) == TOTAL - 6 + 30


def test_the_command_uploads_the_index_of_a_bucket_beside_its_shards(tmp_path, store, capsys):
    url, fs, root = store
    assert index_command(f"{url}/{PATTERN}", tmp_path) == 0
    (index,) = fs.glob(f"{root}/mmjax-00000-to-00003-*.index")
    assert f"index: {url}/mmjax-" in capsys.readouterr().out
    other = WebDataset(f"{url}/{PATTERN}", options=options(tmp_path, cache=str(tmp_path / "other")))
    assert [number_of(other[i]) for i in (0, 13, TOTAL - 1)] == [0, 13, TOTAL - 1]


def test_an_index_that_is_copied_anew_is_read_anew(tmp_path):
    folder = write_set(tmp_path / "set")
    with serve(tmp_path) as bucket:
        pattern = f"{bucket.url}/set/{PATTERN}"
        for length in (6, 40, 3):
            write_tar(folder / "00003.tar", [member for number in range(length) for member in example(number)])
            assert index_command(folder / PATTERN, tmp_path) == 0
            source = WebDataset(pattern, options=options(tmp_path))
            assert len(source) == TOTAL - 6 + length and number_of(source[TOTAL - 6 + length - 1]) == length - 1


def test_an_index_that_was_replaced_under_a_worker_is_told(tmp_path):
    folder = write_set(tmp_path / "set")
    source = WebDataset(str(folder), options=options(tmp_path))
    import pickle

    data = pickle.dumps(source)
    assert index_command(folder, tmp_path, "--force") == 0
    assert number_of(source[26]) == 26  # has the old one open
    with pytest.raises(UserError, match="made again while it was in use"):
        pickle.loads(data)[26]


@pytest.mark.parametrize("damage", [b"{", b"[1]", b'{"names": 3}', b"\xff\xfe\xff"])
def test_a_damaged_description_is_one_line(tmp_path, damage):
    path = str(tmp_path / "i.index")
    with IndexWriter(path) as writer:
        writer.add("a.tar", 10, 0, ShardTable(np.ones((5, 2), np.uint32), {"jpg": 5}, ""))
    index = TarIndex(path)
    with open(path, "r+b") as file:
        file.seek(index._start)
        file.write(damage.ljust(index._size))
    with pytest.raises(UserError, match="not whole; run mmjax index --force again"):
        TarIndex(path).shards()


@pytest.mark.parametrize("order", ["global", "windowed"])
def test_a_bucket_that_fails_is_not_one_without_an_index(tmp_path, order):
    folder = write_set(tmp_path / "set")
    WebDataset(str(folder / PATTERN), options=options(tmp_path))
    with serve(tmp_path) as bucket:
        bucket.failing, bucket.fail_until = "[.]index", time.monotonic() + 1000
        with pytest.raises(UserError, match="cannot be read .*503"):
            WebDataset(f"{bucket.url}/set/{PATTERN}", options=options(tmp_path, order=order, retry_seconds=0.3))


def test_an_index_that_a_bucket_forbids_is_taken_to_be_missing(tmp_path, caplog):
    folder = write_set(tmp_path / "set")
    WebDataset(str(folder / PATTERN), options=options(tmp_path))
    with serve(tmp_path) as bucket, caplog.at_level(logging.WARNING, "mmjax.data"):
        bucket.failing, bucket.failure, bucket.fail_until = "[.]index", 403, time.monotonic() + 1000
        with pytest.raises(UserError, match="remote shards need an index"):
            WebDataset(f"{bucket.url}/set/{PATTERN}", options=options(tmp_path))
    assert any("taken to be missing" in record.message for record in caplog.records)


# What is left behind.


@pytest.mark.parametrize("pattern", ["nofolder", "{00007..00009}.tar", "set/no{1,2}.tar"])
def test_failed_opens_leave_no_file(tmp_path, pattern, capsys):
    write_set(tmp_path / "set")
    before = files_below(tmp_path)
    assert index_command(tmp_path / pattern, tmp_path) == 2
    with pytest.raises(UserError, match="no examples in .*: missing"):
        WebDataset(str(tmp_path / pattern), options=options(tmp_path))
    assert files_below(tmp_path) == before and "Traceback" not in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    folder = write_set(tmp_path / "set")
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match=f"data.train=.*{tmp_path}/file/c/index .*neither can {folder}; set data.cache"):
        WebDataset(str(folder), options=options(tmp_path, cache=str(tmp_path / "file" / "c")))


def test_locks_leave_no_file_and_let_one_in_at_a_time(tmp_path):
    inside, most = [], []

    def work():
        for _ in range(50):
            with locked(str(tmp_path / "x")) as mine:
                inside.append(mine)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert most == [1] * 200 and files_below(tmp_path) == []
    with locked(str(tmp_path / "x")), locked(str(tmp_path / "x"), wait=False) as mine:
        assert not mine


def test_one_builds_while_others_wait_and_the_dead_are_passed_over(tmp_path, monkeypatch, caplog):
    path, order = str(tmp_path / "x"), []

    def second():
        with exclusive_build(path) as waited:
            order.append(("second", waited))

    with exclusive_build(path) as waited:
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.3)
        order.append(("first", waited))
    thread.join(10)
    assert order == [("first", False), ("second", True)] and files_below(tmp_path) == []
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    import socket

    for holder in (f"{socket.gethostname()} {ended.pid}", "another-host 1"):
        monkeypatch.setattr(file_locks, "_DEAD_AFTER", 0.5)
        (tmp_path / "x.building").write_text(holder)
        with exclusive_build(path) as waited:
            assert waited
    assert sum("has stopped" in record.message for record in caplog.records) == 2


def test_removed_copies_are_closed(tmp_path, monkeypatch):
    write_set(tmp_path / "set")
    with serve(tmp_path) as bucket:
        cache = ShardCache(str(tmp_path / "cache"), 1.0, Reader(5.0))
        first = cache.get(f"{bucket.url}/set/00000.tar")
        file_pool.pread(first, 0, 10)
        cache.get(f"{bucket.url}/set/00001.tar")
        assert not os.path.exists(first) and first not in file_pool._pool.files
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    file_pool.pread(str(tmp_path / "a"), 0, 1)
    os.remove(tmp_path / "a")  # by another process
    monkeypatch.setattr(file_pool._pool, "next_check", 0.0)
    file_pool.pread(str(tmp_path / "b"), 0, 1)
    assert str(tmp_path / "a") not in file_pool._pool.files


# Shards that change.


def test_a_shard_that_was_replaced_by_one_of_the_same_size_is_noticed(tmp_path):
    folder = write_set(tmp_path / "set")
    WebDataset(str(folder), options=options(tmp_path))
    for path in folder.glob("*.tar"):
        os.utime(path, (1e9, 1e9))  # as a copy has
    assert len(WebDataset(str(folder), options=options(tmp_path))) == TOTAL
    size = os.path.getsize(folder / "00001.tar")
    write_tar(folder / "00001.tar", example(70) + example(71))
    os.truncate(folder / "00001.tar", size)
    with pytest.raises(UserError, match="00001.tar.*run mmjax index .* again"):
        WebDataset(str(folder), options=options(tmp_path))
    assert index_command(folder, tmp_path) == 0
    assert len(WebDataset(str(folder), options=options(tmp_path))) == TOTAL - 5 + 2


def test_sizes_in_a_bucket_are_compared_by_one_listing(tmp_path, store, monkeypatch):
    url, fs, root = store
    assert index_command(f"{url}/{PATTERN}", tmp_path) == 0
    requests = []
    monkeypatch.setattr(Reader, "stamp", lambda self, path: requests.append(path))
    assert len(WebDataset(f"{url}/{PATTERN}", options=options(tmp_path))) == TOTAL and not requests
    fs.pipe_file(f"{root}/00002.tar", fs.cat_file(f"{root}/00002.tar") + bytes(512))
    with pytest.raises(UserError, match="00002.tar"):
        WebDataset(f"{url}/{PATTERN}", options=options(tmp_path))


def test_shards_of_a_bucket_that_have_not_changed_are_not_read_again(tmp_path, store, scanned):
    url, fs, root = store
    assert index_command(f"{url}/{PATTERN}", tmp_path) == 0 and len(scanned) == 4
    scanned.clear()
    fs.pipe_file(f"{root}/00002.tar", fs.cat_file(f"{root}/00001.tar"))
    assert index_command(f"{url}/{PATTERN}", tmp_path) == 0
    assert scanned == [f"{url}/00002.tar"]
    assert len(WebDataset(f"{url}/{PATTERN}", options=options(tmp_path))) == TOTAL - 9 + 5


@pytest.mark.parametrize("remote", [False, True])
def test_what_was_scanned_before_an_error_is_kept(tmp_path, store, remote, monkeypatch, scanned):
    url = store[0] if remote else str(tmp_path / "set")
    scan = scan_lib.scan_shard

    def stopped(path, reader):
        if path.endswith("00003.tar"):
            raise KeyboardInterrupt
        return scan(path, reader)

    with monkeypatch.context() as patch:
        patch.setattr(scan_lib, "scan_shard", stopped)
        shards = [(f"{i:05d}.tar", f"{url}/{i:05d}.tar") for i in range(4)]
        with pytest.raises(KeyboardInterrupt):
            build(shards, str(tmp_path / "x.index"), reader=READER, workers=1)
    assert not (tmp_path / "x.index").exists()
    scanned.clear()
    again = build(
        shards, str(tmp_path / "x.index"), reader=READER, workers=1, previous=[str(tmp_path / "x.index.partial")]
    )
    assert scanned == [f"{url}/00003.tar"] and len(again) == TOTAL and not list(tmp_path.glob("*.partial"))


def test_another_spelling_of_a_pattern_takes_rows_over(tmp_path, scanned):
    folder = write_set(tmp_path / "set")
    WebDataset(str(folder), options=options(tmp_path))
    scanned.clear()
    source = WebDataset(f"{folder}/{{00001..00002}}.tar", options=options(tmp_path))
    assert scanned == [] and [number_of(source[i]) for i in range(14)] == list(range(7, 21))
    names = sorted(path.name.rpartition("-")[0] for path in folder.glob("*.index"))
    assert names == ["mmjax-00001-to-00002", "mmjax-all"]


# Without an index.


@pytest.mark.parametrize("remote", [False, True])
def test_a_shard_is_scanned_by_one_worker_alone(tmp_path, remote, scanned):
    folder = write_set(tmp_path / "set")
    with serve(tmp_path) as bucket:
        base = f"{bucket.url}/set" if remote else str(folder)
        sources = [WebDataset(f"{base}/{PATTERN}", options=options(tmp_path, order="windowed")) for _ in range(2)]
        for source in sources:
            assert [number_of(source[i]) for i in range(TOTAL)] == list(range(TOTAL))
    assert len(scanned) == 4
    if not remote:
        write_tar(
            folder / "00000.tar", [member for number in range(90, 97) for member in example(number, caption="x 5")]
        )
        file_pool.evict(str(folder / "00000.tar"))
        source = WebDataset(f"{base}/{PATTERN}", options=options(tmp_path, order="windowed"))
        assert number_of(source[6]) == 5 and len(scanned) == 5


# Processes.


def test_processes_scan_as_threads_do_and_leave_the_main_module_alone(tmp_path):
    folder = write_set(tmp_path / "set", (2,) * 40)
    (folder / "00007.tar").write_bytes(b"no tar" * 200)
    script = tmp_path / "unguarded.py"
    script.write_text(
        "import sys\n"
        "print('imported', flush=True)\n"
        "from mmjax.data.sources.wds import WebDataset\n"
        "from mmjax.data.source_protocols import SourceOptions\n"
        "print(len(WebDataset(sys.argv[1], options=SourceOptions(max_bad_fraction=1.0))))\n"
    )
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    ran = subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True, env=env)
    assert ran.stdout.split() == ["imported", "78"], ran.stderr
    shards = [(f"{i:05d}.tar", str(folder / f"{i:05d}.tar")) for i in range(40)]
    one = build(shards, str(tmp_path / "one.index"), reader=READER, workers=1)
    other = TarIndex(str(next(folder.glob("*.index"))))
    assert np.array_equal(one.rows(0, 78), other.rows(0, 78))
    theirs, ours = vars(other.shards()), vars(one.shards())
    assert all(json.dumps(np.asarray(theirs[k]).tolist()) == json.dumps(np.asarray(ours[k]).tolist()) for k in ours)


# Patterns.


def test_a_shard_that_is_named_twice_is_refused(tmp_path):
    folder = write_set(tmp_path / "set")
    with pytest.raises(UserError, match="names '.*00001.tar' twice"):
        list_shards(f"{folder}/*.tar::{folder}/00001.tar", reader=READER, where="x")


@pytest.mark.parametrize("slip", ["{00000-00002}", "{00000..0000x}", "{00000...00002}", "{00000..00002x}"])
def test_what_is_meant_for_a_range_is_told(slip):
    with pytest.raises(UserError, match=r"write \{00000\.\.0000"):
        list_files(f"a/{slip}.tar", reader=READER, where="x")
