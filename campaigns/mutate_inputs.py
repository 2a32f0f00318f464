"""Mutated and hostile files of every kind that mmjax reads: each is read, or refused in one line.

No traceback, no case of more than 5 seconds or a gigabyte, no counts of bad examples that are wrong. Each case runs in
a process that a hang or a crash does not outlive.

python -m campaigns.mutate_inputs --count=2000 --seed=0
"""

import argparse
import collections
import json
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from campaigns import command

SECONDS, MEMORY = 5.0, 1 << 30
_PATIENCE = 20.0  # seconds without an answer, after which a process is ended
FINE = ("read", "one line")


def run(count: int, seed: int) -> collections.Counter[str]:
    """Reads `count` files; counts those that were `read` or refused in `one line`, and others by what happened."""
    result: collections.Counter[str] = collections.Counter()
    first = 0
    while first < count:
        for number, outcome in _in_process(first, count, seed):
            result[outcome] += 1
            first = number + 1
    return result


def _in_process(first: int, count: int, seed: int) -> Iterator[tuple[int, str]]:
    """Outcomes of the cases from `first` on, up to one that its process does not outlive."""
    arguments = [sys.executable, __file__, f"--first={first}", f"--count={count}", f"--seed={seed}"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=errors, env=environment)
        number = first - 1
        try:
            while number + 1 < count:
                # The first answer waits for the imports.
                patience = _PATIENCE if number >= first else 3 * _PATIENCE
                ready, _, _ = select.select([process.stdout], [], [], patience)
                line = process.stdout.readline() if ready else b""
                if not line:
                    errors.seek(max(0, errors.seek(0, 2) - 500))
                    what = f"exit {process.poll()}: {errors.read()!r}" if ready else f"no answer in {patience:g} s"
                    yield number + 1, f"case {number + 1}: {what}"
                    return
                number, outcome = json.loads(line)
                yield number, outcome
        finally:
            process.kill()
            process.wait()


def _read_cases(first: int, count: int, seed: int) -> None:
    """Reads the cases, and prints number and outcome of each."""
    from campaigns import hostile_files

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints
    kinds = list(hostile_files.kinds().items())
    with tempfile.TemporaryDirectory(prefix="mmjax-hostile-") as temporary:
        good = Path(temporary) / "good"
        for name, kind in kinds:
            (good / name).mkdir(parents=True)
            kind.make(good / name)
        for number in range(first, count):
            name, kind = kinds[number % len(kinds)]
            folder = Path(temporary) / "case"
            shutil.copytree(good / name, folder)
            rng = random.Random(f"{seed}/{number}")
            pointer = folder / "name"
            path = folder / (pointer.read_text() if pointer.exists() else kind.name)
            path.write_bytes(hostile_files.mutate(path.read_bytes(), rng))
            outcome = _outcome(kind.read, folder)
            print(json.dumps([number, outcome if outcome in FINE else f"case {number}, {name}: {outcome}"]), file=out)
            out.flush()
            shutil.rmtree(folder)


def _outcome(read, folder: Path) -> str:
    from mmjax.errors import UserError

    before = _peak_memory(reset=True)
    started = time.perf_counter()
    try:
        read(folder)
        outcome = "read"
    except UserError as error:
        outcome = "one line" if "\n" not in str(error) else f"several lines: {error}"
    except BaseException as error:
        outcome = "".join(traceback.format_exception(error)[-4:])
    seconds, memory = time.perf_counter() - started, _peak_memory() - before
    if seconds > SECONDS:
        return f"{seconds:.1f} s ({outcome})"
    return outcome if memory < MEMORY else f"{memory / 1e9:.1f} GB ({outcome})"


def _peak_memory(*, reset: bool = False) -> int:
    """Bytes of memory that this process has had at most since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def main() -> int:
    parser = command.make_parser(__doc__, count=2000)
    parser.add_argument("--first", type=int, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.first is not None:
        _read_cases(options.first, options.count, options.seed)
        return 0
    return command.show(run(options.count, options.seed), FINE.__contains__)


if __name__ == "__main__":
    sys.exit(main())
