"""Karpathy's splits of COCO, Flickr8k and Flickr30k (Karpathy and Fei-Fei 2015): one JSON of images, splits, captions.

`karpathy:dataset_coco.json/test` is the set that retrieval papers call "COCO 5k". Images lie beside the JSON, in
`images/` or the folder of their original archive beside it, or where `,images=DIR` says.
"""

import json
import posixpath
from typing import Any

from mmjax.data.bad_example import BadExample
from mmjax.data.formats.image_list import ImageList
from mmjax.data.formats.image_paths import storage_of
from mmjax.data.formats.input_files import read_input
from mmjax.data.formats.json_fields import field_of, json_fault, shorten, text_field
from mmjax.data.source_protocols import DEFAULT_OPTIONS, SourceOptions
from mmjax.errors import UserError, validate_choice
from mmjax.io.reader import Reader

SPLITS = ("train", "val", "test")
_FOLDERS = ("", "images", "flickr30k-images", "flickr30k_images", "Flicker8k_Dataset", "Flickr8k_Dataset")
_NEEDS = "filename, split and sentences with 'raw'"
_USAGE = "write karpathy:FILE.json/SPLIT or karpathy:FILE.json/SPLIT,images=DIR"


class Karpathy(ImageList):
    """Images with all their captions (five or more), in the order of the file.

    Args:
      path: `FILE.json/SPLIT`, with `,images=DIR` where the images lie elsewhere. SPLIT is train (in which COCO's
        `restval`, the rest of its validation images, is counted as everywhere), val or test.
      field: config field to name in errors.

    Raises:
      UserError: on a file that is missing or is not of this form, a split that it does not have, or images that are
        not there.
    """

    def __init__(self, path: str, *, options: SourceOptions = DEFAULT_OPTIONS, field: str = "data.train"):
        where = f"{field}='karpathy:{path}'"
        self._reader = Reader(options.retry_seconds)
        file, _, rest = path.rpartition(".json/")
        split, comma, root = rest.partition(",images=")
        if not file:
            raise UserError(f"{where}: no split; {_USAGE}")
        file += ".json"
        validate_choice(f"{where}: split", split, SPLITS)
        if comma and not root:
            raise UserError(f"{where}: images= names no folder; {_USAGE}")
        name = posixpath.basename(file).removesuffix(".json").removeprefix("dataset_")
        self.name = name if split == "test" else f"{name}/{split}"
        wanted = ("train", "restval") if split == "train" else (split,)
        files: list[str] = []
        self._captions: list[list[str]] = []
        splits = set()
        for number, entry in enumerate(_entries(self._reader, file, where)):
            filename, split_of_image, captions = _parse(entry, number, where)
            splits.add(split_of_image)
            if split_of_image in wanted:
                files.append(filename)
                self._captions.append(captions)
        if not files:
            raise UserError(
                f"{where}: no image of the file is in {split!r}; its splits are {', '.join(sorted(splits))}"
            )
        roots = [root] if comma else [beside(file, name) for name in _FOLDERS]
        self._files = locate_images(self._reader, files, roots, where, is_named=bool(comma))


def read_json(reader: Reader, file: str, where: str) -> Any:
    """The content of a JSON file.

    Raises:
      UserError: it is not there, or is no JSON.
    """
    try:
        return json.loads(reader.read(file))
    except FileNotFoundError as error:
        raise UserError(f"{where}: there is no file {file}; give the path of one that exists") from error
    except (OSError, ValueError, ImportError, RecursionError) as error:
        raise UserError(f"{where}: {file} cannot be read as JSON ({json_fault(error)})") from error


def _entries(reader: Reader, file: str, where: str) -> list[Any]:
    content = read_json(reader, file, where)
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not images:
        raise UserError(f"{where}: {file} has no list 'images'; give Karpathy's dataset_*.json")
    if "annotations" in content and isinstance(images[0], dict) and "sentences" not in images[0]:
        raise UserError(f"{where}: {file} is COCO's own file, without splits; write pairs:{file}")
    return images


def _parse(entry: Any, number: int, where: str) -> tuple[str, str, list[str]]:
    """The path of an image within the images' folder, its split and its captions."""
    what = f"{where}: image {number}"
    sentences = field_of(entry, "sentences", what, _NEEDS)
    if not isinstance(sentences, list):
        raise UserError(f"{what} has sentences={shorten(sentences)}, which is no list; each needs {_NEEDS}")
    captions = [
        text_field(sentence, "raw", f"{what}: sentence {position}", "'raw', a text", may_be_blank=True).strip()
        for position, sentence in enumerate(sentences)
    ]
    folder = text_field({"filepath": "", **entry}, "filepath", what, _NEEDS, may_be_blank=True)
    path = posixpath.join(folder, text_field(entry, "filename", what, _NEEDS))
    split = text_field(entry, "split", what, _NEEDS)
    captions = [caption for caption in captions if caption]
    if not captions:
        raise UserError(f"{where}: image {number}, {path!r}, has no caption")
    return path, split, captions


def beside(file: str, name: str) -> str:
    """The path, which may begin with "../", from the folder of a local or remote file."""
    scheme, separator, path = file.rpartition("://")
    path = posixpath.join(path[: path.rfind("/") + 1], name)
    return scheme + separator + (posixpath.normpath(path) if ".." in name else path)


def locate_images(reader: Reader, files: list[str], roots: list[str], where: str, *, is_named: bool) -> list[str]:
    """Full paths, under the first root where the first image is; by its name alone where all lie in one folder.

    Raises:
      UserError: it is under none of them.
    """
    for root in roots:
        for names in (files, [posixpath.basename(file) for file in files]):
            first = posixpath.join(root, names[0])
            try:
                read_input(reader, first)
            except (OSError, BadExample):
                continue
            paths = [posixpath.join(root, file) for file in names]
            if foreign := next((path for path in paths if storage_of(path) != storage_of(root)), None):
                raise UserError(
                    f"{where}: its image {foreign!r} is on another storage than {root}; give relative paths"
                )
            return paths
    searched = ", ".join(root or "." for root in roots[:2])
    advice = "give the folder that holds it" if is_named else "add ,images=DIR"
    raise UserError(f"{where}: its first image, {files[0]!r}, is not in {searched}; {advice}")
