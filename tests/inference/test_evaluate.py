"""Evaluating a checkpoint needs the workdir alone, and gives what the training run saw."""

import json
import shutil
import subprocess
import sys
import uuid
from unittest import mock

import pytest

from mmjax.cli import eval
from mmjax.evaluation import from_config
from mmjax.io import paths
from mmjax.report import page
from mmjax.training import hooks
from tests.helpers import runs

EVAL = "digits/test"


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Images that lie outside the workdir."""
    folder = tmp_path_factory.mktemp("data")
    return runs.write_pairs(folder / "pairs"), runs.write_classes(folder / "pets")


@pytest.fixture(scope="module")
def trained(tables, tmp_path_factory):
    """A run on a table of JPEGs; everything is kept."""
    workdir = tmp_path_factory.mktemp("somewhere") / "run"
    config = runs.config(steps=4, data__train=f"pairs:{tables[0]}", data__eval=EVAL, checkpoint__keep=9)
    config.eval.every = 3
    assert runs.train(config, workdir) is None
    assert runs.steps(workdir) == [3, 4]
    return workdir


def in_training(workdir, step):
    """The evaluation lines of metrics.jsonl as eval.py gives them: metrics by data set."""
    (line,) = [line for line in runs.lines(workdir, "eval") if line["step"] == step]
    result = {}
    for name, value in line.items():
        dataset, slash, metric = name.rpartition("/")
        if slash:
            result.setdefault(dataset, {})[metric] = value
    return result


def by_dataset(path):
    return {record["dataset"]: record["metrics"] for record in json.loads(path.read_text())}


def test_elsewhere_it_gives_the_same_numbers(trained, tmp_path, capsys):
    """On another path, with nothing compiled before, and no trace of where the run was."""
    workdir = tmp_path / "moved"
    shutil.copytree(trained, workdir)
    hidden = trained.rename(trained.with_name("hidden"))
    try:
        # Without runs.eval_cli: nothing is shared with the training run.
        with runs.on_devices(1), mock.patch.dict("os.environ"):
            assert eval.main([f"--workdir={workdir}"]) == 0
    finally:
        hidden.rename(trained)
    expected = in_training(trained, 4)
    rates = {"acc1", "acc5", "mean_per_class_recall", "macro_f1"}
    assert set(expected) == {"digits"} and rates | {"loss"} == set(expected["digits"])
    assert by_dataset(workdir / "eval" / "4.json") == expected

    out, err = capsys.readouterr()
    assert err == ""
    assert f"{100 * expected['digits']['acc1']:.2f}%" in out and "top-1" in out
    assert str(workdir / "eval" / "4.json") in out and str(workdir / "eval" / "4.html") in out
    assert "<html" in (workdir / "eval" / "4.html").read_text()
    assert not (workdir / "report.html").exists()  # which is the training run's, and this one wrote none
    (record,) = json.loads((workdir / "eval" / "4.json").read_text())
    assert list(record) == ["dataset", "model", "pretrained", "task", "metrics", "language"]
    assert record["model"] == "tiny" and record["pretrained"] == f"{workdir}@4" and record["language"] == "en"
    assert record["task"] == "zeroshot_classification"
    assert all(0 <= value <= 1 for name, value in record["metrics"].items() if name != "loss")


@pytest.fixture
def no_report():
    with mock.patch.object(page, "write_report"):
        yield


def test_another_step_and_another_file(trained, tmp_path, no_report):
    before = runs.snapshot(trained)
    output = tmp_path / "deep" / "result.json"
    assert runs.eval_cli(f"--workdir={trained}", "--step=3", f"--output={output}") == 0
    assert by_dataset(output) == in_training(trained, 3)
    assert runs.snapshot(trained) == before  # the report apart, which has been patched away


def test_other_data(trained, tables, tmp_path, no_report):
    output = tmp_path / "result.json"
    pairs, pets = tables
    flags = ["--config.data.eval", f"folder:{pets}+pairs:{pairs}", "--config.eval.batch_size=4"]
    assert runs.eval_cli(f"--workdir={trained}", f"--output={output}", *flags) == 0
    result = by_dataset(output)
    assert list(result) == ["pets", "captions"]
    assert {"acc1", "mean_per_class_recall"} <= set(result["pets"]) and 0 <= result["pets"]["acc1"] <= 1
    assert {"image_retrieval_recall@1", "text_retrieval_recall@5"} <= set(result["captions"])


@pytest.mark.full
def test_other_batches_and_devices_change_rounding_only(trained, tmp_path, no_report):
    output = tmp_path / "result.json"
    flags = [f"--workdir={trained}", f"--output={output}", "--config.eval.batch_size=32", "--config.mesh.fsdp=2"]
    assert runs.eval_cli(*flags, devices=2) == 0
    (result,), (expected,) = by_dataset(output).values(), in_training(trained, 4).values()
    for name in set(expected) - {"loss"}:
        assert result[name] == pytest.approx(expected[name], abs=2 / 355), name


@pytest.mark.parametrize(
    "flag", ["model.image.width=64", "variant=B/16", "data.tokenizer=clip", "ema_decay=0.0", "objectives.itc=2"]
)
def test_what_was_trained_is_fixed(trained, flag, capsys):
    assert runs.eval_cli(f"--workdir={trained}", f"--config.{flag}") == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: --config.{flag}: this belongs to the trained model")
    assert "data.eval" in message and len(message.splitlines()) == 1


@pytest.mark.parametrize("output", ["", "/", "/page.html"])
def test_results_go_to_a_json_file(trained, tmp_path, output, capsys):
    with mock.patch.object(from_config, "Evaluator", side_effect=ZeroDivisionError):
        assert runs.eval_cli(f"--workdir={trained}", f"--output={tmp_path}{output}") == 2
    assert f"such as {tmp_path}/results.json" in capsys.readouterr().err


def test_a_workdir_on_another_file_system(tables, capsys):
    """memory:// works like a local disk: train, go on, keep the latest, evaluate."""
    workdir = f"memory://mmjax-{uuid.uuid4().hex}/run"
    flags = [f"--workdir={workdir}", f"--config.data.train=pairs:{tables[0]}", f"--config.data.eval=pairs:{tables[0]}"]
    flags += ["--config.checkpoint.every=2", "--config.checkpoint.keep=2", "--config.log.tensorboard=true"]
    folder = paths.as_path(workdir)
    try:
        assert runs.train_cli(*flags, f"--config={runs.RECIPE}:steps=5") == 0
        assert runs.train_cli(*flags, f"--config={runs.RECIPE}:steps=8") == 0
        out = capsys.readouterr().out
        assert "resumed at step 5 of 8" in out and f"done: step 8 of {workdir}" in out
        names = runs.snapshot(folder)
        assert {name.split("/")[1] for name in names if name.startswith("checkpoints/")} == {"6", "8"}
        lines = [json.loads(line) for line in names["metrics.jsonl"].decode().splitlines()]
        assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, 9))
        assert json.loads(names["config.json"])["steps"] == 8
        assert sum(name.startswith("tensorboard/events.out.tfevents") for name in names) == 2

        assert runs.eval_cli(f"--workdir={workdir}") == 0
        names = runs.snapshot(folder)
        (record,) = json.loads(names["eval/8.json"])
        (last,) = [line for line in lines if line["kind"] == "eval" and line["step"] == 8]
        expected = {name.split("/")[1]: value for name, value in last.items() if name.startswith("captions/")}
        assert record["metrics"] == expected
        assert b"<html" in names["eval/8.html"]
        assert f"{workdir}@8" == record["pretrained"]
    finally:
        paths.remove_tree(folder)


