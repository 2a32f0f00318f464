"""Sources made of files that lie somewhere: a table of images and captions, or a folder of images by class.

Paths are local, or URLs of any file system that fsspec knows (`gs://`, `s3://`, `https://`, `memory://`, ...). Image
files are read when asked for; one that is missing then raises FileNotFoundError, which the pipeline counts and
replaces.
"""

import csv
import io
import itertools
import json
import posixpath
from collections.abc import Iterator

import fsspec
from etils import epath

from mmjax.data.source import DEFAULT_OPTIONS, Record, SourceOptions, check_index, stable_id
from mmjax.errors import UserError, did_you_mean

IMAGE_COLUMNS = ("image", "filepath", "path")
CAPTION_COLUMNS = ("caption", "title", "text")
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
FOLDER_TEMPLATES = ["a photo of a {c}.", "a picture of a {c}.", "an image of a {c}."]
_EPATH_SCHEMES = ("gs", "s3", "az", "hf")


class Pairs:
    """Images with captions, listed in a table with a header.

    The rows of a CSV, TSV or JSON Lines file (UTF-8) name an image and a caption. Rows that share an image make one
    record with several captions, in order of first appearance. Relative image paths start at the table's folder. The
    image's path is the record's `id`.

    Args:
      path: the table; its ending says which kind it is.
      image_column: column of image paths; by default the first found of "image", "filepath" and "path".
      caption_column: column of captions; by default the first found of "caption", "title" and "text".
      field: config field to name in errors.

    Raises:
      UserError: on a table that is missing, empty, not UTF-8 or malformed, without the wanted columns, with an empty
        field in them, or whose first image is missing.
    """

    class_names = None
    templates = None

    def __init__(
        self,
        path: str,
        *,
        options: SourceOptions = DEFAULT_OPTIONS,
        image_column: str | None = None,
        caption_column: str | None = None,
        field: str = "data.train",
    ):
        self.name = posixpath.splitext(posixpath.basename(path))[0]
        where = f"{field}='pairs:{path}'"
        if not path.endswith(TABLE_SUFFIXES):
            raise UserError(
                f"{where}: cannot tell what kind of table this is; its name must end in {_either(TABLE_SUFFIXES)}"
            )
        rows = _rows(path, where)
        first = next(rows, None)
        if first is None:
            raise UserError(
                f"{where}: the table has no rows; give one with a header and at least one image and caption"
            )
        image_column = _column(where, list(first[1]), image_column, IMAGE_COLUMNS, "images")
        caption_column = _column(where, list(first[1]), caption_column, CAPTION_COLUMNS, "captions")
        folder = path[: path.rfind("/") + 1]
        captions: dict[str, list[str]] = {}
        for line, row in itertools.chain([first], rows):
            image = _cell(where, line, row, image_column)
            caption = _cell(where, line, row, caption_column)
            captions.setdefault(_resolve(folder, image), []).append(caption)
        self._images = list(captions)
        self._captions = list(captions.values())
        try:
            read_bytes(self._images[0])
        except (OSError, ValueError, ImportError) as error:
            raise UserError(
                f"{where}: its first image, {self._images[0]!r}, cannot be read ({_reason(error)}); "
                f"column {image_column!r} must hold full paths or URLs, or paths relative to the table's folder"
            ) from error

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Record:
        index = check_index(index, len(self))
        path = self._images[index]
        return Record(image=read_bytes(path), captions=list(self._captions[index]), id=stable_id("image", path))


class Folder:
    """Images by class: every sub-folder is a class, the image files directly in it are its examples.

    Classes and files are in alphabetical order. A class's name is its folder's with spaces for underscores; captions
    are made from `templates`, and the class is the record's `id`, so that images of one class are positives of one
    another. Folders that are named by codes (ImageNet's) need `classnames.txt` beside them: one name a line, in the
    folders' order; `zeroshot_classification_templates.txt` may give the prompts, one a line with {c} for the name. Both
    files are CLIP_benchmark's.

    Args:
      path: the folder.
      field: config field to name in errors.

    Raises:
      UserError: on a folder that is missing or has no sub-folders, and on a class without images.
    """

    def __init__(self, path: str, *, options: SourceOptions = DEFAULT_OPTIONS, field: str = "data.train"):
        path = path.rstrip("/") or "/"
        self.name = posixpath.basename(path)
        where = f"{field}='folder:{path}'"
        folders = [name for name in _folders(path, where) if not name.startswith(".")]
        if not folders:
            raise UserError(f"{where}: no sub-folders there; put the images of each class into a folder named after it")
        self.class_names = _lines(f"{path}/classnames.txt") or [folder.replace("_", " ") for folder in folders]
        if len(self.class_names) != len(folders):
            raise UserError(
                f"{where}: classnames.txt has {len(self.class_names)} names for {len(folders)} folders;"
                " write one a line in the folders' alphabetical order"
            )
        self.templates = _lines(f"{path}/zeroshot_classification_templates.txt") or list(FOLDER_TEMPLATES)
        for template in self.templates:
            if "{c}" not in template:
                raise UserError(f"{where}: template {template!r} has no {{c}} for the class name")
        self._ids = [stable_id("class", name) for name in self.class_names]
        self._files: list[str] = []
        self._labels: list[int] = []
        for label, folder in enumerate(folders):
            files = [f"{path}/{folder}/{name}" for name in _images(f"{path}/{folder}")]
            if not files:
                raise UserError(
                    f"{where}: class folder {folder!r} has no images; remove it or fill it with files "
                    f"ending in {_either(IMAGE_SUFFIXES)}"
                )
            self._files += files
            self._labels += [label] * len(files)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Record:
        index = check_index(index, len(self))
        label = self._labels[index]
        return Record(
            image=read_bytes(self._files[index]),
            captions=[template.replace("{c}", self.class_names[label]) for template in self.templates],
            id=self._ids[label],
            label=label,
        )


