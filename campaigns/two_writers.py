"""Two runs in one workdir: started at once, one is refused; one that is passed over writes nothing.

python campaigns/two_writers.py --count=20 --seed=0
"""

import argparse
import atexit
import collections
import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mmjax.utils import terminal

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "tests/helpers/tiny_recipe.py"
STEPS = 200
FLAGS = [
    f"--config.steps={STEPS}",
    "--config.eval.every=0",
    "--config.checkpoint.every=20",
    "--config.checkpoint.keep=2",
]
# A run whose disk has no locks that other machines see, and whose lease is lost after a second.
WITH_SHORT_LEASE = f"""
import sys
from mmjax.cli import train
from mmjax.io.writer_lease import LeaseSettings
from mmjax.training import workdir

workdir.Start.__init__.__defaults__ = ("auto", False, LeaseSettings(renew=0.2, lost=1.0, kernel_lock=False))
sys.exit(train.main(["--config={RECIPE}", "--workdir=" + sys.argv[1], *sys.argv[2:]]))
"""


@functools.cache
def compiled_once() -> dict[str, str]:
    """Environment variables by which the runs of this process share what they compile."""
    folder = tempfile.mkdtemp(prefix="mmjax-compiled-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    smallest = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    return {"JAX_COMPILATION_CACHE_DIR": folder, **smallest}


class Run:
    """A run of the tiny recipe in a process."""

    def __init__(self, workdir: Path, *, short_lease: bool):
        ordinary = [str(ROOT / "train.py"), f"--config={RECIPE}", f"--workdir={workdir}"]
        command = ["-c", WITH_SHORT_LEASE, str(workdir)] if short_lease else ordinary
        environment = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(ROOT)}
        environment |= compiled_once()
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115 (open as long as the process)
        self.popen = subprocess.Popen(
            [sys.executable, *command, *FLAGS],
            env=os.environ | environment,
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )

    def printed(self) -> str:
        self._output.seek(0)
        return self._output.read()

    def end(self) -> tuple[int, str]:
        """Waits; returns the exit status and the lines that begin with `error` or `stopped`."""
        try:
            status = self.popen.wait(timeout=300)
        finally:
            self.popen.kill()
        printed = self.printed()
        if "Traceback" in printed:
            return status, printed
        return status, "\n".join(line for line in printed.splitlines() if line.startswith(("error", "stopped")))


def start_two(workdir: Path) -> str:
    """Starts two runs at once; returns `ok` or what went wrong."""
    runs = [Run(workdir, short_lease=False) for _ in range(2)]
    ends = sorted(run.end() for run in runs)
    if [status for status, _ in ends] != [0, 2]:
        return f"statuses and lines {ends}"
    line = ends[1][1]
    pids = [run.popen.pid for run in runs]
    if not any(f"process {pid} on " in line for pid in pids) or "\n" in line:
        return f"refused with {line!r}"
    return check_complete(workdir)


def pass_over(workdir: Path, rng: random.Random) -> str:
    """Stops a run, lets another take over, and continues the first one; returns `ok` or what went wrong."""
    first = Run(workdir, short_lease=True)
    until = rng.randint(3, STEPS // 2)
    while first.printed().count("step ") < until:
        if first.popen.poll() is not None:
            return f"ended too early: {first.printed()}"
        time.sleep(0.01)
    first.popen.send_signal(signal.SIGSTOP)
    second = Run(workdir, short_lease=True)
    status, line = second.end()
    if status != 0:
        first.popen.kill()
        return f"the second one ended with {status}: {line}"
    before = snapshot(workdir)
    first.popen.send_signal(signal.SIGCONT)
    status, line = first.end()
    if status != 75 or not line.startswith("stopped: --workdir=") or "\n" in line:
        return f"the first one ended with {status}: {line}"
    after = snapshot(workdir)
    if before != after:
        changed = sorted(name for name in before | after if before.get(name) != after.get(name))
        return f"the first one has written {changed}"
    return check_complete(workdir)


def snapshot(workdir: Path) -> dict[str, bytes]:
    """Every file by its path, but for those of a checkpoint that was under way when its run was stopped.

    Threads in the middle of it go on with the process. It never becomes a checkpoint, as the run that took over has
    removed what there was of it, and the next start removes the rest.
    """
    files = [path for path in workdir.rglob("*") if path.is_file() and "orbax-checkpoint-tmp" not in str(path)]
    return {str(path.relative_to(workdir)): path.read_bytes() for path in files}


def check_complete(workdir: Path) -> str:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    complete = len([line for line in lines if '"kind": "train"' in line]) == STEPS
    return "ok" if complete and (workdir / "checkpoints" / str(STEPS)).is_dir() else "the run is not complete"


def run(count: int, seed: int) -> collections.Counter[str]:
    """Tries both `count` times; counts what came of it."""
    rng, result = random.Random(seed), collections.Counter()
    for _ in range(count):
        with tempfile.TemporaryDirectory(prefix="mmjax-writers-") as folder:
            result[f"started at once: {start_two(Path(folder) / 'at-once')}"] += 1
            result[f"passed over: {pass_over(Path(folder) / 'passed-over', rng)}"] += 1
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    result = run(options.count, options.seed)
    for outcome, number in result.most_common():
        terminal.show(f"{number:5} {outcome}")
    return int(any(not outcome.endswith(": ok") for outcome in result))


if __name__ == "__main__":
    sys.exit(main())
