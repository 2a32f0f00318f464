"""Calls of a storage that are repeated where that may help, and which errors those are."""

import asyncio
import errno
import logging
import random
import socket
import sys
import time
from collections.abc import Callable
from typing import TypeVar

_FIRST_WAIT, _LONGEST_WAIT = 0.2, 20.0  # seconds
# Errors that waiting does not mend.
_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError)
_PERMANENT_OTHERS = (ImportError, ValueError, TypeError)
_PERMANENT_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG)
_WORTH_WAITING = (408, 425, 429)  # client errors of HTTP that pass: timeout, too early, too many requests
_FORBIDDEN, RANGE_NOT_SATISFIABLE = (401, 403), 416
# Errors of connections that are no OSError, by the client whose they are.
_CONNECTION_ERRORS = {
    "aiohttp": ("ClientError",),
    "botocore.exceptions": ("HTTPClientError",),
    "requests.exceptions": ("RequestException",),
    "google.auth.exceptions": ("TransportError",),
    "http.client": ("HTTPException",),
}

# What the resolver says of a host that there is not; where it cannot tell now, it says EAI_AGAIN.
_NO_HOST = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
_NO_HOST_SECONDS = 5.0  # that such a host is tried again for, once a process
_resolved: set[str] = set()  # hosts that have answered this process, whose names exist
_unresolved: set[str] = set()

log = logging.getLogger("mmjax.data")

T = TypeVar("T")


class ReadError(OSError):
    """A file that could not be read, after trying again where that could help."""


class StorageAwayError(ReadError):
    """A storage that failed for all the time that it was tried again."""


def with_retries(path: str, call: Callable[[], T], seconds: float) -> T:
    """The result of a call, which is repeated with growing pauses after transient errors.

    A host that has no address, and has not answered this process before, is taken for one that there is not: it is
    tried for a few seconds, and another time not at all.

    Args:
      path: what it reads or writes, for messages.
      call: to repeat.
      seconds: for how long.

    Raises:
      FileNotFoundError, PermissionError: there is no such file, or it may not be read.
      StorageAwayError: the storage fails for all that time.
      ReadError: it fails in a way that waiting does not mend.
    """
    start, host = time.monotonic(), "/".join(path.split("/", 3)[:3])
    wait, has_warned = _FIRST_WAIT, False
    while True:
        try:
            result = call()
            _resolved.add(host)
            _unresolved.discard(host)
            return result
        except Exception as raised:
            error = _underlying_error(raised)
            if not is_transient(error):
                if _status(error) in _FORBIDDEN:
                    raise PermissionError(errno.EACCES, _error_text(error), path) from error
                if isinstance(error, (OSError, *_PERMANENT_OTHERS)):
                    raise
                raise ReadError(f"{path}: {_error_text(error)}") from error
            is_unknown = host not in _resolved and _has_no_host(error)
            patience = seconds
            if is_unknown:
                patience = 0.0 if host in _unresolved else min(seconds, _NO_HOST_SECONDS)
            if time.monotonic() + wait > start + patience:
                if is_unknown:
                    _unresolved.add(host)
                    raise ReadError(f"{path}: {_error_text(error)}; check the name of the host") from error
                raise StorageAwayError(f"{path}: {_error_text(error)}, for {seconds:g} s") from error
            if not has_warned:
                log.warning("%s: %s; trying again for up to %g s", path, _error_text(error), patience)
                has_warned = True
            # Jitter, so that many workers do not retry in step.
            time.sleep(wait * (0.5 + random.random()))
            wait = min(2 * wait, _LONGEST_WAIT)


def is_transient(error: Exception) -> bool:
    """Whether a retry may help."""
    if isinstance(error, (*_PERMANENT, *_PERMANENT_OTHERS)) or getattr(error, "errno", None) in _PERMANENT_NUMBERS:
        return False
    status = _status(error)
    if status is not None and 400 <= status < 500:
        return status in _WORTH_WAITING
    kinds = (OSError, EOFError, asyncio.TimeoutError, *_connection_errors())
    return isinstance(error, kinds) or status is not None


def _underlying_error(error: Exception) -> Exception:
    """The error that stopped a call: fsspec raises FileNotFoundError for any that keeps it from a file's size."""
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or not isinstance(cause, Exception):
        return error
    return cause if is_transient(cause) or _status(cause) in _FORBIDDEN else error


def _has_no_host(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that a host's name has no address."""
    seen: list[BaseException] = []
    remaining: list[object] = [error]
    while remaining:
        current = remaining.pop()
        if not isinstance(current, BaseException) or any(current is other for other in seen):
            continue
        if isinstance(current, socket.gaierror) and current.errno in _NO_HOST:
            return True
        seen.append(current)
        # aiohttp has the cause as `os_error`, and urllib3 as `reason`.
        remaining += [current.__cause__, current.__context__]
        remaining += [getattr(current, name, None) for name in ("os_error", "reason")]
    return False


def _status(error: Exception) -> int | None:
    """The HTTP status, which the stores' clients have as `status`, `code`, or in botocore's or requests' response."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        direct = getattr(error, "status", None) or getattr(error, "code", None)
        status = direct or getattr(response, "status_code", None)  # as requests has it
    return status if isinstance(status, int) and status >= 100 else None


def _connection_errors() -> tuple[type[Exception], ...]:
    """Errors of the clients that are loaded."""
    loaded = [(sys.modules[name], kinds) for name, kinds in _CONNECTION_ERRORS.items() if name in sys.modules]
    return tuple(getattr(module, kind) for module, kinds in loaded for kind in kinds if hasattr(module, kind))


def is_past_the_end(error: Exception) -> bool:
    """Whether the requested part lies past the end of a file; s3fs makes EINVAL of the status."""
    return _status(error) == RANGE_NOT_SATISFIABLE or (
        isinstance(error, OSError) and error.errno == errno.EINVAL and "range" in str(error).lower()
    )


def _error_text(error: Exception) -> str:
    """An error in a few words on one line."""
    status = getattr(error, "status", None)
    message = " ".join(str(getattr(error, "message", None) or error).split()) or type(error).__name__
    return f"{status} {message}" if isinstance(status, int) else message
