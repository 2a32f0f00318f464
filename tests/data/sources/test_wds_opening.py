"""Opening shards: by an index, or by the lengths that they declare."""

import json
import logging
import os
import pickle
import re
import shutil
import subprocess
import sys

import pytest

from mmjax import tasks
from mmjax.cli import main
from mmjax.config import parse
from mmjax.config.schema import base_config
from mmjax.data.bad_example import BadExample
from mmjax.data.mixture import parse_eval, parse_mixture
from mmjax.data.sources.wds import WebDataset
from mmjax.data.webdataset.index_file import HEAD_BYTES
from mmjax.errors import UserError
from tests.helpers.tar_sets import LENGTHS, TOTAL, example, number_of, options, write_set, write_tar

# The index.


def test_the_index_is_built_once_and_lies_beside_the_shards(tmp_path, capfd):
    folder = write_set(tmp_path / "set")
    first = WebDataset(str(folder), options=options(tmp_path))
    assert "indexing shards" in capfd.readouterr().err
    (index,) = folder.glob("mmjax-*.index")
    before = index.stat().st_mtime_ns
    again = WebDataset(f"{folder}/*.tar", options=options(tmp_path))
    assert index.stat().st_mtime_ns == before and capfd.readouterr().err == ""
    assert first[4]["id"] == again[4]["id"]
    moved = tmp_path / "moved"
    shutil.move(folder, moved)
    assert number_of(WebDataset(str(moved), options=options(tmp_path))[20]) == 20
    assert capfd.readouterr().err == ""  # it moves with them


def test_an_index_that_cannot_lie_there_lies_in_the_cache(tmp_path, monkeypatch):
    folder = write_set(tmp_path / "set")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert len(WebDataset(str(folder), options=options(tmp_path))) == TOTAL
    assert not list(folder.glob("*.index")) and len(list((tmp_path / "cache" / "index").glob("*.index"))) == 1


@pytest.mark.parametrize("change", ["grown", "new", "appeared"])
def test_an_index_of_other_shards_is_refused_until_it_is_made_again(tmp_path, change):
    folder = write_set(tmp_path / "set")
    pattern = f"{folder}/{{00000..00004}}.tar" if change == "appeared" else str(folder)
    before = len(WebDataset(pattern, options=options(tmp_path, max_bad_fraction=0.2)))
    name = "00001.tar" if change == "grown" else "00004.tar"
    write_tar(folder / name, [member for number in range(50, 100) for member in example(number)])
    with pytest.raises(UserError, match=f"{name}.*run mmjax index '.*' again"):
        WebDataset(pattern, options=options(tmp_path))
    assert main.main(["index", pattern, "--cache", str(tmp_path / "cache")]) == 0
    assert len(WebDataset(pattern, options=options(tmp_path))) == before + 50 - (5 if change == "grown" else 0)


@pytest.mark.parametrize("pattern", ["*.tar", "{00000..00003}.tar"])
def test_shards_that_vanish_or_shrink_are_borne(tmp_path, pattern, caplog):
    folder = write_set(tmp_path / "set")
    good = WebDataset(f"{folder}/{pattern}", options=options(tmp_path))
    expected = {i: good[i] for i in range(TOTAL)}
    os.remove(folder / "00001.tar")
    (folder / "00002.tar").write_bytes((folder / "00002.tar").read_bytes()[:4000])
    del good
    from mmjax.io import file_pool

    file_pool.evict(str(folder / "00001.tar"))
    with pytest.raises(UserError, match="shards missing: 1 of 4, cut off or no tars: 1 of 4"):
        WebDataset(f"{folder}/{pattern}", options=options(tmp_path))
    with caplog.at_level(logging.WARNING, "mmjax.data"):
        source = WebDataset(f"{folder}/{pattern}", options=options(tmp_path, max_bad_fraction=0.5))
    assert [record.message for record in caplog.records] == [
        "set: shards missing: 1 of 4, cut off or no tars: 1 of 4 (first: 00001.tar: missing)"
    ]
    for index in range(TOTAL):
        if 7 <= index < 12:
            with pytest.raises(FileNotFoundError):
                source[index]
        elif index in (12, *range(22, TOTAL)) or index < 7:
            assert source[index] == expected[index]
    with pytest.raises(BadExample, match="cut"):
        source[20]


def damaged_set(folder):
    """Three shards: one is whole, one is cut in half, one is absent."""
    write_set(folder, (20, 20, 20), stats=False)
    (folder / "00001.tar").write_bytes((folder / "00001.tar").read_bytes()[:20_000])
    os.remove(folder / "00002.tar")
    return f"{folder}/{{00000..00002}}.tar"


