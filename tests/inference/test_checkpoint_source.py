"""Opened checkpoints of runs that go on meanwhile, on hosts that see a shared disk at different times."""

import json
import shutil
import socket

import pytest

from mmjax.errors import GlobalUserError, UserError
from mmjax.inference import checkpoint_source
from mmjax.parallel import process_agreement
from mmjax.training import checkpoint
from tests import test_old_checkpoints


@pytest.fixture
def workdir(tmp_path):
    """A run with one checkpoint."""
    test_old_checkpoints.unpack("clip", tmp_path)
    return tmp_path


def _steps(workdir):
    return checkpoint.Checkpoints(workdir / "checkpoints", read_only=True).all_steps()


def _add_checkpoint(workdir, step):
    folder = workdir / "checkpoints"
    shutil.copytree(folder / str(_steps(workdir)[0]), folder / str(step))
    path = folder / str(step) / "meta" / "metadata"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"position": step}))


def test_a_host_whose_disk_lags_waits_for_the_step_of_process_0(workdir, monkeypatch):
    opened = checkpoint_source.RunCheckpoint(workdir)
    newer = opened.step + 1
    _add_checkpoint(workdir, newer)
    listing, looks = checkpoint.Checkpoints.all_steps, []

    def lagging(self):
        looks.append(1)
        return [step for step in listing(self) if step != newer or len(looks) > 3]

    monkeypatch.setattr(checkpoint.Checkpoints, "all_steps", lagging)
    monkeypatch.setattr(process_agreement, "broadcast_from_0", lambda step: newer)
    opened.agree_on_step()
    assert opened.step == newer and opened.meta["position"] == newer
    params = opened.read_unsharded()
    assert params["logit_scale"].shape == ()


def test_a_step_that_a_host_never_sees_is_a_mistake_of_all(workdir, monkeypatch):
    opened = checkpoint_source.RunCheckpoint(workdir)
    monkeypatch.setattr(process_agreement, "_VISIBILITY", 0.0)
    monkeypatch.setattr(process_agreement, "broadcast_from_0", lambda step: 999)
    with pytest.raises(
        UserError, match=f"^{workdir}: checkpoint 999 is not seen by this host; give a folder on a disk"
    ):
        opened.agree_on_step()


@pytest.mark.parametrize("mine", [True, False], ids=["here", "elsewhere"])
def test_a_step_that_one_host_misses_stops_all_before_they_read(mine, workdir, monkeypatch):
    """In the collective read no host raises by itself, and none waits in it for one that has raised."""
    opened = checkpoint_source.RunCheckpoint(workdir)
    errors = []

    def raise_on_all(error):
        errors.append(error)
        raise GlobalUserError("of one of them")

    monkeypatch.setattr(process_agreement, "raise_error_on_all", raise_on_all)
    monkeypatch.setattr(checkpoint.Checkpoints, "restore_params", None)
    if mine:
        monkeypatch.setattr(checkpoint.Checkpoints, "all_steps", lambda self: [opened.step + 1])
    with pytest.raises(GlobalUserError, match="^of one of them$"):
        opened.read_unsharded()
    assert [str(error) for error in errors] == (
        [f"step={opened.step}: there is no such checkpoint; there are {opened.step + 1}"] if mine else ["None"]
    )


def test_a_server_that_does_not_answer_is_a_mistake():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(UserError, match=f"^http://127.0.0.1:{port}/run: cannot be looked at"):
        checkpoint_source.open_checkpoint(f"http://127.0.0.1:{port}/run")
