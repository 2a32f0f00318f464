"""What the benchmarks share: interleaved timing, JSON lines, versions, running out of memory."""

import argparse
import datetime
import importlib.metadata
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# A checkout need not be installed, as for train.py.
sys.path.insert(1, str(Path(__file__).parent.parent))

from mmjax.errors import UserError


def refuse_config(overrides: Sequence[tuple[str, str]]) -> None:
    """Raises UserError where a benchmark without a config is given `--config.FIELD`."""
    if overrides:
        raise UserError(f"--config.{overrides[0][0]}: this benchmark reads no config")


def require_positive(options: argparse.Namespace, *names: str) -> None:
    """Raises UserError where a flag of that name is less than 1."""
    for name in names:
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')}={getattr(options, name)}: wants at least 1")


def interleaved(contenders: Mapping[str, Callable[[], Any]], *, rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Times contenders in turn, so that a machine that slows down slows all of them down.

    Args:
      contenders: functions that return when their work is done.
      rounds: measurements of each.
      warmup: calls of each before the first measurement.

    Returns:
      Seconds of each call, by name.
    """
    for function in contenders.values():
        for _ in range(warmup):
            function()
    seconds = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, function in contenders.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest of some times, in seconds."""
    return {"seconds": statistics.median(seconds), "seconds_min": min(seconds), "seconds_max": max(seconds)}


def emit(**fields: Any) -> None:
    """Prints one measurement as a JSON line, with the day and floats to four digits."""
    print(json.dumps(_rounded({"date": datetime.date.today().isoformat(), **fields})), flush=True)


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def out_of_memory(error: Exception) -> str:
    """The first line of a device's complaint that its memory is full, of jax or torch; '' for any other error."""
    message = str(error)
    full = "RESOURCE_EXHAUSTED" in message or "out of memory" in message.lower()
    return message.strip().splitlines()[0][:200] if isinstance(error, RuntimeError) and full else ""


def memory(compiled: Any) -> Any:
    """Bytes of a compiled program by kind, as jax's `CompiledMemoryStats`.

    Raises:
      UserError: the backend does not report them.
    """
    stats = compiled.memory_analysis()
    if stats is None:
        raise UserError("this backend does not report the memory of compiled programs")
    return stats


def whole_number(flag: str, text: str) -> int:
    """Reads a number of at least 1.

    Raises:
      UserError: it is none.
    """
    if not text.strip().isdecimal() or int(text) < 1:
        raise UserError(f"{flag}={text}: wants a whole number of at least 1")
    return int(text)


def versions(*packages: str) -> dict[str, str]:
    """Versions of what is installed of these packages, and of Python."""
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