FAULTS = r"shards missing: 1 of 3, cut off or no tars: 1 of 3 \(first: 00001.tar: "


@pytest.mark.parametrize("order", ["global", "windowed"])
def test_faults_that_are_there_when_the_index_is_built_are_told(tmp_path, caplog, order):
    pattern = damaged_set(tmp_path / "set")
    chosen = options(tmp_path, order=order)
    for _ in range(2):  # the index is built, and is found
        with pytest.raises(UserError, match=FAULTS + r".*run mmjax index .*data.max_bad_fraction=0.67"):
            WebDataset(pattern, options=chosen)
    with caplog.at_level(logging.WARNING, "mmjax.data"):
        source = WebDataset(pattern, options=options(tmp_path, order=order, max_bad_fraction=0.67))
    assert 20 < len(source) < 40
    (record,) = caplog.records
    assert re.match("set: " + FAULTS, record.message)


@pytest.mark.parametrize(("missing", "fraction", "is_refused"), [(1, 0.01, True), (1, 0.34, False), (2, 0.34, True)])
def test_shards_may_be_missing_up_to_a_share_and_none_of_evaluation_s(tmp_path, missing, fraction, is_refused):
    folder = write_set(tmp_path / "set", (2, 2, 2), stats=False)
    for shard in range(missing):
        os.remove(folder / f"{shard:05d}.tar")
    config = base_config()
    config.data.max_bad_fraction, config.data.cache = fraction, str(tmp_path / "cache")
    spec = f"wds:{folder}/{{00000..00002}}.tar"
    with pytest.raises(UserError, match="evaluation is on all of a set: repair or fetch") as error:
        parse_eval(spec, tasks.source_options(parse(config), evaluation=True))
    assert str(error.value).startswith(f"data.eval='{spec}': ")
    if is_refused:
        with pytest.raises(UserError, match=f"shards missing: {missing} of 3"):
            parse_mixture(spec, tasks.source_options(parse(config)))
    else:
        assert len(parse_mixture(spec, tasks.source_options(parse(config)))[0][0]) == 2 * (3 - missing)


def test_a_shard_without_examples_is_no_fault(tmp_path, caplog):
    folder = write_set(tmp_path / "set", (3, 0, 3), stats=False)  # where no download has succeeded
    assert len(WebDataset(str(folder), options=options(tmp_path, max_bad_fraction=0.0))) == 6 and not caplog.records


def test_a_source_travels_small(tmp_path):
    source = WebDataset(str(write_set(tmp_path / "set")), options=options(tmp_path))
    expected = source[5]
    data = pickle.dumps(source)
    assert len(data) < 4000 and pickle.loads(data)[5] == expected


# The order `windowed`.


@pytest.mark.parametrize("declared_by", ["stats", "sizes"])
def test_windowed_needs_only_the_lengths(tmp_path, declared_by):
    folder = write_set(tmp_path / "set", stats=declared_by == "stats")
    if declared_by == "sizes":
        sizes = {f"{i:05d}.tar": n for i, n in enumerate(LENGTHS)}
        (folder / "sizes.json").write_text(json.dumps(sizes))
    source = WebDataset(str(folder), options=options(tmp_path, order="windowed"))
    assert not list(folder.glob("*.index")) and source.shard_lengths.tolist() == list(LENGTHS)
    assert [number_of(source[i]) for i in range(TOTAL)] == list(range(TOTAL))


def test_local_shards_without_lengths_are_indexed(tmp_path):
    folder = write_set(tmp_path / "set", stats=False)
    source = WebDataset(str(folder), options=options(tmp_path, order="windowed"))
    assert source.shard_lengths.tolist() == list(LENGTHS) and list(folder.glob("*.index"))


def test_shards_with_fewer_or_more_examples_than_declared(tmp_path, caplog):
    folder = write_set(tmp_path / "set")
    (folder / "00000_stats.json").write_text('{"successes": 9}')
    (folder / "00001_stats.json").write_text('{"successes": 3}')
    source = WebDataset(str(folder), options=options(tmp_path, order="windowed"))
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
        WebDataset(str(folder), options=options(tmp_path, order="windowed"))


@pytest.mark.full
def test_processes_index_many_shards_alike(tmp_path):
    folder = write_set(tmp_path / "set", (2,) * 40)
    results = []
    for workers in (1, 2):
        output = tmp_path / f"{workers}.index"
        command = ["index", str(folder), "--force", "--workers", str(workers), "--output", str(output)]
        code = "import sys; from mmjax.cli.main import main; sys.exit(main())"
        ran = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
        assert ran.returncode == 0 and "examples: 80" in ran.stdout, ran.stderr
        results.append(output.read_bytes())
    assert results[0][HEAD_BYTES:] == results[1][HEAD_BYTES:]
