"""Kills at random moments: of a run, of a worker that decodes, of one of two processes. Each ends as if never killed.

python -m campaigns.kills --count=100 --seed=0
"""

import collections
import contextlib
import os
import random
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from campaigns import command, tiny_runs
from campaigns.tiny_runs import Run
from mmjax.errors import EXIT_MACHINE

STEPS = 40
FLAGS = [
    f"--config.steps={STEPS}",
    "--config.checkpoint.every=7",
    "--config.eval.every=10",
    "--config.data.eval=digits/test",
    "--config.log.tensorboard=True",
]
WORKERS = ["--config.data.workers=2"]


def start(kind: str, workdir: Path) -> list[Run]:
    """The processes of a run."""
    flags = FLAGS + (WORKERS if kind == "worker" else [])
    if kind != "process":
        return [Run(tiny_runs.train_command(workdir, flags))]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    joined = [f"--coordinator=127.0.0.1:{port}", "--processes=2"]
    return [Run(tiny_runs.train_command(workdir, [*flags, *joined, f"--process={number}"])) for number in range(2)]


def children(pid: int) -> list[int]:
    """Processes that a process has started and that work for it, as Linux lists them."""
    result = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            command = (stat.parent / "cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[1]) == pid and b"spawn_main" in command:
            result.append(int(stat.parent.name))
    return result


def victim(kind: str, runs: list[Run], rng: random.Random) -> int | None:
    """The process to kill; None where there is none."""
    pid = rng.choice(runs).popen.pid
    if kind != "worker":
        return pid
    workers = children(pid)
    return rng.choice(workers) if workers else None


def duration(kind: str, workdir: Path) -> tuple[float, float]:
    """Seconds from the start of an undisturbed run to its first step, and to its end."""
    began, first = time.monotonic(), None
    runs = start(kind, workdir)
    while any(run.popen.poll() is None for run in runs):
        if first is None and "step 1/" in runs[0].printed():
            first = time.monotonic() - began
        time.sleep(0.01)
    if first is None or any(run.end()[0] for run in runs):
        raise RuntimeError(f"the undisturbed run ended with {[run.end() for run in runs]}")
    return first, time.monotonic() - began


def kill_once(kind: str, workdir: Path, rng: random.Random, moments: tuple[float, float]) -> str:
    """Starts a run, kills one of its processes, and waits for all; returns what went wrong, or nothing."""
    runs, began = start(kind, workdir), time.monotonic()
    first, last = moments
    moment = began + rng.uniform(first * 0.8, last)
    while time.monotonic() < moment and all(run.popen.poll() is None for run in runs):
        time.sleep(0.001)
    pid = victim(kind, runs, rng)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    ends = [(run.popen.pid, *run.end()) for run in runs]
    for process, status, lines in ends:
        killed = process == pid and status == -signal.SIGKILL
        if not killed and (status not in (0, EXIT_MACHINE) or "Traceback" in lines):
            return f"after a kill of {pid} process {process} ended with {status}: {lines}"
    return ""


def result_of(workdir: Path) -> tuple[Any, Any]:
    """Lines of metrics and digests of the last arrays."""
    return tiny_runs.metrics(workdir), tiny_runs.digests(workdir, STEPS)


def killed(
    kind: str, workdir: Path, kills: int, rng: random.Random, moments: tuple[float, float], expected: Any
) -> str:
    """A run that is killed so many times and then ends; returns `ok` or what went wrong."""
    for _ in range(kills):
        if problem := kill_once(kind, workdir, rng, moments):
            return f"{kind}: {problem}"
    ends = [run.end() for run in start(kind, workdir)]
    if any(status for status, _ in ends):
        return f"{kind}: the last start ended with {ends}"
    if not (workdir / "report.html").exists():
        return f"{kind}: there is no report"
    return f"{kind}: ok" if result_of(workdir) == expected else f"{kind}: another end in {workdir}"


def run(count: int, seed: int, most: int = 3) -> collections.Counter[str]:
    """Kills runs of the three kinds in turn, each at most `most` times, `count` times in all; counts the outcomes."""
    rng, result = random.Random(seed), collections.Counter()
    kinds = ("run", "worker", "process")[: max(1, count)]
    with tempfile.TemporaryDirectory(prefix="mmjax-kills-") as name:
        folder = Path(name)
        moments = {kind: duration(kind, folder / kind) for kind in kinds}
        expected = {kind: result_of(folder / kind) for kind in kinds}
        number = 0
        while count > 0:
            kind, kills = kinds[number % len(kinds)], min(count, rng.randint(1, most))
            outcome = killed(kind, folder / str(number), kills, rng, moments[kind], expected[kind])
            result[outcome] += 1
            number, count = number + 1, count - kills
    return result


def main() -> int:
    options = command.make_parser(__doc__, count=100).parse_args()
    return command.show(run(options.count, options.seed), lambda outcome: outcome.endswith(": ok"))


if __name__ == "__main__":
    sys.exit(main())
