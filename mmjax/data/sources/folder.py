"""Folders of images, one sub-folder a class (`folder:`)."""

import posixpath

import fsspec
import numpy as np

from mmjax.data.formats.class_records import check_templates, make_class_record, read_lines
from mmjax.data.image.image_file import IMAGE_SUFFIXES, read_image
from mmjax.data.record import Record, check_index
from mmjax.data.source_protocols import DEFAULT_OPTIONS, SourceOptions
from mmjax.errors import UserError
from mmjax.io.patterns import error_reason
from mmjax.io.reader import Reader, is_local, local_path
from mmjax.utils.string_array import StringArray, StringArrayBuilder


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
        self._folders = [name for name in _folders(path, where) if not name.startswith(".")]
        if not self._folders:
            raise UserError(f"{where}: no sub-folders there; put the images of each class into a folder named after it")
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
            names = _images(f"{path}/{folder}")
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


def _base_name(path: str) -> str:
    return posixpath.basename(path.rstrip("/"))


def _folders(path: str, where: str) -> list[str]:
    """Returns the sorted names of a folder's sub-folders."""
    try:
        fs, inner = fsspec.core.url_to_fs(local_path(path) if is_local(path) else path)
        entries = fs.ls(inner, detail=True)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"{where}: cannot be listed ({error_reason(error)}); give a folder with one sub-folder per class"
        ) from error
    return sorted(_base_name(entry["name"]) for entry in entries if entry["type"] == "directory")


def _images(folder: str) -> list[str]:
    """Returns the sorted names of a folder's image files, by their endings: no call per file."""
    fs, inner = fsspec.core.url_to_fs(local_path(folder) if is_local(folder) else folder)
    names = [_base_name(name) for name in fs.ls(inner, detail=False)]
    return sorted(name for name in names if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."))
