"""Killed at any moment and started again, a run is the run that was never killed, bit for bit."""

import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from unittest import mock

import pytest

from mmjax.data.loading import batches
from mmjax.errors import UserError
from mmjax.evaluation import from_config
from mmjax.training import checkpoint, hooks, metrics_log
from mmjax.training.step_agreement import StepAgreement
from tests.helpers import campaign, processes, runs

STEPS = 8  # checkpoints at 3, 6, 8; evaluations at 4, 8


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    pets, pairs = f"folder:{runs.write_classes(folder / 'pets')}", f"pairs:{runs.write_pairs(folder / 'pairs')}"
    return {"data.train": f"shapes@0.7+{pairs}@0.3", "data.eval": f"{pets}+{pairs}", "checkpoint.keep": 9}


def config_of(data):
    return runs.config(steps=STEPS, **data)


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    assert runs.train(config_of(data), workdir) is None
    assert runs.steps(workdir) == [3, 6, 8]
    result = runs.numbers(workdir)
    assert [step for kind, step in result if kind == "train"] == list(range(1, STEPS + 1))
    assert [step for kind, step in result if kind == "eval"] == [4, 8]
    assert [step for kind, step in result if kind == "summary"] == [8]
    return workdir


def assert_equal_runs(workdir, undisturbed, steps=STEPS):
    assert runs.numbers(workdir) == runs.numbers(undisturbed)
    runs.assert_same_arrays(runs.arrays(workdir, steps), runs.arrays(undisturbed, steps))


class Killed(BaseException):
    """Ends a run as a kill does: nothing catches it."""


def raising(owner, name, *, when=lambda *args: True, before=True, leaving=lambda *args: None):
    """Patches a method to leave something behind and raise, the first time that `when` holds."""
    method = getattr(owner, name)

    def patched(self, *args, **kwargs):
        result = None if before else method(self, *args, **kwargs)
        if when(*args):
            leaving(self, *args)
            raise Killed
        return method(self, *args, **kwargs) if before else result

    return mock.patch.object(owner, name, patched)


def at_step(step):
    """Raises once the batch of a step is there."""
    return raising(StepAgreement, "post", when=lambda replaced, number: number == step)


def within_save(step):
    """Leaves what Orbax leaves when it is killed while it writes."""

    def half(self, step_number, state, *args):
        folder = self.folder / f"{step_number}.orbax-checkpoint-tmp-{step_number}" / "state.orbax-checkpoint-tmp-0"
        folder.mkdir(parents=True)
        (folder / "d").write_text("half")

    return raising(checkpoint.Checkpoints, "save", when=lambda step_number, *args: step_number == step, leaving=half)


def within_line(step):
    """Leaves the first half of a line of metrics.jsonl."""

    def half(self, step_number, kind, metrics):
        with (self._workdir / "metrics.jsonl").open("a") as file:
            file.write(f'{{"step": {step_number}, "kind": "tr')

    return raising(
        metrics_log.Logger,
        "write",
        when=lambda step_number, kind, metrics: (step_number, kind) == (step, "train"),
        leaving=half,
    )


MOMENTS = {
    "before the first step": at_step(1),
    "before the first checkpoint": at_step(3),
    "after a checkpoint": at_step(5),
    "while a line is written": within_line(5),
    "within a save": within_save(6),
    "just after a save": raising(hooks.Save, "run", when=lambda context: context.step == 6, before=False),
    "within an evaluation": raising(from_config.Evaluator, "run"),
    "between an evaluation and a save": raising(hooks.Save, "run", when=lambda context: context.step == 8),
    "within the last save": within_save(8),
    "before the summary": raising(hooks, "write_summary"),
}


# Of a run that trains them beside a locked base, which is stored once.
ADAPTERS = ("--config.optimizer.lora.rank=2", "--config.optimizer.lora.full=('logit_scale',)")
QUICK = {"before the first checkpoint", "within a save", "between an evaluation and a save"}


def some(moments, quick):
    """All moments; those that are not in `quick` are left to `make test-full`."""
    return [moment if moment in quick else pytest.param(moment, marks=pytest.mark.full) for moment in moments]


@pytest.mark.parametrize("moment", some(MOMENTS, QUICK))
def test_killed(moment, data, undisturbed, tmp_path):
    config = config_of(data)
    with MOMENTS[moment], pytest.raises(Killed):
        runs.train(config, tmp_path)
    assert runs.train(config, tmp_path) is None
    assert_equal_runs(tmp_path, undisturbed)


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.full) for seed in campaign.some(range(1, 6), []))]
)
def test_killed_again_and_again(seed, data, undisturbed, tmp_path):
    rng = random.Random(seed)
    config = config_of(data)
    for _ in range(3):
        make = rng.choice([at_step, within_line, within_save])
        with contextlib.suppress(Killed), make(rng.randint(1, STEPS)):
            runs.train(config, tmp_path)
    assert runs.train(config, tmp_path) is None
    assert_equal_runs(tmp_path, undisturbed)
    # Once more changes nothing at all.
    before = runs.snapshot(tmp_path)
    assert runs.train(config, tmp_path) is None
    assert runs.snapshot(tmp_path) == before


