"""WebDataset shards by position: every example of many tars has a number."""

import itertools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mmjax.data.bad_example import BadExample
from mmjax.data.caption_keys import CaptionKeys
from mmjax.data.column_inference import check_templates, class_record, read_lines, spread
from mmjax.data.formats.multilabel import multilabel_record
from mmjax.data.record import DEFAULT_OPTIONS, Record, SourceOptions, check_index, stable_id
from mmjax.data.webdataset.build import build_index
from mmjax.data.webdataset.find import find_index
from mmjax.data.webdataset.index_file import TarIndex
from mmjax.data.webdataset.members import CAPTION_KEYS, IMAGE_ENDINGS, KeyCheck, Lookup, Members, either, parse_members
from mmjax.data.webdataset.members import reading as reading_from
from mmjax.data.webdataset.scan import kept_table, scan_once
from mmjax.data.webdataset.shard_cache import ShardCache, table_of, user_cache
from mmjax.data.webdataset.shard_list import ShardList, declared_lengths, list_shards
from mmjax.data.webdataset.tar_format import BLOCK, scan
from mmjax.data.webdataset.validate import check_shards
from mmjax.errors import UserError
from mmjax.io import file_pool
from mmjax.io.page_cache import ReadAhead
from mmjax.io.patterns import reason
from mmjax.io.reader import Reader, ReadError, local_path
from mmjax.utils.lru_cache import Lru
from mmjax.utils.string_array import Texts

_TABLES = 256  # shards whose examples' places are remembered, where there is no index
_LOOKED_AT = 64  # examples, for the keys that the config names
_FIRST_BYTES, _FIRST_SHARDS = 4 << 20, 8  # looked at for what an example has, where there is no index

log = logging.getLogger("mmjax.data")


