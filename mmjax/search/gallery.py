"""What is searched in: files of a folder, examples of tars, rows of a table, each with a stamp that changes with it."""

import dataclasses
import posixpath
import re
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import fsspec

from mmjax.data.bad_example import BadExample
from mmjax.data.formats.image_paths import IMAGES_OPTION
from mmjax.data.formats.input_files import inputs_of_file, read_input, record_fields, suffix_of
from mmjax.data.formats.media_bytes import AUDIO_SUFFIXES, VIDEO_SUFFIXES
from mmjax.data.formats.table_file import TABLE_SUFFIXES
from mmjax.data.image.image_file import IMAGE_SUFFIXES
from mmjax.data.record import Record
from mmjax.data.source_protocols import SourceOptions
from mmjax.data.sources.pairs import Pairs
from mmjax.data.sources.wds import WebDataset
from mmjax.data.webdataset.build import build_index
from mmjax.data.webdataset.find import find_index
from mmjax.data.webdataset.shard_list import list_shards
from mmjax.data.webdataset.validate import stamps_of
from mmjax.errors import UserError
from mmjax.io.reader import Reader

INDEX_FOLDER = ".mmjax-index"
Span = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A modality that is searched.

    Attributes:
      modality: as models call it.
      example: the flag that names a file to find others like it.
      flag: the flag that says what is searched in.
      unit: what entries are called.
      one: an entry, with its article.
      suffixes: of its files.
    """

    modality: str
    example: str
    flag: str
    unit: str
    one: str
    suffixes: tuple[str, ...]


_WITH_SOUND = tuple(suffix for suffix in VIDEO_SUFFIXES if suffix not in IMAGE_SUFFIXES)
KINDS = {
    "image": Kind("image", "--image", "--images", "images", "an image", IMAGE_SUFFIXES),
    "video": Kind("video", "--video", "--videos", "videos", "a video", VIDEO_SUFFIXES),
    "audio": Kind("audio", "--sound", "--sounds", "sounds", "a sound", (*AUDIO_SUFFIXES, *_WITH_SOUND)),
}


@runtime_checkable
class Gallery(Protocol):
    """Entries to search in.

    Attributes:
      name: as the flag has it.
      folder: beside which an index lies.
      index_name: of that index.
      entries: in order, each with a stamp that changes when what it names does.
    """

    name: str
    folder: str
    index_name: str

    @property
    def entries(self) -> Mapping[str, str]: ...

    def record(self, entry: str) -> Record:
        """Reads an entry.

        Raises:
          BadExample: it cannot be used.
          OSError: it cannot be read.
        """
        ...

    def describe(self, entry: str) -> tuple[str, Span | None]:
        """What an entry is to people: a path, and the seconds of that file that count, None for all."""
        ...


def open_gallery(kind: Kind, where: str, options: SourceOptions) -> Gallery:
    """Looks for what is searched in.

    Args:
      kind: of its entries.
      where: a file, a folder or URL with its sub-folders, tars as `wds:` takes them, or a table as `pairs:` does.
      options: how tars and tables are read.

    Raises:
      UserError: there is nothing of that kind, or it cannot be listed.
    """
    options = dataclasses.replace(options, caption_keys="none", image_key="", max_bad_fraction=1.0)
    table = where.removeprefix("pairs:")
    if where.startswith("pairs:") or table.partition(IMAGES_OPTION)[0].endswith(TABLE_SUFFIXES):
        return TableGallery(kind, table, options)
    if where.startswith("wds:") or where.endswith(".tar"):
        return TarGallery(kind, where.removeprefix("wds:"), options)
    return FolderGallery(kind, where)


class FolderGallery:
    """The files of one kind under a folder or URL, by path within it, or one file.

    Hidden files and folders are left out.

    Args:
      kind: of the files.
      path: the folder, or the file.

    Raises:
      UserError: it cannot be listed, or has no such files.
    """

    def __init__(self, kind: Kind, path: str):
        self.name, self.folder = path, path.rstrip("/")
        where = f"{kind.flag}={path}"
        self.index_name = _index_name(kind)
        try:
            fs, root = fsspec.core.url_to_fs(path)
            root = root.rstrip("/")
            if fs.isfile(root):
                self.folder, self.index_name = posixpath.dirname(self.folder) or ".", _index_name(kind, path)
                files, root = {root: fs.info(root)}, posixpath.dirname(root)
            elif fs.isdir(root):
                files = fs.find(root, detail=True)
            else:
                raise UserError(f"{where}: there is no such folder")
        except (OSError, ValueError, ImportError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{where}: cannot be listed ({' '.join(str(error).split())})") from error
        self.entries: dict[str, str] = {}
        for file, info in sorted(files.items()):
            within = file[len(root) + 1 :]
            if within.lower().endswith(kind.suffixes) and not any(part.startswith(".") for part in within.split("/")):
                stamps = (
                    info.get(key) for key in ("mtime", "etag", "ETag", "md5Hash", "LastModified", "last_modified")
                )
                stamp = next((str(stamp) for stamp in stamps if stamp is not None), "")
                self.entries[within] = f"{info.get('size')}:{stamp}"
        if not self.entries:
            remedy = "; tars are named as wds:DIR" if any(file.endswith(".tar") for file in files) else ""
            endings = ", ".join(kind.suffixes)
            raise UserError(f"{where}: no {kind.unit} there (files ending in {endings}){remedy}")

    def record(self, entry: str) -> Record:
        """See `Gallery`."""
        content = read_input(Reader(), f"{self.folder}/{entry}")
        return Record(**record_fields(inputs_of_file(content, suffix_of(entry))), id=0)

    def describe(self, entry: str) -> tuple[str, Span | None]:
        """See `Gallery`."""
        return entry, None


class TarGallery:
    """The examples of WebDataset's tars, by shard and number; the index of local ones is brought up to date.

    Args:
      kind: of the members that count.
      pattern: what follows `wds:`.
      options: how they are read.

    Raises:
      UserError: as `WebDataset` does.
    """

    def __init__(self, kind: Kind, pattern: str, options: SourceOptions):
        where, reader = f"{kind.flag}={pattern}", Reader(options.retry_seconds)
        shards = list_shards(pattern, reader=reader, where=where)
        if shards.is_local:
            build_index(shards, options=options, where=where)
        self._source = WebDataset(pattern, options=options, field=kind.flag)
        index = find_index(shards, cache=options.cache, reader=reader)
        if index is None:
            raise UserError(f"{where}: the tars have no index; run mmjax index {pattern!r}")
        self.name, self.folder = pattern, shards.folder or "."
        self.index_name = _index_name(kind, pattern)
        self._numbers: dict[str, int] = {}
        self.entries: dict[str, str] = {}
        description, number = index.shards(), 0
        columns = (description.names, description.rows, description.sizes, description.modified)
        for shard, rows, size, modified in zip(*columns, strict=True):
            for row in range(int(rows)):
                entry = f"{shard}#{row:09d}"
                self._numbers[entry], self.entries[entry] = number, f"{size}:{modified}"
                number += 1

    def record(self, entry: str) -> Record:
        """See `Gallery`."""
        return self._source[self._numbers[entry]]

    def describe(self, entry: str) -> tuple[str, Span | None]:
        """See `Gallery`."""
        path = self.record(entry).get("path", entry)
        return path.removeprefix(f"{self.folder}/"), None


class TableGallery:
    """The files that a table names, each by path and the seconds of it that count.

    Args:
      kind: of the files that count.
      path: what follows `pairs:`.
      options: how it is read.

    Raises:
      UserError: as `Pairs` does.
    """

    def __init__(self, kind: Kind, path: str, options: SourceOptions):
        self._source = Pairs(path, options=options, field=kind.flag)
        file = path.partition(IMAGES_OPTION)[0]
        self.name, self.folder = path, posixpath.dirname(file) or "."
        self.index_name = _index_name(kind, file)
        self._locations: dict[str, tuple[int, str, Span | None]] = {}
        for number in range(len(self._source)):
            try:
                full, span = self._source.location(number)
            except BadExample:  # told when it is read
                full, span = "", None
            within = full.removeprefix(f"{self.folder}/")
            entry = within if span is None else f"{within} {show_span(span)}"
            self._locations[entry if full else f"example {number}"] = (number, full, span)
        locations = self._locations.items()
        stamps = stamps_of([full for _, (_, full, _) in locations], Reader(options.retry_seconds))
        self.entries = {
            entry: f"{stamp.size}:{stamp.version}" if stamp else ""
            for (entry, _), stamp in sorted(zip(locations, stamps, strict=True), key=lambda pair: pair[0][0])
        }

    def record(self, entry: str) -> Record:
        """See `Gallery`."""
        return self._source[self._locations[entry][0]]

    def describe(self, entry: str) -> tuple[str, Span | None]:
        """See `Gallery`."""
        _, full, span = self._locations[entry]
        return full.removeprefix(f"{self.folder}/") or entry, span


def show_span(span: Span) -> str:
    """A time span as people read it."""
    return f"{span[0]:g}-{span[1]:g} s"


def _index_name(kind: Kind, file: str = "") -> str:
    """Of the folder of an index: images of a folder have the oldest name."""
    parts = [INDEX_FOLDER, *([kind.unit] if kind.modality != "image" or file else [])]
    if file:
        parts.append(re.sub(r"[^A-Za-z0-9]+", "-", posixpath.basename(file)).strip("-"))
    return "-".join(parts)
