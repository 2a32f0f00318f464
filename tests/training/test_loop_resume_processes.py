"""Processes of a run that are signalled or killed."""

import os
import signal
import subprocess
import sys
import time
import uuid

import pytest

from tests.helpers import campaign, processes, runs
from tests.training.test_loop_resume import no_process_is_left  # noqa: F401  for each test here


class Process:
    """`python train.py` with the tiny recipe, on one device."""

    started: list[subprocess.Popen] = []

    def __init__(self, workdir, *overrides):
        flags = [f"--config={runs.RECIPE}", f"--workdir={workdir}", *overrides]
        self.workdir = workdir
        self.output = workdir.with_name(f"{workdir.name}-{uuid.uuid4().hex}.txt")
        with self.output.open("w") as file:
            command = [sys.executable, str(runs.ROOT / "train.py"), *flags]
            # Of its own process group, as a terminal makes one.
            self.popen = subprocess.Popen(
                command, env=runs.environment(), stdout=file, stderr=file, start_new_session=True
            )
        self.started.append(self.popen)

    def wait_for(self, condition, *args):
        """Returns as soon as the condition holds; the run must not have ended by then."""
        while not condition(*args):
            assert self.popen.poll() is None, f"ended too early:\n{self.output.read_text()}"
            time.sleep(0.002)

    def steps_logged(self, count):
        """Whether this process has told of so many steps."""
        return self.output.read_text().count("left ") >= count

    def saving(self):
        """Whether a checkpoint is being written."""
        folder = self.workdir / "checkpoints"
        return folder.exists() and any("orbax-checkpoint-tmp" in path.name for path in folder.iterdir())

    def end(self, number=None):
        """Sends a signal, waits, and returns the exit status."""
        if number is not None:
            self.popen.send_signal(number)
        status = self.popen.wait(timeout=300)
        assert "Traceback" not in self.output.read_text(), self.output.read_text()
        return status


@pytest.mark.full
@pytest.mark.parametrize(
    ("number", "status"), campaign.some([(signal.SIGINT, 130), (signal.SIGTERM, 143)], [(signal.SIGINT, 130)])
)
def test_a_signal_to_the_whole_group(number, status, tmp_path):
    """Ctrl-C and SLURM reach the worker processes as well; the run saves all the same."""
    run = Process(tmp_path / "run", "--config.steps=100000", "--config.eval.every=0", "--config.data.workers=2")
    run.wait_for(run.steps_logged, 5)
    os.killpg(run.popen.pid, number)
    assert run.end() == status
    assert runs.steps(run.workdir)[-1] == runs.lines(run.workdir, "train")[-1]["step"]


@pytest.mark.full
def test_ctrl_c_twice_is_quiet(tmp_path):
    run = Process(tmp_path / "run", "--config.steps=100000", "--config.eval.every=0", "--config.data.workers=2")
    run.wait_for(run.steps_logged, 5)
    for _ in range(2):
        os.killpg(run.popen.pid, signal.SIGINT)
        time.sleep(0.05)
    assert run.end() == 130
    lines = [line for line in run.output.read_text().splitlines() if line and not line.startswith("step ")]
    assert lines[-2:] == ["SIGINT: saving after this step, then stopping", "interrupted"]


@pytest.mark.full
def test_a_worker_that_is_killed(tmp_path):
    """The state is saved, as at a signal, and memory is named, which is what workers are killed for."""
    run = Process(tmp_path / "run", "--config.steps=100000", "--config.eval.every=0", "--config.data.workers=2")
    run.wait_for(run.steps_logged, 5)
    os.kill(processes.workers_of(run.popen.pid)[0], signal.SIGKILL)
    assert run.end() == 75
    (line,) = [line for line in run.output.read_text().splitlines() if line.startswith("stopped: ")]
    assert "data.workers" in line and "SIGKILL" in line and "memory" in line
    assert runs.steps(run.workdir)[-1] == runs.lines(run.workdir, "train")[-1]["step"]