class Tars:
    """Image-text pairs in tars, as webdataset, img2dataset and CLIP_benchmark write them.

    An example is a run of members that share a key, the path up to the first dot of the base name. Where each lies is
    in an index (`mmjax.data.webdataset.index_file`), built at the start for local shards that have none. In the order
    `windowed` the number of examples in each shard is enough, which img2dataset's NNNNN_stats.json or a sizes.json
    tells; a shard is then scanned when it is first needed. Remote shards are read example by example, and in the order
    `windowed` downloaded whole into a cache on the local disk; local ones are then read ahead, whole and in order.

    Shards that an index says to be missing or damaged are told of at the start; `data.eval` refuses any, training more
    than `options.max_bad_fraction` of them (see `mmjax.data.webdataset.validate`).

    A folder with classnames.txt and examples with .cls is a set of classes; with dataset_type.txt saying `retrieval`,
    every line of a .txt is a caption; saying `multilabel`, a .npy marks an example's classes. All are CLIP_benchmark's.

    Args:
      path: paths or fsspec URLs with {00000..01242}, {a,b}, * and ?; folders; several joined by "::".
      options: `image_key` is endings joined by ";" of which the first that an example has is taken.
      field: config field to name in errors.

    Raises:
      UserError: no shards or examples, a wanted member or JSON field that is nowhere, an index that is not the
        shards', too many shards that are not whole, remote shards without an index, or storage that fails.
    """

    def __init__(self, path: str, *, options: SourceOptions = DEFAULT_OPTIONS, field: str = "data.train"):
        where = f"{field}='wds:{path}'"
        self._reader = Reader(options.retry_seconds)
        self._images = tuple(
            ending.strip().lstrip(".").lower() for ending in (options.image_key or IMAGE_ENDINGS).split(";")
        )
        self._captions = CaptionKeys.parse(
            options.caption_keys, default=CAPTION_KEYS, field=f"{options.keys_field}.caption_keys"
        )
        split = "test" if field.startswith("data.eval") else "train"
        shards = list_shards(path, reader=self._reader, where=where, split=split)
        self.name = shards.name
        self._folder = shards.folder
        self._index: TarIndex | None = None
        windowed = options.order == "windowed"
        try:
            key_sets = self._open(shards, path, options, where)
        except UserError:
            raise
        except (OSError, ValueError, ImportError) as error:
            raise UserError(f"{where}: cannot be read ({reason(error)})") from error
        self._cache = self._ahead = None
        if windowed and shards.is_local:
            self._ahead = ReadAhead()
        elif windowed:
            folder = os.path.join(local_path(options.cache) or user_cache(), "shards")
            self._cache = ShardCache(folder, options.cache_gb * 1e9, self._reader)
        self._tables_in = options.cache
        self._tables = Lru(self._scan, _TABLES)
        looks = iter([(key_sets, self._spread_examples())]) if key_sets is not None else self._beginnings(where)
        first = next(looks)
        self._find_classes(shards, first[0], where)
        check = KeyCheck(self._images, self._captions, options, has_classes=bool(self.class_names))
        check.run(itertools.chain([first], looks), where)

    def _open(self, shards: ShardList, path: str, options: SourceOptions, where: str) -> dict[str, int] | None:
        """Sets the shards and their lengths; returns what examples have, where an index knows."""
        found = find_index(shards, cache=options.cache, reader=self._reader)
        if found is None and options.order == "windowed":
            lengths, silent = declared_lengths(shards, reader=self._reader, where=where)
            if not silent:
                self._set_lengths(shards.names, lengths)
                self._check_not_empty({}, where)
                return None
            if not shards.is_local:
                raise UserError(
                    f"{where}: nothing tells how many examples {len(silent)} of {len(lengths)} shards have"
                    f" ({silent[0]}); run mmjax index {path!r}, or put their NNNNN_stats.json or sizes.json there"
                )
        if found is None:
            if not shards.is_local:
                raise UserError(
                    f"{where}: remote shards need an index; run mmjax index {path!r}, or set data.order=windowed"
                    " where sizes.json or img2dataset's NNNNN_stats.json lies beside them"
                )
            found = TarIndex(build_index(shards, options=options, where=where))
        self._index = found
        told = self._index.shards()
        self._set_lengths(told.names, told.rows)
        self._check_not_empty(told.problems, where)
        check_shards(shards, told, path=path, options=options, where=where)
        return told.all_key_sets

    def _set_lengths(self, names: Sequence[str], lengths: np.ndarray) -> None:
        self._names = Texts(names)
        self.shard_lengths = np.asarray(lengths, np.int64)
        self._ends = np.cumsum(self.shard_lengths)

    def _check_not_empty(self, problems: Mapping[str, str], where: str) -> None:
        if not len(self):
            what = "; ".join(f"{name} is {problem}" for name, problem in list(problems.items())[:3])
            raise UserError(
                f"{where}: no examples in {len(self._names)} shards{f' ({what})' if what else ''}; check the pattern,"
                " and that the files are tars of images and captions"
            )

    def _spread_examples(self) -> Iterator[Members]:
        """Some examples that can be read, from all over the shards of an index."""
        for index in spread(len(self), _LOOKED_AT):
            try:
                yield self._members(index)[2]
            except ReadError:  # the storage fails; hours would go by until it had refused all
                return
            except (BadExample, OSError):
                continue

    def _beginnings(self, where: str) -> Iterator[tuple[dict[str, int], Iterator[Members]]]:
        """What the examples at the beginning of shards have, and these examples, where there is no index."""
        problem, found = "they hold no examples", False
        full = np.flatnonzero(self.shard_lengths)
        for shard in full[spread(len(full), _FIRST_SHARDS)].tolist():
            path = self._path(shard)
            try:
                beginning = self._reader.read_range(path, 0, _FIRST_BYTES)
            except OSError as error:
                problem = reason(error)
                continue
            table = scan(reading_from(beginning), len(beginning), chunk=_FIRST_BYTES)
            if len(table.rows):
                found = True
                yield table.key_sets, _examples(beginning, table.rows[:_LOOKED_AT], path)
            problem = table.problem
        if not found:
            raise UserError(f"{where}: none of the first shards can be read (the last: {problem}); check the path")

    def _find_classes(self, shards: ShardList, key_sets: Mapping[str, int], where: str) -> None:
        lines = lambda name: read_lines(shards.details, name, reader=self._reader, where=where)
        kinds = [line.lower() for line in lines("dataset_type.txt")]
        self._is_retrieval, self.is_multilabel = kinds == ["retrieval"], kinds == ["multilabel"]
        label = "npy" if self.is_multilabel else "cls"
        labelled = any(label in endings.split(";") for endings in key_sets)
        self.class_names = (lines("classnames.txt") if labelled and not self._is_retrieval else None) or None
        self.templates = None
        if self.class_names:
            self.templates = check_templates(lines("zeroshot_classification_templates.txt"), where)
            self._class_ids = [stable_id("class", name) for name in self.class_names]

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
        blob = self._read(path, start, length)
        if len(blob) <= length - BLOCK:  # the last member may lack its padding, no more
            raise BadExample("cut", f"{path} ends at byte {start + len(blob)}, within an example")
        return path, *parse_members(blob, f"{path}, example at byte {start}")

    def prepare(self, shards: Sequence[int]) -> None:
        """Starts to fetch shards in the background, for the order `windowed`: remote ones to the local disk, local
        ones to memory."""
        if self._ahead is not None:
            self._ahead.prepare([local_path(self._path(shard)) for shard in shards])
        if self._cache is not None:
            try:
                self._cache.prepare([self._path(shard) for shard in shards])
            except OSError as error:  # whoever needs a shard is told
                log.warning("%s: shards cannot be fetched ahead: %s", self.name, reason(error))

    def _path(self, shard: int) -> str:
        return f"{self._folder}/{self._names[shard]}" if self._folder else self._names[shard]

    def _read(self, path: str, start: int, length: int) -> bytes:
        # While a shard that has an index is still coming, its examples are read one by one.
        if self._cache is None or (self._index is not None and not self._cache.has(path)):
            return self._reader.read_range(path, start, length)
        return self._with_copy(path, lambda copy: file_pool.pread(copy, start, length))

    def _with_copy(self, path: str, use: Any) -> Any:
        """Uses a shard's copy on the local disk, which another process may remove to make room."""
        copy = self._cache.get(path)
        try:
            return use(copy)
        except FileNotFoundError:
            return use(self._cache.get(path))

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
            scanned = scan_once(path, self._reader, kept_table(path, self._tables_in))
        else:
            scanned = self._with_copy(path, lambda copy: scan_once(copy, self._reader, table_of(copy)))
        declared, there = int(self.shard_lengths[shard]), len(scanned.table.rows)
        if there != declared or scanned.table.problem:
            log.warning("%s has %d examples, %d declared %s", path, there, declared, scanned.table.problem)
        return scanned.table.rows

    def _record(self, path: str, key: str, members: Mapping[str, bytes]) -> Record:
        ending = next((ending for ending in self._images if ending in members), None)
        name = f"{path}/{key}"
        if ending is None:
            raise BadExample("no_image", f"{name}: has {either(list(members))}, no {either(self._images)}")
        image, path_in = members[ending], f"{name}.{ending}"
        if self.is_multilabel and self.class_names:
            names = dict(class_names=self.class_names, templates=self.templates)
            return multilabel_record(members, image, path_in, **names, where=name)
        label = self._label(members, name) if self.class_names else None
        try:
            texts = self._captions.gather(Lookup(members, self._is_retrieval))
        except BadExample as error:
            if label is None:
                raise BadExample(error.reason, f"{name}: {error.detail}") from error
            return class_record(image, self.class_names, self.templates, label, path_in, self._class_ids[label])
        record = Record(image=image, id=stable_id("image", path, key), path=path_in, **texts)
        if label is not None:
            record["label"] = label
        return record

    def _label(self, members: Mapping[str, bytes], name: str) -> int:
        text = members.get("cls", b"").strip()
        if not text.isdigit() or len(text) > 18 or int(text) >= len(self.class_names):
            raise BadExample("no_caption", f"{name}: .cls is {text[:20]!r}, no number of a class")
        return int(text)


def _examples(beginning: bytes, rows: np.ndarray, path: str) -> Iterator[Members]:
    """The examples of a shard's beginning, but for those that cannot be read."""
    for first, count in rows.tolist():
        start = first * BLOCK
        try:
            yield parse_members(beginning[start : start + count * BLOCK], path)[1]
        except BadExample:
            continue
