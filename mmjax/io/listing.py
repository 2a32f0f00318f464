"""Listings of folders, local and remote."""

import os
import posixpath
from typing import NamedTuple

import fsspec

from mmjax.io.reader import is_local, local_path


class Listing(NamedTuple):
    """Names of the folders and of the files in a folder, sorted, without those that begin with a dot."""

    folders: list[str]
    files: list[str]


def list_folder(path: str) -> Listing:
    """Lists a folder, without asking for each of its files where that is local.

    Raises:
      OSError, ValueError, ImportError: it cannot be listed, or is of a kind that nothing here can read.
    """
    folders: list[str] = []
    files: list[str] = []
    if is_local(path):
        with os.scandir(local_path(path)) as entries:
            for entry in entries:
                (folders if entry.is_dir() else files).append(entry.name)
    else:
        fs, inner = fsspec.core.url_to_fs(path)
        for entry in fs.ls(inner, detail=True):
            name = posixpath.basename(entry["name"].rstrip("/"))
            (folders if entry["type"] == "directory" else files).append(name)
    return Listing(*(sorted(name for name in names if name and not name.startswith(".")) for names in (folders, files)))
