"""The benchmarks run, at sizes that measure nothing, and print what they promise."""

import importlib
import json
import os
import sys
from unittest import mock

import pytest
import runs


def lines(done):
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_loss():
    done = runs.python(
        "benchmarks/loss.py", "--mesh=1x2x1", "--batches=2**6,128", "--time-batch=64", "--width=8", "--block-size=16",
        "--rounds=2", "--kinds=softmax", "--ids=shared", cwd=runs.ROOT,
    )  # fmt: skip
    found = lines(done)
    memory = {(line["batch"], line["impl"]) for line in found if "temporaries_gb" in line}
    assert memory == {(batch, impl) for batch in (64, 128) for impl in ("dense", "gather", "ring")}
    times = {line["impl"]: line for line in found if "ratio" in line}
    assert set(times) == {"dense", "gather", "ring"} and times["dense"]["ratio"] == 1.0
    assert all(0 < line["seconds_min"] <= line["seconds"] <= line["seconds_max"] for line in times.values())


def test_retrieval():
    done = runs.python(
        "benchmarks/retrieval.py", "--images=30", "--captions-per-image=3", "--width=8", "--likeness=1", "--rounds=2",
        cwd=runs.ROOT,
    )  # fmt: skip
    found = {line["contender"]: line for line in lines(done)}
    assert set(found) == {"sort", "mmjax"} and found["sort"]["ratio"] == 1.0
    for side in ("image", "text"):
        recalls = {line[f"{side}_retrieval_recall@1"] for line in found.values()}
        assert len(recalls) == 1 and 0 < recalls.pop() <= 1
    assert all(line["peak_gb"] > 0 and line["seconds_min"] <= line["seconds"] for line in found.values())


def test_decoding():
    done = runs.python(
        "benchmarks/decoding.py", "--jpegs=32x30@90", "--batch=4", "--output-size=16", "--rounds=1", cwd=runs.ROOT
    )
    found = {line["contender"]: line for line in lines(done)}
    assert set(found) == {"host", "device", "device, Pillow", "decode"} and found["host"]["ratio_to_host"] == 1.0
    assert all(line["images_per_second"] > 0 and line["frame"] == 32 for line in found.values())


@pytest.mark.full
def test_train_step():
    done = runs.python(
        "benchmarks/train_step.py", "--models=tiny", "--batch=8", "--rounds=2", "--steps=1",
        "--config.loss.impl=ring", cwd=runs.ROOT,
    )  # fmt: skip
    (line,) = lines(done)
    assert line["implementation"] == "mmjax" and "loss ring" in line["settings"] and line["memory_gb"] > 0
    assert line["images_per_second"] == pytest.approx(8 / line["seconds"], rel=1e-2)


@pytest.mark.parametrize(
    ("script", "flags", "told"),
    [
        ("train_step", ["--models=B/33"], "did you mean 'B/32'"),
        ("train_step", ["--models=tiny", "--batch=9", "--config.microbatch=2"], "batch_size=9 does not divide"),
        ("retrieval", ["--images=0"], "--images=0: wants at least 1"),
        ("decoding", ["--jpegs=256@95"], "--jpegs=256@95: wants"),
        ("loss", ["--mesh=8x1"], "--mesh=8x1: wants"),
        ("loss", ["--batches=2**x"], "--batches=2**x: wants"),
        ("loss", ["--kinds=softmaxx"], "did you mean 'softmax'"),
        ("loss", ["--time-batch=12"], "12 does not divide over the 8 devices"),
        ("loss", ["--config.steps=3"], "--config.steps: this benchmark reads no config"),
    ],
)
def test_a_mistake_is_one_line(script, flags, told, monkeypatch, capsys):
    monkeypatch.syspath_prepend(runs.ROOT / "benchmarks")
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *flags])
    with mock.patch.dict(os.environ):
        status = importlib.import_module(script).main()
    error = capsys.readouterr().err
    assert status == 2 and told in error and len(error.strip().splitlines()) == 1
