"""WebDataset shards (`wds:`), read by position: every example of many tars has a number."""

import collections
import itertools
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

from mmjax.data.bad_example import BadExample, one_example
from mmjax.data.formats.class_records import make_class_record, multilabel_record, read_lines
from mmjax.data.formats.input_files import inputs_of_members, kind_of, record_fields
from mmjax.data.formats.json_arrays import member_of
from mmjax.data.formats.table_rows import add_row
from mmjax.data.record import CaptionKeys, Record, check_index, stable_id
from mmjax.data.source_protocols import DEFAULT_OPTIONS, SourceOptions, evenly_spaced
from mmjax.data.webdataset.build import build_index, no_examples
from mmjax.data.webdataset.classes import check_labels, find_classes
from mmjax.data.webdataset.find import find_index
from mmjax.data.webdataset.index_file import Shards, TarIndex
from mmjax.data.webdataset.members import (
    CAPTION_KEYS,
    Lookup,
    MemberCheck,
    Members,
    Sample,
    bytes_reader,
    check_json_columns,
    column_key,
    input_endings,
    join_names,
    parse_members,
)
from mmjax.data.webdataset.scan import scan_once, scan_path
from mmjax.data.webdataset.shard_cache import ShardCache, scan_path_of_copy, user_cache
from mmjax.data.webdataset.shard_list import ShardList, declared_lengths, list_shards
from mmjax.data.webdataset.tar_format import BLOCK, scan
from mmjax.data.webdataset.validate import check_shards
from mmjax.errors import UserError
from mmjax.io import file_pool
from mmjax.io.page_cache import ReadAhead
from mmjax.io.patterns import error_reason
from mmjax.io.reader import Reader, local_path
from mmjax.io.retries import ReadError
from mmjax.utils.lru_cache import LRUCache
from mmjax.utils.once import Once
from mmjax.utils.string_array import StringArray

_TABLES = 256  # shards whose scans are kept in memory, where there is no index
_LARGEST = 1 << 29  # bytes of an example that is read
_INSPECTED = 64  # examples, for the keys that the config names
_LABELS_INSPECTED = 8  # examples, for their classes
_FIRST_BYTES, _FIRST_SHARDS = 4 << 20, 8  # inspected for the members of examples, where there is no index

log = logging.getLogger("mmjax.data")

_T = TypeVar("_T")


