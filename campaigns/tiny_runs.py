"""Runs of the tests' tiny recipe in processes of their own, which share what they compile."""

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "tests/helpers/tiny_recipe.py"
TIMES = ("images_per_second", "step_time", "data_wait", "mfu", "eval_seconds")


@functools.cache
def environment() -> dict[str, str]:
    """Environment variables of the runs, by which they also share what they compile."""
    folder = tempfile.mkdtemp(prefix="mmjax-compiled-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": folder,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def train_command(workdir: Path, flags: Sequence[str]) -> list[str]:
    """The command of a run."""
    return [sys.executable, str(ROOT / "train.py"), f"--config={RECIPE}", f"--workdir={workdir}", *flags]


class Run:
    """A process of a run; its output is kept.

    Args:
      command: see `train_command`.

    Attributes:
      popen: the process.
    """

    def __init__(self, command: Sequence[str]):
        self._output: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 (open as long as the process)
        self.popen = subprocess.Popen(command, env=environment(), stdout=self._output, stderr=subprocess.STDOUT)

    def printed(self) -> str:
        """What it has printed so far."""
        self._output.seek(0)
        return self._output.read()

    def end(self) -> tuple[int, str]:
        """Waits; returns the exit status, and the lines that say why it ended, or all of them with a traceback."""
        try:
            status = self.popen.wait(timeout=1800)
        finally:
            self.popen.kill()
        printed = self.printed()
        if "Traceback" in printed:
            return status, printed
        return status, "\n".join(line for line in printed.splitlines() if line.startswith(("error:", "stopped:")))


def metrics(workdir: Path) -> list[dict[str, Any]]:
    """The lines of metrics without times."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def result(workdir: Path, step: int) -> tuple[Any, Any]:
    """What a run that ended came to: its lines of metrics, and the digests of the arrays of its last step."""
    return metrics(workdir), digests(workdir, step)


def digests(workdir: Path, step: int) -> dict[str, str]:
    """What a checkpoint says of its arrays."""
    return json.loads((workdir / f"checkpoints/{step}/meta/metadata").read_text())["digests"]
