"""Local shards are read ahead in the background, once, and nothing that goes wrong there is anybody's trouble."""

import pickle
import threading

import pytest

from mmjax.data.sources.wds import WebDataset
from mmjax.io import page_cache
from mmjax.io.page_cache import ReadAhead, read_through
from tests.helpers.tar_sets import TOTAL, make_examples, number_of, options, write_set


def wait():
    for thread in threading.enumerate():
        if thread.name == page_cache.THREAD_NAME:
            thread.join(60)
            assert not thread.is_alive()


@pytest.fixture
def read_paths(monkeypatch):
    """The files that were read, in order."""
    paths = []

    def read(path, limit):
        paths.append(path)
        return read_through(path, limit)

    monkeypatch.setattr(page_cache, "read_through", read)
    return paths


def test_a_file_is_read_to_its_end_or_to_the_limit(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes(3_000_000))
    assert read_through(str(path), 10**9) == 3_000_000
    assert 1_000_000 <= read_through(str(path), 1_000_000) < 3_000_000
    with pytest.raises(FileNotFoundError):
        read_through(str(tmp_path / "none"), 1)


def test_files_are_read_in_order_and_once(tmp_path, read_paths):
    paths = [str(tmp_path / name) for name in "abcd"]
    for path in paths:
        with open(path, "wb") as file:
            file.write(bytes(1000))
    ahead = pickle.loads(pickle.dumps(ReadAhead()))
    ahead.prefetch(paths[:3])
    wait()
    assert read_paths == paths[:3]
    ahead.prefetch(paths[1:])  # the next window
    wait()
    assert read_paths == paths


def test_no_more_is_read_than_the_memory_has_room_for(tmp_path, read_paths):
    paths = [str(tmp_path / name) for name in "abcd"]
    for path in paths:
        with open(path, "wb") as file:
            file.write(bytes(1000))
    ahead = ReadAhead(limit=1500)
    ahead.prefetch(paths)
    wait()
    assert read_paths == paths[:2]
    ahead.prefetch(paths[2:])  # the first two are no longer needed
    wait()
    assert read_paths == paths


def test_files_that_cannot_be_read_are_passed_over(tmp_path, read_paths):
    (tmp_path / "b").write_bytes(b"x")
    paths = [str(tmp_path / "none"), str(tmp_path), str(tmp_path / "b")]
    ahead = ReadAhead()
    ahead.prefetch(paths)
    wait()
    assert read_paths == paths and ahead._done[paths[2]] == 1


@pytest.mark.parametrize("stats", [True, False])
def test_windowed_reads_each_local_shard_of_an_epoch_ahead_once(tmp_path, read_paths, stats):
    folder = write_set(tmp_path / "set", stats=stats)
    source = WebDataset(str(folder), options=options(tmp_path, order="windowed"))
    examples = make_examples(source, "windowed", window=2)
    for position in range(TOTAL):
        examples[position]
        wait()
    assert sorted(read_paths) == [str(folder / f"{shard:05d}.tar") for shard in range(4)]
    read_paths.clear()
    source.prefetch_shards([0, 1, 2, 3])
    (folder / "00002.tar").unlink()
    source.prefetch_shards([2])
    wait()
    assert number_of(source[0]) == 0


def test_the_order_global_reads_nothing_ahead(tmp_path, read_paths):
    source = WebDataset(str(write_set(tmp_path / "set")), options=options(tmp_path))
    source.prefetch_shards([0, 1])
    wait()
    assert read_paths == []
