"""Folders of images, videos, sounds or arrays, one sub-folder a class (`folder:`)."""

import collections
import logging
import posixpath

import numpy as np

from mmjax.data.bad_example import BadExample
from mmjax.data.formats.class_records import check_templates, log_equal_names, make_class_record, read_lines
from mmjax.data.formats.input_files import INPUT_SUFFIXES, inputs_of_file, kind_of, read_input, suffix_of
from mmjax.data.formats.table_file import TABLE_SUFFIXES
from mmjax.data.formats.wordnet_ids import begins_with_id, log_numbers, readable_names, unknown_ids
from mmjax.data.image.image_file import IMAGE_SUFFIXES
from mmjax.data.record import Record, check_index, stable_id
from mmjax.data.source_protocols import DEFAULT_OPTIONS, SourceOptions
from mmjax.data.webdataset.members import input_endings
from mmjax.errors import UserError
from mmjax.io.listing import Listing, list_folder
from mmjax.io.patterns import error_reason
from mmjax.io.reader import Reader
from mmjax.utils.string_array import StringArray, StringArrayBuilder

# Folders that macOS, Synology, Windows and Linux make beside a person's; those that begin with a dot are not listed.
_OF_SYSTEMS = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found")

_PLURALS = {"image": "images", "video": "videos", "audio": "sounds", "array": "arrays", "": "files"}

log = logging.getLogger("mmjax.data")


class Folder:
    """Images by class: every sub-folder is a class, the image files directly in it are its examples.

    Where there are no images in the first class, files of one other kind count: videos, sounds or arrays.

    Classes and files are in alphabetical order. A class's name is its folder's with spaces for underscores; captions
    are made from `templates`, and the class is the record's `id`, so that images of one class are positives of one
    another. What systems make (`__MACOSX`, ...) is no class. Folders that are named by ImageNet-1k's WordNet ids have
    its classes' names. Beside folders that are named by other codes, `classnames.txt` gives the names: one a line, in
    the folders' order; and `zeroshot_classification_templates.txt` may give the prompts, one a line with {c} for the
    name. Both files are CLIP_benchmark's.

    After the folder there may be ",list=FILE": a text file of the examples that count, one a line as CLASS/NAME; what
    follows a blank is not read. UCF101's testlist01.txt and trainlist01.txt are such files.

    Args:
      path: the folder, and what may follow it.
      options: how to read it; `image_key` is the endings that count, joined by ";".
      field: config field to name in errors.

    Raises:
      UserError: on a folder that is missing or has no sub-folders, on a class without images, and on WordNet ids that
        are none of ImageNet-1k's.
    """

    def __init__(self, path: str, *, options: SourceOptions = DEFAULT_OPTIONS, field: str = "data.train"):
        where = f"{field}='folder:{path}'"
        path, _, list_file = path.partition(",list=")
        path = path.rstrip("/") or "/"
        self.name = posixpath.basename(path)
        self._path, self._reader = path, Reader(options.retry_seconds)
        listed_names = _read_list(list_file, self._reader, where) if list_file else {}
        listed, files = _list(path, where)
        self._folders = [folder for folder in listed if folder not in _OF_SYSTEMS]
        if len(self._folders) < len(listed):
            systems = ", ".join(folder for folder in listed if folder in _OF_SYSTEMS)
            log.warning("%s: what systems make is no class and left out: %s", where, systems)
        if not self._folders:
            raise UserError(f"{where}: no sub-folders there; {_remedy_without_folders(path, files)}")
        lines = lambda name: read_lines([path], name, reader=self._reader, where=where)
        names = lines("classnames.txt")
        readable = None if names else _readable_names(self._folders, field, where)
        self.class_codes = None if readable is None else self._folders
        self.class_names = names or readable or [folder.replace("_", " ") for folder in self._folders]
        if self.class_codes is None:
            log_equal_names(self.class_names, where)
        if len(self.class_names) != len(self._folders):
            raise UserError(
                f"{where}: classnames.txt has {len(self.class_names)} names for {len(self._folders)} folders;"
                " write one a line in the folders' alphabetical order"
            )
        files, counts, others = StringArrayBuilder(), [], 0
        suffixes: tuple[str, ...] = ()
        if options.image_key:
            suffixes = tuple(f".{ending}" for ending in input_endings(options.image_key)[0])
        for folder in self._folders:
            folders, inside = _list(f"{path}/{folder}", where)
            suffixes = suffixes or _suffixes(inside)
            names = [name for name in inside if name.lower().endswith(suffixes or INPUT_SUFFIXES)]
            others += sum(name.lower().endswith(INPUT_SUFFIXES) for name in inside) - len(names)
            if not counts:
                _check_texts(path, folder, names, inside, where)
            if not names:
                what = _PLURALS[kind_of(suffixes[0]) if suffixes else "image"]
                if folders:
                    raise UserError(
                        f"{where}: class folder {folder!r} has no {what} but folders, such as {folders[0]!r}; write"
                        f" folder:{path}/{folder} if these are the classes"
                    )
                *others_of_kind, last = suffixes or IMAGE_SUFFIXES
                endings = f"{', '.join(others_of_kind)} or {last}" if others_of_kind else last
                raise UserError(
                    f"{where}: class folder {folder!r} has no {what}; remove it or fill it with files ending in"
                    f" {endings}"
                )
            if list_file:
                names = _only(names, listed_names.pop(folder, {}), f"{path}/{folder}", where)
            files.extend(names)
            counts.append(len(names))
        if listed_names:
            folder, (name, *_) = next(iter(listed_names.items()))
            raise UserError(f"{where}: {list_file} has {folder}/{name}, and there is no folder {path}/{folder}")
        if not sum(counts):
            raise UserError(f"{where}: {list_file} names no file; write CLASS/NAME, one a line")
        kind = kind_of(next(iter(suffixes), ""))
        if others and not options.image_key:
            log.warning(
                "%s: %s files are no %s, as the first class has, and left out; name the endings that count in"
                " %s.image_key",
                where,
                f"{others:,}",
                _PLURALS[kind],
                options.keys_field,
            )
        self._files, self._ends = StringArray.of(files), np.cumsum(counts)
        self.templates = check_templates(lines("zeroshot_classification_templates.txt"), where, kind or "image")

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Record:
        index = check_index(index, len(self))
        label = int(np.searchsorted(self._ends, index, side="right"))
        path = f"{self._path}/{self._folders[label]}/{self._files[index]}"
        class_id = None if self.class_codes is None else stable_id("class", self.class_codes[label])
        content = read_input(self._reader, path)
        try:
            inputs = inputs_of_file(content, suffix_of(path))
        except BadExample as error:
            raise error.with_path(path) from error
        return make_class_record(inputs, self.class_names, self.templates, label, path, class_id)


