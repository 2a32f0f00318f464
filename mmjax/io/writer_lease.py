"""The claim of one process on a folder that it writes: a kernel lock, where there is one, and a lease in a file.

The kernel opens the lock of a process that dies, so on one machine the next one takes over at once. Machines that share
a disk or a bucket see the lease alone: its holder writes it anew again and again, and who does not is passed over. The
holder looks at it before it writes anything else, so that one that was stopped meanwhile writes nothing.
"""

import contextlib
import dataclasses
import datetime
import errno
import inspect
import json
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from typing import Any

import fsspec

from mmjax.errors import MachineError, UserError
from mmjax.io import file_locks, paths
from mmjax.io.retries import with_retries
from mmjax.utils import terminal

_FILE = ".writer.json"
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)  # what some network disks answer
_RETRY_SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class LeaseSettings:
    """How long a lease lasts.

    Attributes:
      renew: seconds between two renewals.
      lost: seconds without one, after which the lease is another's to take.
      kernel_lock: whether disks are asked for one; network disks may have none that other machines see.
    """

    renew: float = 10.0
    lost: float = 180.0
    kernel_lock: bool = True


class LostLease(MachineError):
    """Another process has taken the folder over, as this one had not renewed its lease for too long."""


class WriterLease:
    """The claim of this process on a folder; `claim` makes it.

    Args:
      folder: a path that exists.
      field: what messages call it, such as `--workdir`.
      settings: how long it lasts.
    """

    def __init__(self, folder: Any, field: str, settings: LeaseSettings):
        self._folder, self._settings = folder, settings
        self._name, self._path = f"{field}={folder}", folder / _FILE
        self._id, self._beats = secrets.token_hex(8), 0
        self._since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._kernel_lock = contextlib.ExitStack()
        self._ended, self._mutex = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._renew_again_and_again, daemon=True, name="lease")
        self.lost = False

    def acquire(self) -> None:
        """Claims the folder.

        Raises:
          UserError: another process has it.
        """
        has_lock = self._lock()
        try:
            holder = self._read()
            if holder is not None and has_lock and holder.get("machine") == _machine():
                self._write()  # its process is dead: this one has its lock
            elif holder is not None:
                self._wait_for_silence(holder)
                self._write()
                self._settle()
            elif not self._create():
                raise self._in_use()
            elif paths.scheme(self._folder):
                self._settle()
        except BaseException:
            self._kernel_lock.close()
            raise
        self._thread.start()

    def check(self) -> None:
        """Looks whether the folder is still this process's to write to.

        Raises:
          LostLease: another one has taken it over.
        """
        if not self.lost:
            with self._mutex:
                holder = self._read()
            self.lost = holder is None or holder.get("id") != self._id
        if self.lost:
            raise LostLease(
                f"{self._name}: {self._describe_holder()} has taken it over, as this process had stopped for"
                f" {self._settings.lost:g} s or its folder is gone; nothing more is written"
            )

    def release(self) -> None:
        """Gives the folder back; harmless when repeated."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
            with contextlib.suppress(OSError):
                holder = self._read()
                if holder is not None and holder.get("id") == self._id:
                    self._path.unlink()
        self._kernel_lock.close()

    def _lock(self) -> bool:
        """Takes the kernel's lock; returns whether there is one here."""
        if paths.scheme(self._folder) or not self._settings.kernel_lock:
            return False
        try:
            mine = self._kernel_lock.enter_context(file_locks.locked(os.fspath(self._folder / ".writer"), wait=False))
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return False
            raise
        if not mine:
            self._kernel_lock.close()
            raise self._in_use()
        return True

    def _in_use(self) -> UserError:
        deadline = time.monotonic() + 2
        while self._read() is None and time.monotonic() < deadline:  # it has only just begun
            time.sleep(0.05)
        return UserError(
            f"{self._name}: {self._describe_holder()} writes there; wait until it ends, or give another folder"
        )

    def _describe_holder(self) -> str:
        holder = self._read() or {}
        names = [f"process {holder['pid']} on {holder['host']}", f"since {holder['since']}"] if "pid" in holder else []
        return " ".join(names) or "another process"

    def _wait_for_silence(self, holder: dict[str, Any]) -> None:
        """Returns once a lease of another machine has not been renewed for so long that it counts as lost.

        Raises:
          UserError: it is renewed.
        """
        deadline = time.monotonic() + self._settings.lost  # by our clock: those of machines differ
        terminal.show_error(
            f"{self._name}: {self._describe_holder()} was writing there; waiting for a sign of life, for up to"
            f" {self._settings.lost:g} s"
        )
        while time.monotonic() < deadline:
            time.sleep(min(1.0, self._settings.renew / 4))
            seen = self._read()
            if seen is None:
                return
            if seen != holder:
                raise self._in_use()

    def _settle(self) -> None:
        """Waits until one that took the lease at the same moment has seen this, or this sees the other.

        Raises:
          UserError: it is the other's.
        """
        time.sleep(min(1.0, self._settings.renew / 4))
        holder = self._read()
        if holder is None or holder.get("id") != self._id:
            raise self._in_use()

    def _renew_again_and_again(self) -> None:
        while not self._ended.wait(self._settings.renew):
            with self._mutex, contextlib.suppress(OSError):  # it may be well the next time
                began = _clock()
                holder = self._read()
                if holder is None or holder.get("id") != self._id:
                    self.lost = True
                    return
                self._write()
                # Stopped between the two, it may have written over the lease of another, who sees it and ends.
                if _clock() - began > self._settings.lost / 2:
                    self.lost = True
                    return

    def _content(self) -> bytes:
        self._beats += 1
        return json.dumps(
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "id": self._id,
                "machine": _machine(),
                "since": self._since,
                "beats": self._beats,
            }
        ).encode()

    def _read(self) -> dict[str, Any] | None:
        """What the lease says; None where there is none."""

        def read():
            try:
                return self._path.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

        content = with_retries(str(self._path), read, _RETRY_SECONDS)
        if content is None:
            return None
        try:
            holder = json.loads(content)
            return holder if isinstance(holder, dict) else {}
        except ValueError:
            return {}

    def _write(self) -> None:
        paths.write_atomically(self._path, self._content())

    def _create(self) -> bool:
        """Writes the lease where there is none; returns whether there was none."""
        scheme = paths.scheme(self._folder)
        if not scheme:
            return _link(Path(self._path), self._content())
        if paths.is_direct(self._folder):
            return _write_if_absent(str(self._folder), _FILE, self._content())
        fs, path = fsspec.core.url_to_fs(str(self._path))
        write = getattr(fs, "_pipe_file", None) or fs.pipe_file
        atomic = "mode" in inspect.signature(write).parameters and (
            hasattr(fs, "_pipe_file") or type(fs).pipe_file is not fsspec.AbstractFileSystem.pipe_file
        )
        if not atomic:
            terminal.show_error(
                f"note: {scheme}:// cannot make a file only where there is none: see to it that no two runs start in"
                f" {self._folder} at the same moment"
            )
            self._write()
            return True
        try:
            fs.pipe_file(path, self._content(), mode="create")
            return True
        except FileExistsError:
            return False


def claim(folder: Any, field: str, settings: LeaseSettings | None = None) -> WriterLease:
    """Claims a folder for this process; arguments and errors as of `WriterLease`."""
    lease = WriterLease(folder, field, settings or LeaseSettings())
    lease.acquire()
    return lease


def _link(path: Path, content: bytes) -> bool:
    """Makes a file with its content, where there is none, also on network disks."""
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    part.write_bytes(content)
    try:
        os.link(part, path)
        return True
    except FileExistsError:
        return False
    finally:
        part.unlink()


def _write_if_absent(folder: str, name: str, content: bytes) -> bool:
    """Writes an object by its generation, as tensorstore does for the checkpoints beside it."""
    import tensorstore

    store = tensorstore.KvStore.open(folder.rstrip("/") + "/").result()
    seen = store.read(name).result()
    if seen.state != "missing":
        return False
    return bool(store.write(name, content, if_equal=seen.stamp.generation).result().generation)


def _machine() -> str:
    """What tells this machine, since it was started, from others: kernel locks are those of one kernel."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def _clock() -> float:
    """Seconds, those that the machine was suspended among them."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