def _lines(path: str) -> list[str]:
    """Returns a text file's lines that are not blank; none where there is no such file."""
    try:
        return [line.strip() for line in read_bytes(path).decode("utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError:
        return []


def read_bytes(path: str) -> bytes:
    """Returns a file's contents.

    Raises:
      FileNotFoundError: when there is no such file.
    """
    if _is_for_epath(path):
        return epath.Path(path).read_bytes()
    with fsspec.open(path, "rb") as file:
        return file.read()


def _is_for_epath(path: str) -> bool:
    scheme, separator, _ = path.partition("://")
    return not separator or scheme in _EPATH_SCHEMES


def _folders(path: str, where: str) -> list[str]:
    """Returns the sorted names of a folder's sub-folders."""
    try:
        if _is_for_epath(path):
            return sorted(entry.name for entry in epath.Path(path).iterdir() if entry.is_dir())
        fs, inner = fsspec.core.url_to_fs(path)
        entries = fs.ls(inner, detail=True)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"{where}: cannot be listed ({_reason(error)}); give a folder with one sub-folder per class"
        ) from error
    return sorted(_base(entry["name"]) for entry in entries if entry["type"] == "directory")


def _images(folder: str) -> list[str]:
    """Returns the sorted names of a folder's image files, told by their endings: no call per file."""
    if _is_for_epath(folder):
        names = [entry.name for entry in epath.Path(folder).iterdir()]
    else:
        fs, inner = fsspec.core.url_to_fs(folder)
        names = [_base(name) for name in fs.ls(inner, detail=False)]
    return sorted(name for name in names if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."))


def _base(path: str) -> str:
    return posixpath.basename(path.rstrip("/"))


def _resolve(folder: str, image: str) -> str:
    """Returns an image's full path; `folder` ends in a slash or is empty."""
    if "://" in image:
        return image
    path = image if image.startswith("/") else folder + image
    return path if "://" in path else posixpath.normpath(path)


def _rows(path: str, where: str) -> Iterator[tuple[int, dict[str, object]]]:
    """Yields (line number, row by column) of a table."""
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 at byte {error.start}; save the table as UTF-8") from error
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{where}: cannot be read ({_reason(error)}); give the path of a table that exists") from error
    if path.endswith(".jsonl"):
        yield from _json_rows(text, where)
        return
    delimiter = "\t" if path.endswith(".tsv") else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = [name.strip() for name in next(reader, [])]
        for cells in reader:
            if any("\n" in cell and delimiter in cell for cell in cells):
                raise UserError(
                    f"{where}: a quoted cell that ends at line {reader.line_num} swallows other rows;"
                    ' write a quotation mark inside a cell as "" and quote the cell'
                )
            if cells:  # a blank line is no row
                yield reader.line_num, dict(zip(header, cells, strict=False))
    except csv.Error as error:
        raise UserError(f"{where}: line {reader.line_num} cannot be parsed ({error}); check its quotes") from error


def _json_rows(text: str, where: str) -> Iterator[tuple[int, dict[str, object]]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: line {line} is not JSON ({error.msg}); write one object per line") from error
        if not isinstance(row, dict):
            raise UserError(f"{where}: line {line} is not a JSON object; write one object per line")
        yield line, row


def _column(where: str, found: list[str], wanted: str | None, usual: tuple[str, ...], what: str) -> str:
    """Returns the name of the column to use."""
    for name in usual if wanted is None else (wanted,):
        if name in found:
            return name
    near = did_you_mean(wanted or usual[0], found)
    names = _either(usual) if wanted is None else repr(wanted)
    raise UserError(f"{where}: no column of {what}: found {', '.join(map(repr, found))}{near}; name one {names}")


def _cell(where: str, line: int, row: dict[str, object], column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: line {line} has {value!r} in column {column!r}; every row needs a text there")
    return value.strip()


def _either(options: tuple[str, ...]) -> str:
    return f"{', '.join(options[:-1])} or {options[-1]}"


def _reason(error: Exception) -> str:
    """Returns why a file cannot be read, on one line."""
    if isinstance(error, FileNotFoundError):
        return "no such file or folder"
    return " ".join(str(getattr(error, "strerror", None) or error).split())
