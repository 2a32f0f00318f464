"""Kills at random moments: of a run, of a worker that decodes, of one of two processes. Each ends as if never killed.

python -m campaigns.kills --count=100 --seed=0
"""

import collections
import contextlib
import os
import random
import re
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

STEPS, EVERY_SAVE, EVERY_EVALUATION = 40, 7, 10
JOIN_SECONDS = 60
MOST_SECONDS = 1.0  # after a step, of which one takes some 20 ms
FLAGS = [
    f"--config.steps={STEPS}",
    f"--config.checkpoint.every={EVERY_SAVE}",
    f"--config.eval.every={EVERY_EVALUATION}",
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
    joined = [f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--join-timeout={JOIN_SECONDS}"]
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


def last_step(workdir: Path) -> int:
    """The last step that has a line of metrics; 0 where there is none."""
    path = workdir / "metrics.jsonl"
    steps = re.findall(r'^{"step": (\d+)', path.read_text(), re.MULTILINE) if path.exists() else []
    return max(map(int, steps), default=0)


def wait_for_moment(runs: list[Run], first: int, rng: random.Random) -> None:
    """Waits for a moment: so long after a step that the next one, a save, an evaluation or the report is under way.

    Args:
      runs: that begin; returns when one of them ends, too.
      first: the step that they go on from.
      rng: draws a step, half the time one with something else to do, and how long after it.
    """
    busy = [*range(EVERY_SAVE, STEPS, EVERY_SAVE), *range(0, STEPS + 1, EVERY_EVALUATION)]
    steps = [step for step in (busy if rng.random() < 0.5 else range(STEPS + 1)) if step >= first]
    step = rng.choice(steps or [STEPS])
    seconds = rng.uniform(0.0, MOST_SECONDS)

    def is_running() -> bool:
        return all(run.popen.poll() is None for run in runs)

    while is_running() and (last_printed(runs[0]) or first) < step:
        time.sleep(0.002)
    until = time.monotonic() + seconds
    while is_running() and time.monotonic() < until:
        time.sleep(0.002)


def last_printed(run: Run) -> int | None:
    """The last step that a run has printed a line of; None where there is none."""
    steps = re.findall(rf"step (\d+)/{STEPS}", run.printed())
    return int(steps[-1]) if steps else None


def kill_once(kind: str, workdir: Path, rng: random.Random) -> tuple[bool, str]:
    """Starts a run, kills one of its processes, and waits for all.

    Returns:
      Whether a process was there to be killed, and what went wrong, or nothing.
    """
    runs = start(kind, workdir)
    wait_for_moment(runs, last_step(workdir), rng)
    pid, has_killed = victim(kind, runs, rng), False
    if pid is not None and all(run.popen.poll() is None for run in runs):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            has_killed = True
    for run in runs:
        status, lines = run.end()
        killed = run.popen.pid == pid and status == -signal.SIGKILL
        alone = kind == "process" and f"within {JOIN_SECONDS} s" in lines  # the other one was killed before it joined
        if not killed and not alone and (status not in (0, EXIT_MACHINE) or "Traceback" in lines):
            return has_killed, f"after a kill of {pid} process {run.popen.pid} ended with {status}: {lines}"
    return has_killed, ""


def killed(kind: str, workdir: Path, most: int, rng: random.Random, expected: Any) -> tuple[int, str]:
    """A run that is killed up to so many times and then ends.

    Returns:
      How often it was killed, and `ok` or what went wrong.
    """
    kills = 0
    for _ in range(most):
        has_killed, problem = kill_once(kind, workdir, rng)
        kills += has_killed
        if problem:
            return kills, f"{kind}: {problem}"
    ends = [run.end() for run in start(kind, workdir)]
    if any(status for status, _ in ends):
        return kills, f"{kind}: the last start ended with {ends}"
    if not (workdir / "report.html").exists():
        return kills, f"{kind}: there is no report"
    return kills, f"{kind}: ok" if tiny_runs.result(workdir, STEPS) == expected else f"{kind}: another end in {workdir}"


def run(count: int, seed: int, most: int = 3) -> collections.Counter[str]:
    """Kills runs of the three kinds in turn, each at most `most` times, until `count` kills; counts them by outcome."""
    rng, result = random.Random(seed), collections.Counter()
    kinds = ("run", "worker", "process")[: max(1, count)]
    with tempfile.TemporaryDirectory(prefix="mmjax-kills-") as name:
        folder, expected = Path(name), {}
        for kind in kinds:
            ends = [run.end() for run in start(kind, folder / kind)]
            assert not any(status for status, _ in ends), ends
            expected[kind] = tiny_runs.result(folder / kind, STEPS)
        number = 0
        while count > 0:
            kind, kills = kinds[number % len(kinds)], rng.randint(1, min(count, most))
            kills, outcome = killed(kind, folder / str(number), kills, rng, expected[kind])
            result[outcome] += kills
            number, count = number + 1, count - kills
            if not outcome.endswith(": ok"):
                count -= 1  # a fault that keeps runs from being killed ends the campaign, too
    return result


def main() -> int:
    options = command.make_parser(__doc__, count=100).parse_args()
    return command.show(run(options.count, options.seed), lambda outcome: outcome.endswith(": ok"))


if __name__ == "__main__":
    sys.exit(main())
