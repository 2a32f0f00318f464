"""Folders of images, one sub-folder a class (`folder:`)."""

import logging
import posixpath

import numpy as np

from mmjax.data.formats.class_records import check_templates, make_class_record, read_lines
from mmjax.data.formats.table_file import TABLE_SUFFIXES
from mmjax.data.image.image_file import IMAGE_SUFFIXES, read_image
from mmjax.data.record import Record, check_index
from mmjax.data.source_protocols import DEFAULT_OPTIONS, SourceOptions
from mmjax.errors import UserError
from mmjax.io.listing import Listing, list_folder
from mmjax.io.patterns import error_reason
from mmjax.io.reader import Reader
from mmjax.utils.string_array import StringArray, StringArrayBuilder

log = logging.getLogger("mmjax.data")


class Folder:
    """Images by class: every sub-folder is a class, the image files directly in it are its examples.

    Classes and files are in alphabetical order. A class's name is its folder's with spaces for underscores; captions
    are made from `templates`, and the class is the record's `id`, so that images of one class are positives of one
    another. Folders that are named by codes (ImageNet's) need `classnames.txt` beside them: one name a line, in the
    folders' order; `zeroshot_classification_templates.txt` may give the prompts, one a line with {c} for the name. Both
    files are CLIP_benchmark's.

    Args:
      path: the folder.
      options: how to read it.
      field: config field to name in errors.

    Raises:
      UserError: on a folder that is missing or has no sub-folders, and on a class without images.
    """

    def __init__(self, path: str, *, options: SourceOptions = DEFAULT_OPTIONS, field: str = "data.train"):
        path = path.rstrip("/") or "/"
        self.name = posixpath.basename(path)
        self._path, self._reader = path, Reader(options.retry_seconds)
        where = f"{field}='folder:{path}'"
        self._folders, files = _list(path, where)
        if not self._folders:
            raise UserError(f"{where}: no sub-folders there; {_remedy_without_folders(path, files)}")
        lines = lambda name: read_lines([path], name, reader=self._reader, where=where)
        names = lines("classnames.txt")
        self.class_names = names or [folder.replace("_", " ") for folder in self._folders]
        if len(self.class_names) != len(self._folders):
            raise UserError(
                f"{where}: classnames.txt has {len(self.class_names)} names for {len(self._folders)} folders;"
                " write one a line in the folders' alphabetical order"
            )
        self.templates = check_templates(lines("zeroshot_classification_templates.txt"), where)
        files, counts = StringArrayBuilder(), []
        for folder in self._folders:
            inside = _list(f"{path}/{folder}", where).files
            names = [name for name in inside if _is_image(name)]
            if not counts:
                _check_texts(path, folder, names, inside, where)
            if not names:
                raise UserError(
                    f"{where}: class folder {folder!r} has no images; remove it or fill it with files ending in "
                    f"{', '.join(IMAGE_SUFFIXES[:-1])} or {IMAGE_SUFFIXES[-1]}"
                )
            files.extend(names)
            counts.append(len(names))
        self._files, self._ends = StringArray.of(files), np.cumsum(counts)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Record:
        index = check_index(index, len(self))
        label = int(np.searchsorted(self._ends, index, side="right"))
        path = f"{self._path}/{self._folders[label]}/{self._files[index]}"
        return make_class_record(read_image(self._reader, path), self.class_names, self.templates, label, path)


def _list(path: str, where: str) -> Listing:
    try:
        return list_folder(path)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"{where}: cannot be listed ({error_reason(error)}); give a folder with one sub-folder per class"
        ) from error


def _remedy_without_folders(path: str, files: list[str]) -> str:
    """What to do where images lie in no sub-folders."""
    if table := next((name for name in files if name.startswith("metadata.") and name.endswith(TABLE_SUFFIXES)), ""):
        return f"write pairs:{path}/{table} for the captions of its table"
    if any(name.lower().endswith(".txt") for name in files) and any(map(_is_image, files)):
        return f"write files:{path} for images with captions in files beside them"
    return "put the images of each class into a folder named after it"


def _check_texts(path: str, folder: str, images: list[str], files: list[str], where: str) -> None:
    """Looks for captions beside the images of a folder, as img2dataset's layout `files` has them.

    Raises:
      UserError: there are some, and the folder has a number for a name.
    """
    texts = {name.rpartition(".")[0] for name in files if name.lower().endswith(".txt")}
    captioned = sum(name.rpartition(".")[0] in texts for name in images)
    if not captioned:
        return
    what = f"{captioned:,} of {len(images):,} images in {folder!r} have a .txt beside them"
    if folder.isdigit():
        raise UserError(f"{where}: {what}, and {folder!r} is no class; write files:{path} for these captions")
    log.warning("%s: %s, which is not read; files:%s reads captions", where, what, path)


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)
