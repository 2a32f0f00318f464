"""A watch over the other processes of a run: where one is gone, this one ends with a line and exit status 75.

jax would notice when it misses heartbeats, and then ends with a stack of C++; until then collectives wait. So each
process keeps a connection to process 0: the kernel closes those of a process that dies, at once.
"""

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
from typing import Any, NoReturn

import jax

from mmjax.errors import EXIT_MACHINE
from mmjax.parallel import process_agreement
from mmjax.utils import terminal

_CONNECT_SECONDS = 30.0
# A machine that is off closes nothing: it is gone after so many seconds without an answer, and so many more tries.
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
_BYE = {"bye": True}
_open: list[socket.socket] = []  # of this process


def start() -> None:
    """Starts the watch, once the processes have joined; all of them call it alike."""
    if not process_agreement.is_running() or jax.process_count() == 1:
        return
    server, token = None, None
    if jax.process_index() == 0:
        server, token = socket.create_server(("", 0)), secrets.token_hex(16)
    port = None if server is None else server.getsockname()[1]
    (name, port, token), *others = process_agreement.all_gather_objects([socket.gethostname(), port, token])
    names = [name, *(other for other, *_ in others)]
    if server is not None:
        threading.Thread(target=_accept, args=(server, token, names), daemon=True, name="peers").start()
    else:
        connection = _connect([_coordinator(), name], port)
        if connection is None:
            return  # no such connections here: jax's heartbeats are left
        _send(connection, {"token": token, "process": jax.process_index()})
        _open.append(connection)
        _watch(connection, _name(0, names))


def stop() -> None:
    """Tells the others that this process ends in order."""
    while _open:
        connection = _open.pop()
        _send(connection, _BYE)
        connection.close()


def _accept(server: socket.socket, token: str, names: list[str]) -> None:
    server.settimeout(_CONNECT_SECONDS)
    with contextlib.suppress(OSError), server:
        while len(_open) < len(names) - 1:
            connection, _ = server.accept()
            connection.settimeout(_CONNECT_SECONDS)
            hello = _read(connection.makefile("r", encoding="utf-8"))
            if hello is None or hello.get("token") != token:  # somebody else's
                connection.close()
                continue
            _open.append(connection)
            _watch(connection, _name(hello["process"], names))


def _watch(connection: socket.socket, name: str) -> None:
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    threading.Thread(target=_wait, args=(connection, name), daemon=True, name="peer").start()


def _wait(connection: socket.socket, name: str) -> None:
    """Waits until a process ends: in order, or not."""
    message = _read(connection.makefile("r", encoding="utf-8"))
    if message == _BYE or connection not in _open:  # the latter: this process ends in order
        return
    _end((message or {}).get("gone", name))


def _end(gone: str) -> NoReturn:
    for connection in list(_open):  # the others hear who it was
        _send(connection, {"gone": gone})
    terminal.show_error(f"stopped: {gone}, has gone; see what it printed, and start the run again")
    sys.stderr.flush()
    os._exit(EXIT_MACHINE)


def _connect(hosts: list[str | None], port: int) -> socket.socket | None:
    for host in filter(None, hosts):
        with contextlib.suppress(OSError):
            return socket.create_connection((host, port), timeout=_CONNECT_SECONDS)
    return None


def _coordinator() -> str | None:
    """The host of process 0 as jax knows it, which this one has reached."""
    with contextlib.suppress(ImportError, AttributeError):
        from jax._src import distributed

        address = distributed.global_state.coordinator_address
        return address.rpartition(":")[0].strip("[]") if address else None
    return None


def _name(process: int, names: list[str]) -> str:
    return f"process {process} of {len(names)}, on {names[process]}"


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        connection.sendall((json.dumps(message) + "\n").encode())


def _read(lines: Any) -> dict[str, Any] | None:
    """The next message; None where the connection ends."""
    with contextlib.suppress(OSError, ValueError):
        message = json.loads(lines.readline(10_000))
        return message if isinstance(message, dict) else None
    return None
