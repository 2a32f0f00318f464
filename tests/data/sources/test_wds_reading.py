"""Reading shards: every example once, whoever reads, and from buckets."""

import collections
import os
import pickle

import pytest

from mmjax.cli import main
from mmjax.data.loading.batches import train_batches
from mmjax.data.mixture import open_source
from mmjax.data.sources.wds import WebDataset
from mmjax.data.webdataset.shard_list import list_shards
from mmjax.errors import UserError
from mmjax.io.reader import Reader
from tests.helpers.http_server import serve
from tests.helpers.tar_sets import TOTAL, ids, make_examples, number_of, options, write_set

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
    source = WebDataset(str(write_set(tmp_path / "set", lengths)), options=options(tmp_path, order=order))
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
    source = WebDataset(str(write_set(tmp_path / "set", lengths)), options=options(tmp_path, order=order))
    one_host = read(make_examples(source, order), 0, 4, 1, threads=0)
    for hosts, start in ((1, 0), (2, 1)):
        assert read(make_examples(source, order), start, 4, hosts, workers=2) == one_host[start:]


# Buckets.


def test_remote_shards_are_indexed_by_the_command_and_trained_on(tmp_path):
    local = WebDataset(str(write_set(tmp_path / "set")), options=options(tmp_path))
    os.remove(next((tmp_path / "set").glob("*.index")))
    with serve(tmp_path) as bucket:
        pattern = f"{bucket.url}/set/{{00000..00003}}.tar"
        with pytest.raises(UserError, match="run mmjax index '.*', or set data.order=windowed"):
            WebDataset(pattern, options=options(tmp_path))
        assert main.main(["index", pattern, "--cache", str(tmp_path / "cache")]) == 0
        source = WebDataset(pattern, options=options(tmp_path))
        bucket.requests.clear()
        for index in (0, 6, 7, 26):
            assert {**source[index], "id": 0, "path": ""} == {**local[index], "id": 0, "path": ""}
        assert [byte_range.startswith("bytes=") for _, _, byte_range in bucket.requests] == [
            True
        ] * 4  # one request an example
        assert len({e for batch in read(make_examples(source), 0, 9, 1, threads=4) for e in batch}) == TOTAL


def test_an_index_beside_remote_shards_is_found(tmp_path):
    folder = write_set(tmp_path / "set")
    WebDataset(str(folder / "{00000..00003}.tar"), options=options(tmp_path))
    with serve(tmp_path) as bucket:
        source = WebDataset(
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
        complete = [path for method, path, byte_range in bucket.requests if method == "GET" and byte_range is None]
        assert sorted(complete) == [f"/set/{i:05d}.tar" for i in range(4)]  # each downloaded once
        os.remove(folder / "00003_stats.json")
        with pytest.raises(UserError, match="nothing tells how many examples 1 of 4 shards have"):
            open_source(spec, chosen)


def test_a_folder_of_a_bucket_is_listed(tmp_path):
    write_set(tmp_path / "set")
    with serve(tmp_path) as bucket:
        assert list_shards(f"{bucket.url}/set/*.tar", reader=Reader(2.0), where="x").names == [
            f"{i:05d}.tar" for i in range(4)
        ]
        source = WebDataset(f"{bucket.url}/set", options=options(tmp_path, order="windowed"))
        assert len(source) == TOTAL and source.name == "set"


def test_a_server_without_ranges_is_read_all_the_same(tmp_path, caplog):
    write_set(tmp_path / "set")
    with serve(tmp_path) as bucket:
        bucket.ranges = False
        pattern = f"{bucket.url}/set/{{00000..00003}}.tar"
        assert main.main(["index", pattern, "--cache", str(tmp_path / "cache")]) == 0
        source = WebDataset(pattern, options=options(tmp_path))
        assert [number_of(source[i]) for i in range(TOTAL)] == list(range(TOTAL))
    assert sum("sends whole files" in record.message for record in caplog.records) == 1


def test_an_index_is_made_of_a_bucket_that_fails_for_a_while(tmp_path, capsys):
    write_set(tmp_path / "set")
    with serve(tmp_path) as bucket:
        bucket.fail_next = 3
        pattern = f"{bucket.url}/set/{{00000..00003}}.tar"
        assert main.main(["index", pattern, "--cache", str(tmp_path / "cache"), "--retry-seconds", "20"]) == 0
        assert f"examples: {TOTAL}" in capsys.readouterr().out
        bucket.fail_until = float("inf")
        again = ["index", pattern, "--cache", str(tmp_path / "cache"), "--retry-seconds", "0.3"]
        assert main.main(again) == 2
        assert "503" in capsys.readouterr().err