@pytest.mark.full
def test_resumed_on_other_devices(data, undisturbed, tmp_path):
    """Another mesh changes the order of additions, not the batches: the losses agree to rounding."""
    config = config_of(data)
    with at_step(5), pytest.raises(Killed):
        runs.train(config, tmp_path)
    config.mesh.fsdp = 2
    assert runs.train(config, tmp_path, devices=2) is None
    expected, result = runs.numbers(undisturbed, "train"), runs.numbers(tmp_path, "train")
    assert list(result) == list(expected)
    for key in expected:
        assert result[key]["loss"] == pytest.approx(expected[key]["loss"], rel=1e-5), key


def test_longer_than_it_was(data, undisturbed, tmp_path):
    """More steps for a finished run: what has been logged stays, and the new end has its own summary."""
    config = config_of(data)
    assert runs.train(config, tmp_path) is None
    config.steps = 10
    assert runs.train(config, tmp_path) is None
    result, expected = runs.numbers(tmp_path), runs.numbers(undisturbed)
    assert {key: result[key] for key in expected} == expected
    assert sorted(set(result) - set(expected)) == [("eval", 10), ("summary", 10), ("train", 9), ("train", 10)]


def signalling(number, owner, name, when=lambda *args: True):
    """Sends this process a signal when a method is called."""
    method = getattr(owner, name)

    def patched(self, *args, **kwargs):
        if when(*args):
            os.kill(os.getpid(), number)
        return method(self, *args, **kwargs)

    return mock.patch.object(owner, name, patched)


SIGNALS = {
    "between checkpoints": (signal.SIGTERM, StepAgreement, "post", lambda replaced, step: step == 5, 5),
    "before the first checkpoint": (signal.SIGINT, StepAgreement, "post", lambda replaced, step: step == 1, 1),
    "at a step that saves": (signal.SIGINT, StepAgreement, "post", lambda replaced, step: step == 6, 6),
    "at a step that evaluates": (signal.SIGTERM, StepAgreement, "post", lambda replaced, step: step == 4, 4),
    "within an evaluation": (signal.SIGTERM, from_config.Evaluator, "run", lambda *args: True, 4),
    "at the last step": (signal.SIGTERM, StepAgreement, "post", lambda replaced, step: step == 8, 8),
    "within the last evaluation": (signal.SIGINT, hooks.Save, "run", lambda context: context.step == 8, 8),
}


QUICK_SIGNALS = {"between checkpoints", "within an evaluation"}


@pytest.mark.parametrize("moment", some(SIGNALS, QUICK_SIGNALS))
def test_signal(moment, data, undisturbed, tmp_path, capfd):
    """SIGTERM and Ctrl-C save at the current step; what was left undone is done when the run goes on."""
    number, owner, name, when, step = SIGNALS[moment]
    argv = [f"--workdir={tmp_path}", *(f"--config.{name}={value}" for name, value in data.items())]
    with signalling(number, owner, name, when):
        assert runs.train_cli(*argv) == 128 + number
    assert f"{signal.Signals(number).name}: saving" in capfd.readouterr().err
    assert runs.steps(tmp_path)[-1] == step
    expected = runs.numbers(undisturbed)
    result = runs.numbers(tmp_path)
    assert result == {key: expected[key] for key in result}
    assert max(step_number for kind, step_number in result if kind == "train") == step
    if step in runs.steps(undisturbed):
        runs.assert_same_arrays(runs.arrays(tmp_path, step), runs.arrays(undisturbed, step))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # handlers are put back

    assert runs.train_cli(*argv) == 0
    assert_equal_runs(tmp_path, undisturbed)


@pytest.mark.parametrize("step", [4, pytest.param(5, marks=pytest.mark.full)])
def test_a_signal_that_ends_the_workers_too(step, data, undisturbed, tmp_path):
    """There is no next batch then: the step before is saved."""
    following = batches.BatchIterator.__next__
    config, count = config_of(data), iter(range(1, 100))

    def following_or_gone(self):
        if next(count) == step + 1:
            os.kill(os.getpid(), signal.SIGTERM)
            raise RuntimeError("Worker process was terminated unexpectedly")
        return following(self)

    with mock.patch.object(batches.BatchIterator, "__next__", following_or_gone):
        assert runs.train(config, tmp_path) == signal.SIGTERM
    assert runs.steps(tmp_path)[-1] == step == runs.lines(tmp_path, "train")[-1]["step"]
    assert runs.train(config, tmp_path) is None
    assert_equal_runs(tmp_path, undisturbed)


