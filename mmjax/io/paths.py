"""Workdirs and data on local disks and on any fsspec file system."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
from etils import epath
from upath import UPath

from mmjax.errors import UserError, did_you_mean

# What tensorstore, and so Orbax, can write by itself.
_DIRECT = ("gs",)
_SCHEME = re.compile(r"(?:^|::|,images=|,annotations=)([A-Za-z][A-Za-z0-9+.-]*)://")
# What installs the package of a scheme.
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http"}


def scheme(path: Any) -> str:
    """`gs` for gs://bucket/..., an empty string for a local path."""
    head, separator, _ = os.fspath(path).partition("://") if not isinstance(path, UPath) else (path.protocol, "://", "")
    return head if separator else ""


def as_path(path: Any) -> Any:
    """Returns a pathlib-like path: `epath` for local ones, gs:// and s3://, `UPath` (fsspec) for other schemes.

    Raises:
      UserError: it is no path, or no installed package knows the scheme.
    """
    if isinstance(path, (epath.Path, UPath)):
        return path
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"path {path!r}: give a path or a URL as text")
    if not os.fspath(path).strip():
        raise UserError(f"path {path!r} is empty; give a folder, a file or a URL")
    text = os.path.expanduser(os.fspath(path))
    try:
        if not scheme(text):
            return epath.Path(os.path.abspath(text))  # Orbax wants absolute paths
        fsspec.get_filesystem_class(scheme(text))  # says which package is missing
        return epath.Path(text) if scheme(text) in ("gs", "s3", "az") else UPath(text)
    except (ValueError, ImportError) as error:
        raise UserError(f"path {text!r}: {str(error).splitlines()[0]}") from error


def check_storage(path: str, *, where: str) -> None:
    """Checks that the URLs in a source's path are of kinds that can be read here.

    Args:
      path: paths, URLs, or patterns joined by "::".
      where: the config field and its value, to begin the error with.

    Raises:
      UserError: a scheme is unknown, or its package is missing, with the command that installs it.
    """
    for name in _SCHEME.findall(path):
        try:
            fsspec.get_filesystem_class(name)
        except ImportError as error:
            extra = _EXTRAS.get(name)
            remedy = f"; pip install 'mmjax[{extra}]'" if extra else ""
            raise UserError(f"{where}: {name}:// cannot be read ({' '.join(str(error).split())}){remedy}") from error
        except ValueError as error:
            near = did_you_mean(name, ["file", *_EXTRAS])
            raise UserError(
                f"{where}: {name}:// is no storage that is known{near}; write a path, or a URL that fsspec reads"
            ) from error


def is_direct(path: Any) -> bool:
    """Whether Orbax can write here; elsewhere checkpoints are staged on the local disk and copied."""
    return scheme(path) in ("", *_DIRECT)


def make_folder(path: Any, field: str) -> None:
    """Makes a folder, and its parents, that files can be written to.

    Raises:
      UserError: naming `field`.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{field}={path}: cannot be made ({error.strerror or error}); give another folder") from error
    if not scheme(path) and not os.access(path, os.W_OK):
        raise UserError(f"{field}={path}: not writable; change its permissions or give another folder")


@contextlib.contextmanager
def new_folder(path: Any, field: str) -> Iterator[Path]:
    """A folder beside a local path, which has its name once the block ends; after an error there is neither.

    Raises:
      UserError: the path is on another storage, something is there already, or it cannot be made.
    """
    if not isinstance(path, UPath) and scheme(path):
        raise UserError(f"{field}={path}: files for other programs are written to a local disk; give a folder there")
    target = as_path(path)
    check_empty(target, path, field)
    make_folder(target.parent, field)
    try:
        part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise UserError(f"{field}={path}: cannot be made ({error.strerror or error}); give another folder") from error
    try:
        part.chmod(0o777 & ~_umask())
        yield part
        if target.exists():
            target.rmdir()  # it is empty
        part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def check_empty(target: Any, path: Any, field: str) -> None:
    """Checks that a folder is missing or empty; `path` is what messages call it.

    Raises:
      UserError: it is not.
    """
    try:
        is_free = not target.exists() or (target.is_dir() and not any(target.iterdir()))
    except OSError as error:
        raise UserError(
            f"{field}={path}: cannot be looked at ({error.strerror or error}); give another folder"
        ) from error
    if not is_free:
        raise UserError(f"{field}={path} is there already; give a new folder")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_atomically(path: Any, content: str | bytes) -> None:
    """Writes a whole file; on a local disk a reader (or a kill) sees the old content or the new, never a part."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    if scheme(path):
        path.write_bytes(data)  # object stores replace whole objects
        return
    part = path.parent / f".{path.name}.part"
    with open(part, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # else a machine that goes off may leave the new name with nothing in it
    os.replace(part, path)


def copy_tree(source: Any, target: Any, *, leave_out: Sequence[str] = ()) -> None:
    """Copies a folder's files between file systems, but for children of the names in `leave_out`."""
    target.mkdir(parents=True, exist_ok=True)
    for child in source.iterdir():
        if child.name in leave_out:
            continue
        if child.is_dir():
            copy_tree(child, target / child.name)
        else:
            (target / child.name).write_bytes(child.read_bytes())


def remove_tree(path: Any) -> None:
    """Removes a folder and what is in it."""
    if isinstance(path, UPath):
        path.fs.rm(path.path, recursive=True)
    else:
        path.rmtree()