class WebDataset:
    """Images, videos, sounds or arrays with texts in tars, as webdataset, img2dataset and CLIP_benchmark write them.

    An example is a run of members that share a key, the path up to the first dot of the base name. Where each lies is
    in an index (`mmjax.data.webdataset.index_file`), built at the start for local shards that have none. In the order
    `windowed` the number of examples in each shard is enough, which img2dataset's NNNNN_stats.json or a sizes.json
    declares; a shard is then scanned when it is first needed. Remote shards are read example by example, and in the
    order `windowed` downloaded whole into a cache on the local disk; local ones are then read ahead, whole and in
    order.

    Shards that are missing or damaged by their index are logged at the start; `data.eval` refuses any, training more
    than `options.max_bad_fraction` of them (see `mmjax.data.webdataset.validate`). Examples that lack
    an image or a text by their index are, too: `data.eval` refuses any, training counts them when it is their turn.

    A folder with classnames.txt and examples with .cls (or what `options.label_key` names) is a set of classes; where
    the model learns classes, one without names is, too. With dataset_type.txt saying `retrieval`, every line of a .txt
    is a caption; saying `multilabel`, a .npy marks an example's classes. All are CLIP_benchmark's.

    Named columns (`options.columns`) are fields of an example's .json, or of MEMBER:FIELD.

    Args:
      path: paths or fsspec URLs with {00000..01242}, {a,b}, * and ?; folders; several joined by "::".
      options: `image_key` is endings joined by ";", of images, videos, sounds or arrays; of those of one kind the first
        that an example has is taken. By default, those of INPUT_ENDINGS, arrays where there is nothing else.
      field: config field to name in errors.

    Raises:
      UserError: no shards or examples, a wanted member or JSON field that is nowhere, an index that is not the
        shards', too many shards that are not whole, remote shards without an index, or storage that fails.
    """

    def __init__(self, path: str, *, options: SourceOptions = DEFAULT_OPTIONS, field: str = "data.train"):
        where = f"{field}='wds:{path}'"
        self._reader = Reader(options.retry_seconds)
        self._images, self._has_arrays = input_endings(options.image_key)
        self._columns, self._texts = options.columns, options.text_columns
        self._captions = CaptionKeys.parse(
            options.caption_keys,
            default=CAPTION_KEYS,
            field=f"{options.keys_field}.caption_keys",
            encoding=options.encoding,
        )
        windowed = options.order == "windowed"
        split = "test" if field.startswith("data.eval") else "train"
        shards = list_shards(path, reader=self._reader, where=where, split=split)
        self.name = shards.name
        self._folder = shards.folder
        try:
            index = find_index(shards, cache=options.cache, reader=self._reader)
            lengths = self._declared_lengths(shards, path, where) if index is None and windowed else None
            if lengths is not None:
                description = None
                self._set_lengths(shards.names, lengths, {}, where)
            else:
                index = _build_local_index(shards, path, options, where) if index is None else index
                description = index.shards()
                self._set_lengths(description.names, description.rows, description.problems, where)
                check_shards(shards, description, path=path, options=options, where=where)
        except UserError:
            raise
        except (OSError, ValueError, ImportError) as error:
            raise UserError(f"{where}: cannot be read ({error_reason(error)})") from error
        self._index = index
        self._ahead = ReadAhead() if windowed and shards.is_local else None
        self._cache: ShardCache | None = None
        if windowed and not shards.is_local:
            folder = os.path.join(local_path(options.cache) or user_cache(), "shards")
            self._cache = ShardCache(folder, options.cache_gb * 1e9, self._reader)
        self._scan_cache, self._once = options.cache, Once()
        self._tables = LRUCache(self._scan, _TABLES)
        samples = self._sample_beginnings(where) if description is None else self._sample_indexed(description)
        first_sample = next(samples)
        self._find_classes(shards, first_sample.key_sets, options, where)
        of_columns = list(dict.fromkeys(column_key(name).partition(":")[0].lower() for name in self._columns))
        self._inputs = (*map(member_of, self._images), *of_columns)
        check = MemberCheck(self._inputs, self._captions, options, has_classes=self._classes is not None)
        check.run(itertools.chain([first_sample], samples), where)
        if self._columns:
            samples = self._sample_beginnings(where) if description is None else self._sample_indexed(description)
            examples = itertools.chain.from_iterable(sample.examples for sample in samples)
            check_json_columns(self._columns, examples, options.encoding, where)
        if description is not None:
            check.tell_incomplete(where)

    def _declared_lengths(self, shards: ShardList, path: str, where: str) -> np.ndarray | None:
        """The numbers of examples that the shards declare; None where some of local ones do not, which are indexed.

        Raises:
          UserError: some of remote shards declare none.
        """
        lengths, undeclared = declared_lengths(shards, reader=self._reader, where=where)
        if not undeclared:
            return lengths
        if shards.is_local:
            return None
        raise UserError(
            f"{where}: nothing tells how many examples {len(undeclared)} of {len(lengths)} shards have"
            f" ({undeclared[0]}); run mmjax index {path!r}, or put their NNNNN_stats.json or sizes.json there"
        )

    def _set_lengths(self, names: Sequence[str], lengths: np.ndarray, problems: Mapping[str, str], where: str) -> None:
        self._names = StringArray(names)
        self.shard_lengths = np.asarray(lengths, np.int64)
        self._ends = np.cumsum(self.shard_lengths)
        if not len(self):
            raise no_examples(len(self._names), problems, where)

    def _sample_indexed(self, description: Shards) -> Iterator[Sample]:
        """All endings that an index knows, with examples from all over the shards."""
        yield Sample(description.all_key_sets, self._spread_examples())

    def _spread_examples(self) -> Iterator[Members]:
        for index in evenly_spaced(len(self), _INSPECTED):
            try:
                with one_example():
                    members = self._members(index)[2]
            except BadExample as error:
                if isinstance(error.__cause__, ReadError):  # the storage fails: further reads would take hours to fail
                    return
                continue
            yield members

    def _sample_beginnings(self, where: str) -> Iterator[Sample]:
        """The examples at the beginning of some shards, where there is no index."""
        problem, is_any_read = "they hold no examples", False
        full = np.flatnonzero(self.shard_lengths)
        for shard in full[evenly_spaced(len(full), _FIRST_SHARDS)].tolist():
            path = self._path(shard)
            try:
                beginning = self._reader.read_range(path, 0, _FIRST_BYTES)
            except OSError as error:
                problem = error_reason(error)
                continue
            table = scan(bytes_reader(beginning), len(beginning), chunk=_FIRST_BYTES)
            if len(table.rows):
                is_any_read = True
                yield Sample(table.key_sets, _examples(beginning, table.rows[:_INSPECTED], path))
            problem = table.problem
        if not is_any_read:
            raise UserError(f"{where}: none of the first shards can be read (the last: {problem}); check the path")

    def _find_classes(self, shards: ShardList, key_sets: Mapping[str, int], options: SourceOptions, where: str) -> None:
        lines = lambda name: read_lines(shards.details, name, reader=self._reader, where=where)
        kinds = [line.lower() for line in lines("dataset_type.txt")]
        self._is_retrieval, self.is_multilabel = kinds == ["retrieval"], kinds == ["multilabel"]
        if self.is_multilabel:  # its .npy are marks of classes
            self._images, self._has_arrays = tuple(ending for ending in self._images if ending != "npy"), False
        self._classes = None
        if self._is_retrieval:
            return
        kind = self._usual_kind(key_sets)
        self._classes = find_classes(lines, key_sets, options, where, kind=kind, is_multilabel=self.is_multilabel)
        if self._classes is not None and options.classes and not self.is_multilabel:
            check_labels(self._classes, self._labelled_examples(self._classes.label_key), where)

    def _labelled_examples(self, label_key: str) -> Iterator[tuple[str, Lookup]]:
        """A few examples from all over the shards that have a label."""
        for index in evenly_spaced(len(self), _LABELS_INSPECTED):
            try:
                with one_example():
                    path, key, members = self._members(index)
            except BadExample as error:
                if isinstance(error.__cause__, ReadError):
                    return
                continue
            if label_key.partition(":")[0].lower() in members:
                yield f"{path}/{key}", Lookup(members, self._captions.encoding)

    def _usual_kind(self, key_sets: Mapping[str, int]) -> str:
        """What most examples have first of all, see `kind_of`."""
        counts: dict[str, int] = collections.Counter()
        for endings, count in key_sets.items():
            present = set(endings.split(";"))
            first = next((ending for ending in self._images if ending in present), "")
            counts[kind_of(f".{first}") or "image"] += count
        return max(counts, key=lambda kind: counts[kind], default="image")

    @property
    def class_names(self) -> list[str] | None:
        """See `Source`."""
        return None if self._classes is None else self._classes.names

    @property
    def class_codes(self) -> list[str] | None:
        """See `HasClassCodes`."""
        return None if self._classes is None else self._classes.codes

    @property
    def templates(self) -> list[str] | None:
        """See `Source`."""
        return None if self._classes is None else self._classes.templates

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Record:
        """Returns a record.

        Raises:
          BadExample: `no_image`, `no_caption`, `cut` where the shard ends too soon, `read` where it is damaged.
          FileNotFoundError: the shard is not there.
          OSError: it cannot be read.
        """
        return self._record(*self._members(check_index(index, len(self))))

    def _members(self, index: int) -> tuple[str, str, dict[str, bytes]]:
        """An example's shard, key and contents."""
        shard = int(np.searchsorted(self._ends, index, side="right"))
        path = self._path(shard)
        if self._index is not None:
            start, length = self._index.row(index)
        else:
            start, length = self._row(shard, index - int(self._ends[shard] - self.shard_lengths[shard]))
        if length > _LARGEST:
            raise BadExample("too_large", f"{path}: an example of {length:,} bytes at byte {start}")
        blob = self._read(path, start, length)
        if len(blob) <= length - BLOCK:  # the last member may lack its padding, no more
            raise BadExample("cut", f"{path} ends at byte {start + len(blob)}, within an example")
        return path, *parse_members(blob, f"{path}, example at byte {start}", self._once)

    def prefetch_shards(self, shards: Sequence[int]) -> None:
        """Starts to fetch shards in the background, for the order `windowed`: remote ones to the local disk, local
        ones to memory."""
        if self._ahead is not None:
            self._ahead.prefetch([local_path(self._path(shard)) for shard in shards])
        if self._cache is not None:
            try:
                self._cache.prefetch([self._path(shard) for shard in shards])
            except OSError as error:  # reading an example of the shard raises it again
                log.warning("%s: shards cannot be fetched ahead: %s", self.name, error_reason(error))

    def _path(self, shard: int) -> str:
        return f"{self._folder}/{self._names[shard]}" if self._folder else self._names[shard]

    def _read(self, path: str, start: int, length: int) -> bytes:
        # While a shard that has an index is still coming, its examples are read one by one.
        if self._cache is None or (self._index is not None and not self._cache.has(path)):
            return self._reader.read_range(path, start, length)
        return _with_copy(self._cache, path, lambda copy: file_pool.pread(copy, start, length))

    def _row(self, shard: int, row: int) -> tuple[int, int]:
        """Where an example lies in a shard without an index."""
        rows = self._tables.get(shard)
        if row >= len(rows):
            raise BadExample("cut", f"{self._path(shard)} has {len(rows)} examples, not {self.shard_lengths[shard]}")
        first, count = rows[row].tolist()
        return first * BLOCK, count * BLOCK

    def _scan(self, shard: int) -> np.ndarray:
        path = self._path(shard)
        if self._cache is None:
            scanned = scan_once(path, self._reader, scan_path(path, self._scan_cache))
        else:
            scanned = _with_copy(self._cache, path, lambda copy: scan_once(copy, self._reader, scan_path_of_copy(copy)))
        declared, present = int(self.shard_lengths[shard]), len(scanned.table.rows)
        if present != declared or scanned.table.problem:
            log.warning("%s has %d examples, %d declared %s", path, present, declared, scanned.table.problem)
        return scanned.table.rows

    def _record(self, path: str, key: str, members: Mapping[str, bytes]) -> Record:
        ending = next((ending for ending in self._inputs if ending in members), None)
        name = f"{path}/{key}"
        if ending is None:
            raise BadExample("no_image", f"{name}: has {join_names(list(members))}, no {join_names(self._inputs)}")
        path_in = f"{name}.{ending}"
        try:
            inputs = inputs_of_members(members, self._images, arrays=self._has_arrays)
        except BadExample as error:
            raise error.with_path(name) from error
        classes = self._classes
        if classes is not None and self.is_multilabel:
            names = dict(class_names=classes.names, templates=classes.templates)
            return multilabel_record(members, inputs, path_in, **names, where=name)
        lookup = Lookup(members, self._captions.encoding, self._is_retrieval)
        label = None if classes is None else classes.label(lookup, name)
        with_row = lambda record: record
        if self._columns:
            row = {column: lookup(column_key(column)) for column in self._columns}
            with_row = lambda record: add_row(record, row, self._texts)
        try:
            texts = lookup.gather(self._captions, name)
        except BadExample:
            if classes is None or label is None:
                raise
            return with_row(
                make_class_record(inputs, classes.names, classes.templates, label, path_in, classes.ids[label])
            )
        record = Record(**record_fields(inputs), id=stable_id("image", path, key), path=path_in, **texts)
        if label is not None:
            record["label"] = label
        return with_row(record)


def _with_copy(cache: ShardCache, path: str, use: Callable[[str], _T]) -> _T:
    """Uses a shard's copy on the local disk, which another process may remove to make room."""
    copy = cache.get(path)
    try:
        return use(copy)
    except FileNotFoundError:
        return use(cache.get(path))


def _build_local_index(shards: ShardList, path: str, options: SourceOptions, where: str) -> TarIndex:
    """Scans local shards and writes their index.

    Raises:
      UserError: the shards are remote, for which the user builds the index beforehand.
    """
    if not shards.is_local:
        raise UserError(
            f"{where}: remote shards need an index; run mmjax index {path!r}, or set data.order=windowed"
            " where sizes.json or img2dataset's NNNNN_stats.json lies beside them"
        )
    return TarIndex(build_index(shards, options=options, where=where))


def _examples(beginning: bytes, rows: np.ndarray, path: str) -> Iterator[Members]:
    """The examples of a shard's beginning, but for those that cannot be read."""
    for first, count in rows.tolist():
        start = first * BLOCK
        try:
            yield parse_members(beginning[start : start + count * BLOCK], path)[1]
        except BadExample:
            continue
