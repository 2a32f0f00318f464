"""ArrayRecord files of tf.train.Example protos (`arrayrecord:`)."""

import logging
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mmjax.data.bad_example import BadExample
from mmjax.data.column_inference import Fields, choose_fields
from mmjax.data.formats.tf_example import Feature, parse_example
from mmjax.data.record import Record, check_index
from mmjax.data.source_protocols import DEFAULT_OPTIONS, SourceOptions, evenly_spaced
from mmjax.errors import UserError
from mmjax.io.patterns import error_reason, list_files, pattern_name
from mmjax.io.reader import Reader, is_local, local_path
from mmjax.io.regular_file import check_regular
from mmjax.utils.lru_cache import LRUCache
from mmjax.utils.optional_imports import require

_OPEN_FILES = 256
_OPENERS = 32  # threads
_INSPECTED = 100  # records inspected for their fields
# Records are read one at a time: nothing is read ahead, and a small buffer is enough.
_READER = {"options": "readahead_buffer_size:0", "file_reader_buffer_size": 32768}

log = logging.getLogger("mmjax.data")


class RecordFiles:
    """Random access to the records of ArrayRecord files. Picklable, thread-safe; files are opened when first needed.

    Args:
      paths: local files.
      first: int64 [F], number of the first record that counts, in each file.
      lengths: int64 [F], records that count.
    """

    def __init__(self, paths: Sequence[str], first: Sequence[int], lengths: Sequence[int]):
        self.paths = list(paths)
        self.first, self.lengths = np.asarray(first, np.int64), np.asarray(lengths, np.int64)
        self.ends = np.cumsum(self.lengths)
        self._readers = LRUCache(open_records, _OPEN_FILES)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def locate(self, index: int) -> tuple[str, int]:
        """The file that a record is in, and its number there."""
        file = int(np.searchsorted(self.ends, index, side="right"))
        return self.paths[file], int(self.first[file] + index - (self.ends[file] - self.lengths[file]))

    def __getitem__(self, index: int) -> bytes:
        """Returns a record.

        Raises:
          FileNotFoundError: its file is not there.
          BadExample: `corrupt` or `cut`.
        """
        path, number = self.locate(index)
        reader = self._readers.get(path)
        if number >= reader.num_records():
            raise BadExample("cut", f"{path}: has {reader.num_records()} records, this is number {number}")
        try:
            return reader.read([number])[0]
        except RuntimeError as error:
            raise BadExample("corrupt", f"{path}: record {number}: {error_reason(error)}") from error


def open_records(path: str):
    """Opens an ArrayRecord file.

    Raises:
      OSError: there is no such file, or it may not be read.
      BadExample: `corrupt`, for a file of another format or one that breaks off.
    """
    from array_record.python.array_record_module import ArrayRecordReader  # grain brings it

    check_regular(path)
    with open(path, "rb"):  # the reader raises one error for missing files, folders and all others
        pass
    reader = ArrayRecordReader(path, **_READER)
    if reader.ok():
        return reader
    try:
        reader.close()
        detail = "cannot be opened"
    except RuntimeError as error:
        detail = error_reason(error)
    raise BadExample("corrupt", f"{path}: no complete ArrayRecord file ({detail})")


class ExampleProtos:
    """A source of tf.train.Example protos in ArrayRecord files, which are its shards.

    Args:
      name: what results are filed under.
      identity: what the ids are made from.
      files: the records.
      fields: which of an example's fields are used.
    """

    def __init__(self, name: str, identity: str, files: RecordFiles, fields: Fields):
        self.name = name
        self.class_names, self.templates = fields.class_names, fields.templates
        self.class_codes = fields.class_codes
        self.shard_lengths = files.lengths
        self._identity, self._files, self._fields = identity, files, fields

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Record:
        index = check_index(index, len(self))
        path, number = self._files.locate(index)
        path = f"{path}[{number}]"
        example = _parse(self._files[index], path)
        return self._fields.record(lambda key: _value(example, key), source=self._identity, index=index, path=path)

    def prefetch_shards(self, shards: Sequence[int], /) -> None:
        """Local files need no fetching ahead."""


class ArrayRecords(ExampleProtos):
    """Examples in ArrayRecord files, each a serialized tf.train.Example proto; its features are the fields.

    Args:
      path: pattern of local files, with braces and wildcards.
      options: how to read it; `image_key` and `caption_keys` name features.
      field: config field to name in errors.

    Raises:
      UserError: on files that are missing, empty or of another format, or examples without image or captions.
    """

    def __init__(self, path: str, *, options: SourceOptions = DEFAULT_OPTIONS, field: str = "data.train"):
        where = f"{field}='arrayrecord:{path}'"
        check_readable(path, where)
        paths = list_files(local_path(path), reader=Reader(options.retry_seconds), where=where)
        lengths = _count(paths, where)
        if not sum(lengths):
            raise UserError(f"{where}: no records in there; check the pattern")
        files = RecordFiles(paths, [0] * len(paths), lengths)
        super().__init__(pattern_name(path), f"arrayrecord:{path}", files, _find_fields(files, options, where))


def check_readable(path: str, where: str) -> None:
    """Refuses what ArrayRecord's reader cannot read.

    Raises:
      UserError: when the package is missing, or the path is not local.
    """
    require("array_record.python.array_record_module", extra="tfds", where=where)
    if not is_local(path):
        raise UserError(f"{where}: ArrayRecord files are read from local paths; mount the bucket or copy them")


def _count(paths: list[str], where: str) -> list[int]:
    """Records of each file."""

    def count(path: str) -> tuple[int, str]:
        reader = open_records(path)
        return reader.num_records(), reader.writer_options_string() or ""

    try:
        with ThreadPoolExecutor(_OPENERS) as pool:
            counted = list(pool.map(count, paths))
    except BadExample as error:
        raise UserError(f"{where}: {error.detail}; leave the file out or write it again") from error
    except OSError as error:
        raise UserError(
            f"{where}: {error.filename!r} cannot be read ({error_reason(error)}); check the pattern"
        ) from error
    groups = re.search(r"group_size:(\d+)", counted[0][1])
    if groups and int(groups[1]) > 1:
        log.warning("%s: was written with group_size:%s, so that each example reads as many; write 1", where, groups[1])
    return [number for number, _ in counted]


def _find_fields(files: RecordFiles, options: SourceOptions, where: str) -> Fields:
    """The fields of some examples that can be read: features without values may be left out of some."""
    features: dict[str, None] = {}
    mistake = None
    inspected = evenly_spaced(len(files), _INSPECTED)
    for index in inspected:
        try:
            features |= dict.fromkeys(parse_example(files[index]))
        except (BadExample, ValueError) as error:
            unreadable = getattr(error, "detail", None) or str(error)
            continue
        try:
            return choose_fields(sorted(features), options=options, where=where)
        except UserError as error:
            mistake = error
    if mistake:
        raise mistake
    raise UserError(
        f"{where}: none of {len(inspected)} records looked at is a tf.train.Example proto ({unreadable});"
        " write such protos"
    )


def _parse(data: bytes, path: str) -> dict[str, Feature]:
    try:
        return parse_example(data)
    except ValueError as error:
        raise BadExample("corrupt", f"{path}: no tf.train.Example proto ({error})") from error


def _value(example: dict[str, Feature], key: str) -> Feature | None:
    value = example.get(key)
    # Texts in a sequence of sequences: TFDS writes them one after the other, with the lengths beside them.
    return example.get(f"{key}/ragged_flat_values") if value is None else value
