"""The check that a local path is a file of a size that can be read, before it is opened: opening a pipe would wait."""

import errno
import os
import stat

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# A large file of which less than this share is on the disk is sparse: no compression of a disk does as much.
_SPARSE_BYTES, _SPARSE_SHARE = 1 << 30, 1 / 256


class NotReadableError(OSError):
    """A path that names no file, or one that is too large."""


def check_regular(path: str, limit: int | None = None) -> os.stat_result:
    """Checks a local path; folders and what is not there are left to whoever opens it.

    Args:
      path: local, without file://.
      limit: bytes that a file may have; None where only a part of it will be read, and it may be sparse.

    Raises:
      NotReadableError: it is a pipe, a socket or a device, or a file of more bytes, or a sparse one.
      OSError: there is nothing.
    """
    status = os.stat(path)
    kind = _KINDS.get(stat.S_IFMT(status.st_mode))
    if kind is not None:
        raise NotReadableError(errno.EINVAL, f"is {kind} and no file", path)
    if limit is not None and stat.S_ISREG(status.st_mode):
        if status.st_size > limit:
            raise NotReadableError(errno.EFBIG, f"has {status.st_size:,} bytes, at most {limit:,} are read", path)
        on_disk = getattr(status, "st_blocks", status.st_size) * 512
        if status.st_size > _SPARSE_BYTES and on_disk < status.st_size * _SPARSE_SHARE:
            raise NotReadableError(
                errno.EFBIG, f"is sparse: {status.st_size:,} bytes, of which {on_disk:,} are on the disk", path
            )
    return status


def memory_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
