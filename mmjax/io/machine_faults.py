"""Which errors are faults of the machine, its storage or another process, after which a run can be started again."""

import errno
import re
from collections.abc import Iterator

from mmjax.errors import MachineError, UserError

_NO_SPACE, _READ_ONLY = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG), (errno.EROFS,)
_STORAGE = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO, errno.EREMOTEIO, errno.ETIMEDOUT)
# What libraries in C++ say of the same, in errors that have no number.
_TEXTS = (
    (re.compile(r"ENOSPC|EDQUOT|EFBIG|No space left on device|Disk quota exceeded|File too large"), "no space is left"),
    (re.compile(r"EROFS|Read-only file system"), "the disk is read-only"),
    (re.compile(r"OS error \d+: (EIO|ESTALE|ENOTCONN)\b"), "the storage fails"),
    (
        re.compile(
            r"gloo.*(closed by peer|reset by peer|timed out|refused)|heartbeat timeout|CoordinationService"
            r"|NCCL.*(remote process exited|unhandled system error)|nccl.*closed by remote",
            re.IGNORECASE | re.DOTALL,
        ),
        "another process of the run has gone, or its machine cannot be reached",
    ),
)
_REMEDIES = {
    "no space is left": "make room, and start the run again",
    "the disk is read-only": "see to the disk, and start the run again",
}
_QUOTED = 200  # characters


def of(error: BaseException) -> MachineError | None:
    """The fault of the machine that an error comes from; None for a mistake, and for a fault of code.

    A mistake (`UserError`) counts as the machine's where a disk that is full or read-only is behind it.
    """
    if isinstance(error, MachineError):
        return error
    for cause in _causes(error):
        if isinstance(cause, MachineError):
            return cause
        if line := _describe(cause, files_only=isinstance(error, UserError)):
            return MachineError(line)
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _describe(error: BaseException, *, files_only: bool) -> str | None:
    text = " ".join(str(error).split())[:_QUOTED]
    if isinstance(error, OSError):
        numbers = {"no space is left": _NO_SPACE, "the disk is read-only": _READ_ONLY}
        numbers |= {} if files_only else {"the storage fails": _STORAGE}
        for fault, those in numbers.items():
            if error.errno in those:
                return _line(fault, text)
    if files_only:
        return None
    if isinstance(error, MemoryError):
        return (
            f"not enough memory ({text or 'MemoryError'}); lower data.workers or batch_size, or take a larger machine"
        )
    if isinstance(error, OSError | RuntimeError | ValueError | TimeoutError):
        for pattern, fault in _TEXTS:
            if pattern.search(str(error)):
                return _line(fault, text)
    return None


def _line(fault: str, text: str) -> str:
    return f"{fault} ({text}); {_REMEDIES.get(fault, 'start the run again')}"
