"""Cases that are tried in processes which a hang or a crash does not outlive, within limits of time and memory."""

import argparse
import collections
import json
import os
import select
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from campaigns import command

SECONDS, MEMORY = 5.0, 1 << 30
_PATIENCE = 20.0  # seconds without an answer, after which a process is ended
FINE = ("read", "one line")

# Number and name of a case, and what tries it.
Case = tuple[int, str, Callable[[], object]]


def run(script: str, count: int, seed: int) -> collections.Counter[str]:
    """Tries the cases of a script, which answers them when it gets `--first`; counts them by what happened."""
    result: collections.Counter[str] = collections.Counter()
    first = 0
    while first < count:
        for number, outcome in _in_process(script, first, count, seed):
            result[outcome] += 1
            first = number + 1
    return result


def main(
    script: str,
    description: str | None,
    count: int,
    make_cases: Callable[[int, int, int], Iterable[Case]],
    refusal: type[Exception],
) -> int:
    """The command of a script: tries its cases in other processes, or answers them in one of those.

    Args:
      script: its path.
      description: its docstring.
      count: of cases by default.
      make_cases: gives those from a first one to a count, by a seed.
      refusal: what a case may raise.
    """
    parser = command.make_parser(description, count=count)
    parser.add_argument("--first", type=int, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.first is not None:
        _answer(make_cases(options.first, options.count, options.seed), refusal)
        return 0
    return command.show(run(script, options.count, options.seed), FINE.__contains__)


def _in_process(script: str, first: int, count: int, seed: int) -> Iterator[tuple[int, str]]:
    """Outcomes of the cases from `first` on, up to one that its process does not outlive."""
    arguments = [sys.executable, script, f"--first={first}", f"--count={count}", f"--seed={seed}"]
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


def _answer(cases: Iterable[Case], refusal: type[Exception]) -> None:
    """Tries cases, and prints number and outcome of each: `read`, `one line` of a refusal, or what happened else."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints
    for number, name, read in cases:
        outcome = _outcome(read, refusal)
        print(json.dumps([number, outcome if outcome in FINE else f"case {number}, {name}: {outcome}"]), file=out)
        out.flush()


def _outcome(read: Callable[[], object], refusal: type[Exception]) -> str:
    before = _peak_memory(reset=True)
    started = time.perf_counter()
    try:
        read()
        outcome = "read"
    except refusal as error:
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
