"""The source that a file or folder is for, to name where it was given to another one."""

import posixpath

from mmjax.data.formats.input_files import INPUT_SUFFIXES
from mmjax.io.listing import list_folder
from mmjax.io.reader import is_local, local_path

_FILES = {
    ".parquet": "parquet",
    ".tar": "wds",
    ".csv": "pairs",
    ".tsv": "pairs",
    ".jsonl": "pairs",
    ".array_record": "arrayrecord",
}
_TEXTS = (".txt", ".caption")


def fitting_source(path: str) -> str:
    """The spec of the source that reads what lies at a local path, or a pattern of such files; "" where none is sure.

    Args:
      path: as it stands after another source's name.
    """
    if by_ending := _FILES.get(posixpath.splitext(path)[1].lower()):
        return f"{by_ending}:{path}"
    try:
        listing = list_folder(local_path(path)) if is_local(path) else None
        if listing is None:
            return ""
        first = list_folder(f"{local_path(path)}/{listing.folders[0]}") if listing.folders else None
    except OSError:
        return ""
    endings = {posixpath.splitext(name)[1].lower() for name in listing.files}
    if ".tar" in endings:
        return f"wds:{path}"
    for files in (listing.files, first.files if first else []):
        endings_here = {posixpath.splitext(name)[1].lower() for name in files}
        if endings_here & set(INPUT_SUFFIXES):
            if endings_here & set(_TEXTS):
                return f"files:{path}"
            return f"folder:{path}" if files is not listing.files else ""
    return f"parquet:{path}" if ".parquet" in endings else ""
