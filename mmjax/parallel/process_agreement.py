"""Agreement of several processes on signals, mistakes and counts. `cluster.py` joins them.

A process that stops alone leaves the others waiting for it in a collective. So what one of them meets (a signal, data
that cannot be read) is sent to all first, and all act on it at the same step.
"""

import contextlib
import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mmjax import plugin_imports
from mmjax.errors import GlobalMachineError, GlobalUserError, MachineError, UserError
from mmjax.io import machine_faults

_SMALLEST_MESSAGE = 1024  # bytes
_VISIBILITY = 30.0  # seconds that a network disk may take to show a new file to other hosts


class OtherProcessError(RuntimeError):
    """Another process failed, and this one stops with it."""


def is_running() -> bool:
    """Whether this process has joined others. Starts no device."""
    return jax.distributed.is_initialized()


def is_process_0() -> bool:
    """Whether this is the process that prints and writes."""
    return not is_running() or jax.process_index() == 0


def shutdown(status: int, *, together: bool) -> None:
    """Ends this process's part in the run; does nothing where no others have joined.

    Args:
      status: to exit with.
      together: whether all processes leave now. A process that leaves alone ends at once: the usual way out would wait
        for the others, who wait for it. They end when they miss its heartbeat, within 100 seconds.
    """
    if not is_running():
        return
    if together:
        jax.distributed.shutdown()
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def all_gather_objects(value: Any) -> list[Any]:
    """Gives every process everyone's value, by process; every process must call it at the same point.

    Args:
      value: anything JSON can hold.
    """
    if jax.process_count() == 1:
        return [value]
    message = json.dumps(value).encode()
    width = _SMALLEST_MESSAGE
    while True:
        # The length comes first; a message that does not fit is sent again in an array that holds the longest.
        buffer = np.zeros(width, np.uint8)
        buffer[:8] = np.frombuffer(len(message).to_bytes(8, "little"), np.uint8)
        part = np.frombuffer(message[: width - 8], np.uint8)
        buffer[8 : 8 + len(part)] = part
        everyone = np.asarray(multihost_utils.process_allgather(buffer))
        lengths = [int.from_bytes(row[:8].tobytes(), "little") for row in everyone]
        if max(lengths) + 8 <= width:
            break
        width = 1 << (max(lengths) + 8 - 1).bit_length()  # few sizes: each is compiled once
    return [json.loads(row[8 : 8 + length].tobytes()) for row, length in zip(everyone, lengths, strict=True)]


def raise_error_on_all(error: Exception | None) -> None:
    """Raises in every process what one of them met; every process must call it at the same point.

    Args:
      error: what this one met; None when all is well.

    Raises:
      GlobalUserError: the mistake (`UserError`) that one or all of them met.
      GlobalMachineError: the fault of a machine (`MachineError`) that one or all of them met.
      OtherProcessError: another process met an error of another kind. In that process it is raised as it is.
    """
    if not is_running() or jax.process_count() == 1:
        if error is not None:
            raise error
        return
    message = None
    if error is not None:
        error = machine_faults.of(error) or error
        kind = next((name for name, (kind, _) in _SHARED.items() if isinstance(error, kind)), None)
        text = str(error) if kind else f"{type(error).__name__}: {error}"
        message = [kind, text[:4000], socket.gethostname()]
    _raise_first(all_gather_objects(message), error)


# Errors that all processes raise when one meets them, and as which.
_SHARED = {"machine": (MachineError, GlobalMachineError), "mistake": (UserError, GlobalUserError)}


def _raise_first(messages: Sequence[Any], error: Exception | None) -> None:
    """Raises the first failure of a process, else a machine's, else the first mistake; `error` is this process's."""
    met = [(process, *message) for process, message in enumerate(messages) if message is not None]
    if not met:
        return
    failures = [(process, text, host) for process, kind, text, host in met if kind is None]
    if failures:
        if error is not None and not isinstance(error, UserError | MachineError):
            raise error
        process, text, host = failures[0]
        raise OtherProcessError(f"process {process} of {len(messages)}, on {host}, failed with {text}")
    process, kind, text, host = min(met, key=lambda item: item[1] != "machine")
    alike = len(met) == len(messages) and len({text for _, _, text, _ in met}) == 1
    raise _SHARED[kind][1](text if alike else f"{text} (process {process} of {len(messages)}, on {host})") from error


@contextlib.contextmanager
def raise_on_all() -> Iterator[None]:
    """Context without collectives that all processes leave well, or none does; see `raise_error_on_all`."""
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    raise_error_on_all(error)


def broadcast_from_0(value: Any) -> Any:
    """The first process's value, in every process."""
    return all_gather_objects(value)[0] if is_running() else value


def run_on_process_0(function: Callable[[], Any]) -> Any:
    """What a function returns, or raises, in the first process, in every process; the others do not call it."""
    value = None
    with raise_on_all():
        if is_process_0():
            value = function()
    return broadcast_from_0(value)


def wait_for(appeared: Callable[[], bool], what: str) -> None:
    """Waits until this host sees what another one has written.

    Raises:
      UserError: it does not appear; the message begins with `what`.
    """
    until = time.monotonic() + _VISIBILITY
    while not appeared():
        if time.monotonic() > until:
            raise UserError(f"{what} is not seen by this host; give a folder on a disk that all hosts share, or gs://")
        time.sleep(0.1)


def check_shared(folder: Any, field: str) -> None:
    """Checks that all processes see the same folder: one writes a file there, and the others look for it.

    Raises:
      GlobalUserError: naming `field`.
    """
    if not is_running() or jax.process_count() == 1:
        return
    path = folder / broadcast_from_0(f".seen-by-all-{secrets.token_hex(4)}")
    with raise_on_all():
        if jax.process_index() == 0:
            path.write_text("")
    try:
        with raise_on_all():
            wait_for(path.exists, f"{field}={folder}: what the first host writes there")
    finally:
        if jax.process_index() == 0:
            path.unlink()


def check_same_plugins() -> None:
    """Checks that all processes have imported the same plugins; every process must call it at the same point.

    Raises:
      GlobalUserError: one has another version of a plugin, or lacks it; names its host.
    """
    if not is_running():
        return
    versions = {plugin.module: plugin.version for plugin in plugin_imports.imported()}
    (first_host, first), *others = all_gather_objects([socket.gethostname(), versions])
    for process, (host, versions) in enumerate(others, start=1):
        for module in sorted({*first, *versions}):
            other, reference = versions.get(module, "not imported"), first.get(module, "not imported")
            if other != reference:
                raise GlobalUserError(
                    f"plugins: {module!r} is {other} on {host} (process {process}) and {reference} on {first_host}"
                    " (process 0); all processes need the same version"
                )