def _read_list(file: str, reader: Reader, where: str) -> dict[str, dict[str, None]]:
    """Names of files by their class's folder, from a list of CLASS/NAME.

    Raises:
      UserError: the list is not there, or a line is none of a file in a folder.
    """
    folder, _, name = file.rpartition("/")
    lines = read_lines([folder or "."], name, reader=reader, where=where)
    if not lines:
        raise UserError(f"{where}: there is no list {file}, or it is empty; write CLASS/NAME, one a line")
    result: dict[str, dict[str, None]] = {}
    for line in lines:
        path = line.split()[0]
        class_folder, slash, name = path.partition("/")
        if not slash or not name or "/" in name:
            raise UserError(f"{where}: {file} has {line!r}, which is no CLASS/NAME")
        result.setdefault(class_folder, {})[name] = None
    return result


def _only(names: list[str], listed: dict[str, None], folder: str, where: str) -> list[str]:
    """The files of a folder that are listed.

    Raises:
      UserError: one that is listed is not there.
    """
    if missing := listed.keys() - set(names):
        raise UserError(
            f"{where}: {folder}/{min(missing)} is listed, and is not there; fetch it, or take it from the list"
        )
    return [name for name in names if name in listed]


def _list(path: str, where: str) -> Listing:
    try:
        return list_folder(path)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"{where}: cannot be listed ({error_reason(error)}); give a folder with one sub-folder per class"
        ) from error


def _readable_names(folders: list[str], field: str, where: str) -> list[str] | None:
    """Words for WordNet ids, see `readable_names`; logs what other names are.

    Raises:
      UserError: some ids are none of ImageNet-1k's.
    """
    remedy = "write their names to classnames.txt beside the folders, one a line in the folders' order"
    if unknown := unknown_ids(folders):
        raise UserError(
            f"{where}: {len(unknown)} of {len(folders)} class folders, such as {unknown[0]!r}, are named by WordNet ids"
            f" that are none of ImageNet-1k's; {remedy}"
        )
    if field == "data.train":  # evaluation knows names of some data sets
        log_numbers(folders, where, remedy)
    if annotated := [folder for folder in folders if begins_with_id(folder)]:
        log.warning(
            "%s: class folders such as %r have a WordNet id and more for a name, which is used as it is; name them by"
            " their ids alone, or %s",
            where,
            annotated[0],
            remedy,
        )
    names = readable_names(folders)
    return None if names is None else [name.replace("_", " ") for name in names]


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


def _suffixes(names: list[str]) -> tuple[str, ...]:
    """The endings of files of one kind: of images, where there are some, else of what there is most of; or none."""
    counts = collections.Counter(kind for name in names if (kind := kind_of(suffix_of(name))))
    kind = "image" if counts["image"] else max(counts, key=lambda kind: counts[kind], default="")
    return tuple(suffix for suffix in INPUT_SUFFIXES if kind_of(suffix) == kind)


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)
