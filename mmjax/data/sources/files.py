"""Images, videos or sounds with captions in files of the same name beside them (`files:`): img2dataset's `files`."""

import collections
import itertools
import logging
import posixpath
from array import array
from collections.abc import Iterator, Mapping

import numpy as np

from mmjax.data.bad_example import BadExample
from mmjax.data.formats.input_files import inputs_of_members, kind_of, read_input, record_fields
from mmjax.data.formats.json_arrays import member_of
from mmjax.data.formats.table_rows import add_row
from mmjax.data.record import CaptionKeys, Record, check_index, stable_id
from mmjax.data.source_protocols import DEFAULT_OPTIONS, SourceOptions, evenly_spaced
from mmjax.data.webdataset.members import (
    CAPTION_KEYS,
    Lookup,
    MemberCheck,
    Sample,
    check_json_columns,
    column_key,
    input_endings,
)
from mmjax.errors import UserError
from mmjax.io.listing import list_folder
from mmjax.io.patterns import error_reason
from mmjax.io.reader import Reader
from mmjax.utils.string_array import StringArray, StringArrayBuilder

_LARGEST_TEXT = 64 << 20  # bytes
_INSPECTED = 16  # examples, for the keys that the config names

log = logging.getLogger("mmjax.data")


class Files:
    """Images of a folder and of its sub-folders, each with its captions beside it: `cat.jpg`, `cat.txt`, `cat.json`.

    Instead of an image or beside it there may be a video, a sound or an array. Folders and files are in alphabetical
    order. Keys are as in tars: the endings of an image and of its captions, or `json:FIELD`. Texts without an image
    are left out and logged.

    Args:
      path: the folder, local or an fsspec URL.
      options: how to read it.
      field: config field to name in errors.

    Raises:
      UserError: on a folder that is missing or has no images, or a caption that no image has.
    """

    class_names = None
    templates = None

    def __init__(self, path: str, *, options: SourceOptions = DEFAULT_OPTIONS, field: str = "data.train"):
        where = f"{field}='files:{path}'"
        self._path, self._reader = path.rstrip("/") or "/", Reader(options.retry_seconds)
        self.name = posixpath.basename(self._path)
        self._images, self._has_arrays = input_endings(options.image_key)
        self._inputs = tuple(map(member_of, self._images))
        self._captions = CaptionKeys.parse(
            options.caption_keys,
            default=CAPTION_KEYS,
            field=f"{options.keys_field}.caption_keys",
            encoding=options.encoding,
        )
        stems, sets, numbers = StringArrayBuilder(), {}, array("q")
        self._texts_alone = 0
        try:
            folders, files = list_folder(self._path)
            listings = ((f"{name}/", list_folder(f"{self._path}/{name}").files) for name in folders)
            for folder, names in itertools.chain([("", files)], listings):
                examples = list(self._group(names))
                stems.extend(folder + stem for stem, _ in examples)
                numbers.extend(sets.setdefault(endings, len(sets)) for _, endings in examples)
        except (OSError, ValueError, ImportError) as error:
            raise UserError(
                f"{where}: cannot be listed ({error_reason(error)}); give a folder of images with their captions"
            ) from error
        self._stems, self._sets = StringArray.of(stems), list(sets)
        self._set_numbers = np.array(numbers, np.int32)
        if not len(self):
            raise UserError(
                f"{where}: no images in there or its sub-folders (files ending in {', '.join(self._inputs)})"
            )
        if self._texts_alone:
            log.warning("%s: %s texts have no image beside them and are left out", where, f"{self._texts_alone:,}")
        self._check_captions(options, where)

    def _group(self, names: list[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
        """The images of a folder: their names without the ending, and the endings of all files that share it."""
        endings: dict[str, list[str]] = {}
        for name in names:
            stem, dot, ending = name.rpartition(".")
            if dot and stem:
                endings.setdefault(stem, []).append(ending)
        for stem, of_stem in endings.items():
            lower = [ending.lower() for ending in of_stem]
            if any(ending in lower for ending in self._inputs):
                yield stem, tuple(of_stem)
            elif any(key.lower() in lower for key in self._captions.keys):
                self._texts_alone += 1

    def _check_captions(self, options: SourceOptions, where: str) -> None:
        counts = collections.Counter(self._set_numbers.tolist())
        key_sets: dict[str, int] = collections.Counter()
        for number, count in counts.items():
            key_sets[";".join(sorted(ending.lower() for ending in self._sets[number]))] += count
        wanted = {key.partition(":")[0].lower() for key in self._captions.keys}
        if wanted and not any(wanted & set(endings.split(";")) for endings in key_sets):
            raise UserError(
                f"{where}: none of {len(self):,} images has a file of the same name ending in"
                f" {', '.join(sorted(wanted))}; where folders are classes, write folder:{self._path}"
            )
        examples = (self._members(index) for index in evenly_spaced(len(self), _INSPECTED))
        check = MemberCheck(self._inputs, self._captions, options, has_classes=False)
        check.run([Sample(key_sets, examples)], where)
        check.tell_incomplete(where)
        self._columns, self._texts = options.columns, options.text_columns
        if self._columns:
            examples = (self._members(index) for index in evenly_spaced(len(self), _INSPECTED))
            check_json_columns(self._columns, examples, options.encoding, where)

    def __len__(self) -> int:
        return len(self._stems)

    def __getitem__(self, index: int) -> Record:
        index = check_index(index, len(self))
        members = self._members(index)
        path = members.paths[next(ending for ending in self._inputs if ending in members.paths)]
        lookup = Lookup(members, self._captions.encoding)
        texts = lookup.gather(self._captions, path)
        try:
            inputs = inputs_of_members(members, self._images, arrays=self._has_arrays)
        except BadExample as error:
            raise error.with_path(path) from error
        record = Record(**record_fields(inputs), id=stable_id("image", path), path=path, **texts)
        if not self._columns:
            return record
        return add_row(record, {column: lookup(column_key(column)) for column in self._columns}, self._texts)

    def _members(self, index: int) -> "_Members":
        stem = f"{self._path}/{self._stems[index]}"
        endings = self._sets[self._set_numbers[index]]
        return _Members(self._reader, {ending.lower(): f"{stem}.{ending}" for ending in endings})


class _Members(Mapping[str, bytes]):
    """The files of an example by ending, each read when it is looked up.

    Attributes:
      paths: of the files, by ending in lower case.
    """

    def __init__(self, reader: Reader, paths: dict[str, str]):
        self._reader, self.paths = reader, paths

    def __getitem__(self, ending: str) -> bytes:
        if kind_of(f".{ending}"):
            return read_input(self._reader, self.paths[ending])
        return self._reader.read(self.paths[ending], limit=_LARGEST_TEXT)

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)
