"""No room at random moments: a run ends with one line and 75, and comes to the same end after room came back.

python campaigns/no_room.py --count=20 --seed=0
"""

import argparse
import atexit
import collections
import functools
import json
import math
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mmjax.utils import terminal

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "tests/helpers/tiny_recipe.py"
FLAGS = ["--config.steps=40", "--config.eval.every=0", "--config.checkpoint.every=10", "--config.log.tensorboard=True"]
SMALLEST, LARGEST = 50, 1_000_000  # bytes; a whole run needs a file of some 300 kB
TIMES = ("images_per_second", "step_time", "data_wait", "mfu")


@functools.cache
def compiled_once() -> dict[str, str]:
    """Environment variables by which the runs of this process share what they compile."""
    folder = tempfile.mkdtemp(prefix="mmjax-compiled-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    smallest = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    return {"JAX_COMPILATION_CACHE_DIR": folder, **smallest}


def train(workdir: Path, room: int | None = None) -> tuple[int, list[str], bool]:
    """Runs the tiny recipe, with files of at most `room` bytes; returns its status, its last lines, a traceback."""
    environment = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(ROOT)}
    environment |= compiled_once()
    limit = None if room is None else functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (room, room))
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), f"--config={RECIPE}", f"--workdir={workdir}", *FLAGS],
        env=os.environ | environment | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=limit,
    )
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("error:", "stopped:"))]
    return done.returncode, lines, "Traceback" in done.stderr


def metrics(workdir: Path) -> list[Any]:
    """The lines of metrics without times."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def digests(workdir: Path) -> Any:
    """What the last checkpoint says of its arrays."""
    return json.loads((workdir / "checkpoints/40/meta/metadata").read_text())["digests"]


def without_room(workdir: Path, room: int, expected: tuple[Any, Any]) -> str:
    """A run that has so much room, and goes on with more; returns what came of it."""
    status, lines, has_traceback = train(workdir, room)
    if has_traceback or status not in (0, 75) or len(lines) != (status == 75):
        return f"{room} bytes: status {status}, lines {lines}{', a traceback' if has_traceback else ''}"
    again, lines, _ = train(workdir)
    if again != 0:
        return f"{room} bytes: then status {again}, lines {lines}"
    if (metrics(workdir), digests(workdir)) != expected:
        return f"{room} bytes: another end"
    return "ok" if status else "ok, with room enough"


def run(count: int, seed: int) -> collections.Counter[str]:
    """Tries `count` sizes; counts what came of it."""
    rng, result = random.Random(seed), collections.Counter()
    with tempfile.TemporaryDirectory(prefix="mmjax-room-") as folder:
        assert train(Path(folder) / "whole")[0] == 0
        expected = metrics(Path(folder) / "whole"), digests(Path(folder) / "whole")
        for number in range(count):
            room = int(math.exp(rng.uniform(math.log(SMALLEST), math.log(LARGEST))))
            result[without_room(Path(folder) / str(number), room, expected)] += 1
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    result = run(options.count, options.seed)
    for outcome, number in result.most_common():
        terminal.show(f"{number:5} {outcome}")
    return int(any(not outcome.startswith("ok") for outcome in result))


if __name__ == "__main__":
    sys.exit(main())
