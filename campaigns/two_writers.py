"""Two runs in one workdir: started at once, one is refused; one that is passed over writes nothing.

python -m campaigns.two_writers --count=20 --seed=0
"""

import collections
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from campaigns import command, tiny_runs
from campaigns.tiny_runs import Run
from mmjax.errors import EXIT_MACHINE

STEPS = 200
FLAGS = [
    f"--config.steps={STEPS}",
    "--config.eval.every=0",
    "--config.checkpoint.every=20",
    "--config.checkpoint.keep=2",
]
# A run whose disk has no locks that other machines see, and whose lease is lost after four seconds: on a busy machine a
# process that nobody stopped may stand still for one.
WITH_SHORT_LEASE = f"""
import sys
from mmjax.cli import train
from mmjax.io.writer_lease import LeaseSettings
from mmjax.training import workdir

workdir.Start.__init__.__defaults__ = ("auto", False, LeaseSettings(renew=0.2, lost=4.0, kernel_lock=False))
sys.exit(train.main(["--config={tiny_runs.RECIPE}", "--workdir=" + sys.argv[1], *sys.argv[2:]]))
"""


def start(workdir: Path, *, short_lease: bool) -> Run:
    """A run of the tiny recipe in a process."""
    if short_lease:
        return Run([sys.executable, "-c", WITH_SHORT_LEASE, str(workdir), *FLAGS])
    return Run(tiny_runs.train_command(workdir, FLAGS))


def start_two(workdir: Path) -> str:
    """Starts two runs at once; returns `ok` or what went wrong."""
    runs = [start(workdir, short_lease=False) for _ in range(2)]
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
    first = start(workdir, short_lease=True)
    until = rng.randint(3, STEPS // 2)
    while first.printed().count("step ") < until:
        if first.popen.poll() is not None:
            return f"ended too early: {first.printed()}"
        time.sleep(0.01)
    first.popen.send_signal(signal.SIGSTOP)
    second = start(workdir, short_lease=True)
    status, line = second.end()
    if status != 0:
        first.popen.kill()
        return f"the second one ended with {status}: {line}"
    before = snapshot(workdir)
    first.popen.send_signal(signal.SIGCONT)
    status, line = first.end()
    if status != EXIT_MACHINE or not line.startswith("stopped: --workdir=") or "\n" in line:
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
    options = command.make_parser(__doc__, count=20).parse_args()
    return command.show(run(options.count, options.seed), lambda outcome: outcome.endswith(": ok"))


if __name__ == "__main__":
    sys.exit(main())
