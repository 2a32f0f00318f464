"""File locks among the processes of a host, and among hosts that share a disk."""

import contextlib
import fcntl
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator

_BEAT = 10.0  # seconds between two signs of life
_DEAD_AFTER = 180.0  # seconds without one; network file systems show others' changes up to a minute late
_POLL = 0.2  # seconds

log = logging.getLogger("mmjax.data")


@contextlib.contextmanager
def locked(path: str, *, wait: bool = True) -> Iterator[bool]:
    """Lets one process of a host at a time write a file; yields whether it is this one, which may be no without `wait`.

    The kernel opens the lock of a process that dies. The lock's file goes when it is opened.

    Raises:
      OSError: the file's folder cannot be written to.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    lock = path + ".lock"
    while True:
        with open(lock, "wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            if not _is_file(file.fileno(), lock):  # its last holder has removed it meanwhile
                continue
            try:
                yield True
            finally:
                with contextlib.suppress(OSError):
                    os.remove(lock)
            return


def _is_file(number: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(number), os.stat(path))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def exclusive_build(path: str) -> Iterator[bool]:
    """Lets one process at a time make a file, among all hosts that see its folder; yields whether another did before.

    `PATH.building` names the process, which touches it. A lock that is not touched any more is removed: at worst two
    processes make the same file.

    Raises:
      OSError: the folder cannot be written to.
    """
    lock, waited = path + ".building", False
    while not _claim(lock):
        if not waited:
            log.warning("waiting for another process (%s) that makes %s", _holder(lock), path)
        waited = True
        _wait(lock)
    done = threading.Event()
    threading.Thread(target=_beat, args=(lock, done), daemon=True, name="building").start()
    try:
        yield waited
    finally:
        done.set()
        with contextlib.suppress(OSError):
            os.remove(lock)


def _claim(lock: str) -> bool:
    try:
        number = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(number, "w") as file:
        file.write(f"{socket.gethostname()} {os.getpid()}")
    return True


def _beat(lock: str, done: threading.Event) -> None:
    while not done.wait(_BEAT):
        with contextlib.suppress(OSError):
            os.utime(lock)


def _holder(lock: str) -> str:
    try:
        with open(lock) as file:
            return file.read(200)
    except OSError:
        return ""


def _wait(lock: str) -> None:
    """Returns when the lock is gone; removes it when its holder is."""
    seen, since = None, time.monotonic()
    while True:
        try:
            beat = os.stat(lock).st_mtime_ns
        except OSError:
            return
        if beat != seen:  # by our own clock: those of hosts differ
            seen, since = beat, time.monotonic()
        silent = time.monotonic() - since
        host, _, number = _holder(lock).partition(" ")
        dead = host == socket.gethostname() and number.isdigit() and not _is_alive(int(number))
        if dead or silent > _DEAD_AFTER:
            log.warning("%s %s has stopped and is passed over", host, number)
            with contextlib.suppress(OSError):
                os.remove(lock)
            return
        time.sleep(_POLL)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
