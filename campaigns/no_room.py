"""No room at random moments: a run ends with one line and 75, and comes to the same end after room came back.

python -m campaigns.no_room --count=20 --seed=0
"""

import collections
import functools
import math
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from campaigns import command, tiny_runs
from mmjax.errors import EXIT_MACHINE

STEPS = 40
FLAGS = [
    f"--config.steps={STEPS}",
    "--config.eval.every=0",
    "--config.checkpoint.every=10",
    "--config.log.tensorboard=True",
]
SMALLEST, LARGEST = 50, 1_000_000  # bytes; a whole run needs a file of some 300 kB


def train(workdir: Path, room: int | None = None) -> tuple[int, list[str], bool]:
    """Runs the tiny recipe, with files of at most `room` bytes; returns its status, its last lines, a traceback."""
    limit = None if room is None else functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (room, room))
    done = subprocess.run(
        tiny_runs.train_command(workdir, FLAGS),
        env=tiny_runs.environment(),
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=limit,
    )
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("error:", "stopped:"))]
    return done.returncode, lines, "Traceback" in done.stderr


def without_room(workdir: Path, room: int, expected: tuple[Any, Any]) -> str:
    """A run that has so much room, and goes on with more; returns what came of it."""
    status, lines, has_traceback = train(workdir, room)
    if has_traceback or status not in (0, EXIT_MACHINE) or len(lines) != (status == EXIT_MACHINE):
        return f"{room} bytes: status {status}, lines {lines}{', a traceback' if has_traceback else ''}"
    again, lines, _ = train(workdir)
    if again != 0:
        return f"{room} bytes: then status {again}, lines {lines}"
    if tiny_runs.result(workdir, STEPS) != expected:
        return f"{room} bytes: another end"
    return "ok" if status else "ok, with room enough"


def run(count: int, seed: int) -> collections.Counter[str]:
    """Tries `count` sizes; counts what came of it."""
    rng, result = random.Random(seed), collections.Counter()
    with tempfile.TemporaryDirectory(prefix="mmjax-room-") as folder:
        assert train(Path(folder) / "whole")[0] == 0
        expected = tiny_runs.result(Path(folder) / "whole", STEPS)
        for number in range(count):
            room = int(math.exp(rng.uniform(math.log(SMALLEST), math.log(LARGEST))))
            result[without_room(Path(folder) / str(number), room, expected)] += 1
    return result


def main() -> int:
    options = command.make_parser(__doc__, count=20).parse_args()
    return command.show(run(options.count, options.seed), lambda outcome: outcome.startswith("ok"))


if __name__ == "__main__":
    sys.exit(main())
