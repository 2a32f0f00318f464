"""The workdir of a run: one writer at a time, and whether a run may begin or go on in it."""

import errno
import json
import os
import shutil
from unittest import mock

import pytest

from campaigns import kills, no_room, two_writers
from mmjax.errors import MachineError, UserError
from mmjax.io import paths, writer_lease
from mmjax.training import checkpoint, metrics_log, resumed_run
from mmjax.training.step_agreement import StepAgreement
from mmjax.training.workdir import Start
from tests.helpers import runs

CONFIG = ["--config.steps=2", "--config.eval.every=0", "--config.checkpoint.every=1"]


def short():
    return runs.config(steps=2, eval__every=0, checkpoint__every=1)


def test_a_second_run_is_refused(tmp_path, capsys):
    with_lease = writer_lease.claim(paths.as_path(tmp_path), "--workdir", writer_lease.LeaseSettings())
    before = runs.snapshot(tmp_path)
    assert runs.train_cli(f"--workdir={tmp_path}", *CONFIG) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert f"--workdir={tmp_path}: process " in line and " since " in line
    assert runs.snapshot(tmp_path) == before
    # What only reads claims nothing.
    assert runs.train_cli(f"--workdir={tmp_path}", "--dry-run", *CONFIG) == 0
    with_lease.release()
    assert runs.train_cli(f"--workdir={tmp_path}", *CONFIG) == 0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".writer")]


def pass_over(folder, step):
    """Another machine takes the workdir over at a step."""
    post = StepAgreement.post

    def at_step(self, reasons, number):
        if number == step:
            (folder / ".writer.json").write_text(json.dumps({"host": "other", "pid": 7, "id": "x", "since": "noon"}))
            at_step.before = runs.snapshot(folder)
        return post(self, reasons, number)

    return mock.patch.object(StepAgreement, "post", at_step), at_step


def test_a_run_that_was_passed_over_writes_nothing(tmp_path, capsys):
    config = [*CONFIG, "--config.checkpoint.every=8", "--config.steps=8"]
    patched, at_step = pass_over(tmp_path, 5)
    with patched:
        assert runs.train_cli(f"--workdir={tmp_path}", *config) == 75
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("stopped: ")]
    assert "process 7 on other" in line
    del at_step.before[".writer.lock"]  # its own, which goes
    assert runs.snapshot(tmp_path) == at_step.before


def test_a_workdir_that_is_gone(tmp_path, capsys):
    post, run = StepAgreement.post, tmp_path / "run"

    def at_step(self, reasons, number):
        if number == 5:
            shutil.rmtree(run)
        return post(self, reasons, number)

    with mock.patch.object(StepAgreement, "post", at_step):
        assert runs.train_cli(f"--workdir={run}", *CONFIG, "--config.checkpoint.every=8", "--config.steps=8") == 75
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("stopped: ")]
    assert f"--workdir={run}" in line
    assert not run.exists()


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.json", "checkpoints"])
def test_a_disk_that_is_full(name, tmp_path, capsys):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    method = {
        "metrics.jsonl": (metrics_log.MetricsFile, "write"),
        "config.json": (resumed_run, "to_json"),
        "checkpoints": (checkpoint.Checkpoints, "save"),
    }[name]
    with mock.patch.object(*method, side_effect=full):
        assert runs.train_cli(f"--workdir={tmp_path}", *CONFIG) == 75
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("stopped: ")]
    assert f"--workdir={tmp_path}: no space is left" in line
    assert runs.train_cli(f"--workdir={tmp_path}", *CONFIG) == 0
    assert sorted(step for kind, step in runs.numbers(tmp_path) if kind == "train") == [1, 2]


@pytest.mark.parametrize("failing", [UserError("a mistake"), KeyboardInterrupt()])
def test_a_run_that_fails_gives_it_back(failing, tmp_path):
    with mock.patch.object(StepAgreement, "post", side_effect=failing), pytest.raises(type(failing)):
        runs.train(short(), tmp_path / "run")
    with mock.patch("mmjax.training.metrics_log.Logger", side_effect=failing), pytest.raises(type(failing)):
        runs.train(short(), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert runs.train(short(), tmp_path / "run") is None


def test_whether_it_may_resume(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(UserError, match="--resume=must"):
        runs.train(short(), run, start=Start("must"))
    assert not run.exists()
    assert runs.train(short(), run, start=Start("never")) is None
    before = runs.snapshot(run)
    with pytest.raises(UserError, match="--resume=never"):
        runs.train(short(), run, start=Start("never"))
    assert runs.snapshot(run) == before
    assert runs.train(short(), run, start=Start("must")) is None
    for start in (Start("maybe"), Start("must", overwrite=True)):
        with pytest.raises(UserError, match="--resume="):
            runs.train(short(), run, start=start)


def test_a_run_is_written_over(tmp_path):
    """Also one of another model, which could not be resumed."""
    other = short()
    other.optimizer.name = "lion"
    assert runs.train(other, tmp_path) is None
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds another model"):
        runs.train(short(), tmp_path)
    for name in ("traceback.txt", "wandb_run_id"):
        (tmp_path / name).write_text("of the run before")
    assert runs.train_cli(f"--workdir={tmp_path}", "--overwrite", "--resume=never", *CONFIG) == 0
    assert not (tmp_path / "traceback.txt").exists() and not (tmp_path / "wandb_run_id").exists()
    assert runs.train(short(), tmp_path / "fresh") is None
    assert runs.numbers(tmp_path) == runs.numbers(tmp_path / "fresh")
    assert runs.steps(tmp_path) == [1, 2] and (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("value", ["", " "])
def test_no_workdir(value, capsys):
    assert runs.train_cli(f"--workdir={value}") == 2
    assert runs.eval_cli(f"--workdir={value}") == 2
    assert all(line.startswith("error: ") for line in capsys.readouterr().err.splitlines())
    with pytest.raises(UserError, match="is empty"):
        runs.train(short(), value)


def test_a_lost_lease_is_a_machines_fault():
    assert issubclass(writer_lease.LostLease, MachineError)


@pytest.mark.full
def test_no_room():
    assert all(outcome.startswith("ok") for outcome in no_room.run(1, seed=0))


@pytest.mark.full
def test_two_writers():
    assert all(outcome.endswith(": ok") for outcome in two_writers.run(1, seed=0))


@pytest.mark.full
def test_kills_at_random():
    """Of a run and of a worker; `python -m campaigns.kills` kills one of two processes, too."""
    assert all(outcome.endswith(": ok") for outcome in kills.run(2, seed=0, most=1))