@pytest.mark.full
def test_a_memory_run_is_a_local_run(tables, tmp_path):
    """The file system changes no number."""
    workdir = f"memory://mmjax-{uuid.uuid4().hex}"
    try:
        config = runs.config(steps=5, data__train=f"pairs:{tables[0]}", checkpoint__every=2)
        assert runs.train(config, tmp_path) is None
        with mock.patch.object(hooks, "write_summary", side_effect=ZeroDivisionError), pytest.raises(ZeroDivisionError):
            runs.train(config, workdir)
        assert runs.train(config, workdir) is None
        assert runs.numbers(workdir) == runs.numbers(tmp_path)
    finally:
        paths.remove_tree(paths.as_path(workdir))


@pytest.mark.full
def test_as_people_run_it(tmp_path):
    """`python train.py`, the workdir moved away, `python eval.py`: the same numbers, with the embedded data."""
    command = [f"--config={runs.RECIPE}", f"--workdir={tmp_path / 'a'}", "--config.data.train=shapes@0.5+digits@0.5"]
    command += ["--config.data.eval=shapes/test+digits/test", "--config.eval.batch_size=64"]
    done = runs.python(runs.ROOT / "train.py", *command)
    assert done.returncode == 0, done.stderr
    (tmp_path / "a").rename(tmp_path / "b")
    done = subprocess.run(
        [sys.executable, runs.ROOT / "eval.py", "--workdir=b"],
        cwd=tmp_path,
        env=runs.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert by_dataset(tmp_path / "b" / "eval" / "8.json") == in_training(tmp_path / "b", 8)
    assert "shapes" in done.stdout and "digits" in done.stdout and "R@1" in done.stdout
