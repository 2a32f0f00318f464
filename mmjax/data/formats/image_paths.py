"""Paths of images, as tables name them."""

import posixpath
from collections.abc import Iterable
from typing import Any

from mmjax.data.bad_example import BadExample
from mmjax.data.formats.input_files import inputs_of_file, read_input, suffix_of
from mmjax.io.reader import Reader, is_local

IMAGE_COLUMNS = (
    *("image", "filepath", "path", "file_name", "filename", "image_path"),
    *("video", "video_path", "audio", "audio_path", "file"),
)
IMAGES_OPTION = ",images="  # what names the folder of the images, after a table's path


def resolve_path(folder: str, image: str) -> str:
    """An image's full path; `folder` ends in a slash or is empty. An empty one stays empty."""
    if not image or "://" in image:
        return image
    path = image if image.startswith("/") else folder + image
    # Normalising all of a million paths would take as long as everything else.
    return posixpath.normpath(path) if "://" not in path and ("//" in path or "./" in path) else path


def read_listed_image(reader: Reader, path: str, folder: str, allowed: str) -> bytes:
    """Reads an image, or another input of an example, that a table names.

    Args:
      reader: reads it.
      path: in full.
      folder: that relative paths start from, with a slash at the end or empty.
      allowed: `data.table_paths`: "folder", "storage" or "any".

    Raises:
      OSError: it is not there, or cannot be read.
      BadExample: as `read_input` does; `read`, where the table may not name it.
    """
    if allowed != "any" and storage_of(path) != storage_of(folder):
        raise BadExample("read", f"{path!r} is on another storage than its table; data.table_paths='any' allows that")
    if allowed == "folder" and not _is_inside(path, folder):
        raise BadExample("read", f"{path!r} is not in {folder!r}; data.table_paths='storage' allows that")
    return read_input(reader, path)


def inputs_of_listed(reader: Reader, paths: Iterable[str], folder: str, allowed: str) -> dict[str, Any]:
    """What files that a table names give of one example, by modality: of those of one kind the first; blank ones none.

    Args:
      reader, folder, allowed: see `read_listed_image`.
      paths: in full, or empty.

    Raises:
      OSError: one is not there, or cannot be read.
      BadExample: as `read_listed_image` and `inputs_of_file` do, with the path.
    """
    inputs: dict[str, Any] = {}
    for path in filter(None, paths):
        try:
            inputs = inputs_of_file(read_listed_image(reader, path, folder, allowed), suffix_of(path)) | inputs
        except BadExample as error:
            raise error.with_path(path) from error
    return inputs


def _is_inside(path: str, folder: str) -> bool:
    """Whether a path stays in a folder, as it is written; links are not followed."""
    inside, outside = posixpath.normpath(folder or "."), posixpath.normpath(path)
    if inside == ".":
        return not outside.startswith(("/", "../")) and outside != ".."
    return outside.startswith(inside.removesuffix("/") + "/")


def storage_of(path: str) -> str:
    """What a path is on: "" for this machine, else scheme and bucket or host."""
    return "" if is_local(path) else "/".join(path.split("/", 3)[:3])