def test_second_ctrl_c_interrupts(tmp_path, data):
    def twice(self, *args):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    with mock.patch.object(StepAgreement, "post", twice):
        assert runs.train_cli(f"--workdir={tmp_path}") == 130
    assert runs.steps(tmp_path) == []


# -- real processes ----------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_process_is_left():
    """A test that fails leaves no run behind, which would go on and on."""
    yield
    while Process.started:
        popen = Process.started.pop()
        with contextlib.suppress(ProcessLookupError):  # with its workers
            os.killpg(popen.pid, signal.SIGKILL)
        popen.wait()


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


@pytest.mark.parametrize(
    ("error", "saved", "status"),
    [
        (RuntimeError("Worker process was terminated unexpectedly with exit code -9."), 4, 75),
        pytest.param(MemoryError(), 4, 75, marks=pytest.mark.full),
        pytest.param(OSError(errno.ENOSPC, "No space left on device"), 4, 75, marks=pytest.mark.full),
        (UserError("data.train: a mistake"), 3, 2),
    ],
)
def test_batches_that_the_machine_ends(error, saved, status, data, undisturbed, tmp_path, capsys):
    following = batches.BatchIterator.__next__
    count = iter(range(1, 100))

    def following_or_failing(self):
        if next(count) == 5:
            self._open[0].close()
            self._open[0] = Raising(error)
        return following(self)

    argv = [f"--workdir={tmp_path}", *(f"--config.{name}={value}" for name, value in data.items())]
    with mock.patch.object(batches.BatchIterator, "__next__", following_or_failing):
        assert runs.train_cli(*argv) == status
    kind = {75: "stopped: ", 2: "error: "}[status]
    assert len([line for line in capsys.readouterr().err.splitlines() if line.startswith(kind)]) == 1
    assert runs.steps(tmp_path)[-1] == saved
    assert runs.train_cli(*argv) == 0
    assert_equal_runs(tmp_path, undisturbed)


class Raising:
    """An iterator that raises, as grain's do."""

    def __init__(self, error):
        self._error = error

    def __next__(self):
        raise self._error

    def close(self):
        pass


@pytest.mark.full
def test_a_kill_leaves_no_workers(tmp_path):
    run = Process(tmp_path / "run", "--config.steps=100000", "--config.eval.every=0", "--config.data.workers=2")
    run.wait_for(run.steps_logged, 1)
    assert run.end(signal.SIGKILL) == -signal.SIGKILL
    deadline = time.monotonic() + 60
    with pytest.raises(ProcessLookupError):  # the group is empty
        while time.monotonic() < deadline:
            os.killpg(run.popen.pid, 0)
            time.sleep(0.1)


@pytest.mark.full
@pytest.mark.parametrize("kills", campaign.some([4, 12], [4]))
@pytest.mark.parametrize("adapters", [(), ADAPTERS], ids=["all", "lora"])
def test_killed_many_times(kills, adapters, tmp_path, data):
    """Kills of one run: before the first checkpoint, within saves, between them; some by signals that save."""
    rng = random.Random(0)
    steps, every = 20 * kills, 10
    overrides = [f"--config.steps={steps}", f"--config.checkpoint.every={every}", "--config.eval.every=20"]
    overrides += [f"--config.data.eval={data['data.eval']}", "--config.checkpoint.keep=1", "--config.ema_decay=0.9"]
    overrides += adapters
    assert Process(tmp_path / "whole", *overrides).end() == 0

    workdir = tmp_path / "killed"
    signals = [signal.SIGTERM, signal.SIGINT] * (kills // 4)
    numbers = signals + [signal.SIGKILL] * (kills - len(signals))
    rng.shuffle(numbers)
    within_saves = 0
    for turn, number in enumerate(numbers):
        run = Process(workdir, *overrides)
        run.wait_for(run.steps_logged, rng.randint(1, 5 if turn < 2 else 15))
        if turn % 2:
            run.wait_for(run.saving)
        time.sleep(rng.random() * 0.02)
        within_saves += run.saving()
        assert run.end(number) == (-number if number == signal.SIGKILL else 128 + number)
        if number != signal.SIGKILL:
            assert runs.steps(workdir)[-1] == runs.lines(workdir, "train")[-1]["step"] < steps
    assert within_saves >= kills // 4
    assert Process(workdir, *overrides).end() == 0
    assert runs.steps(workdir) == runs.steps(tmp_path / "whole") == [steps]
    assert_equal_runs(workdir, tmp_path / "whole", steps)
