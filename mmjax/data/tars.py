"""WebDataset shards by position: every example of many tars has a number."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from tqdm import tqdm

from mmjax.data import reading, tar_index
from mmjax.data.captions import CaptionKeys
from mmjax.data.faults import BadExample
from mmjax.data.fields import FOLDER_TEMPLATES, class_record, dig
from mmjax.data.lru import Lru
from mmjax.data.multilabel import multilabel_record
from mmjax.data.patterns import reason
from mmjax.data.reading import Reader, local_path
from mmjax.data.shard_cache import ShardCache, user_cache
from mmjax.data.shard_list import ShardList, declared_lengths, find_index, list_shards, locked, read_lines
from mmjax.data.source import DEFAULT_OPTIONS, Record, SourceOptions, check_index, stable_id
from mmjax.data.tar_index import GONE, TarIndex
from mmjax.data.tar_members import BLOCK, Read, TarError, read_members, scan, split_name
from mmjax.data.texts import Texts
from mmjax.errors import UserError

IMAGE_ENDINGS = "jpg;jpeg;png;webp;bmp;gif;tif;tiff;jfif;ppm"
CAPTION_KEYS = ("txt", "caption", "json:caption")
_TABLES = 256  # shards whose examples' places are remembered, where there is no index
_FIRST_BYTES, _FIRST_SHARDS = 4 << 20, 8  # looked at for what an example has, where there is no index
_STATS_AT_ONCE = 32

log = logging.getLogger("mmjax.data")


class Tars:
    """Image-text pairs in tars, as webdataset, img2dataset and CLIP_benchmark write them.

    An example is a run of members that share a key, the path up to the first dot of the base name. Where each lies is
    in an index (see `mmjax.data.tar_index`), built at the start for local shards that have none. In the order
    `windowed` the number of examples in each shard is enough, which img2dataset's NNNNN_stats.json or a sizes.json
    tells; a shard is then scanned when it is first needed. Remote shards are read example by example, and in the order
    `windowed` downloaded whole into a cache on the local disk.

    A folder with classnames.txt and examples with .cls is a set of classes; with dataset_type.txt saying `retrieval`,
    every line of a .txt is a caption; saying `multilabel`, a .npy marks an example's classes. All are CLIP_benchmark's.

    Args:
      path: paths or fsspec URLs with {00000..01242}, {a,b}, * and ?; folders; several joined by "::".
      options: `image_key` is endings joined by ";" of which the first that an example has is taken.
      field: config field to name in errors.

    Raises:
      UserError: no shards or examples, none with the wanted members, an index that is not the shards', remote shards
        without an index, or storage that fails.
    """

    def __init__(self, path: str, *, options: SourceOptions = DEFAULT_OPTIONS, field: str = "data.train"):
        where = f"{field}='wds:{path}'"
        self._reader = Reader(options.retry_seconds)
        self._images = tuple(
            ending.strip().lstrip(".").lower() for ending in (options.image_key or IMAGE_ENDINGS).split(";")
        )
        self._captions = CaptionKeys.parse(options.caption_keys, default=CAPTION_KEYS)
        split = "test" if field.startswith("data.eval") else "train"
        shards = list_shards(path, reader=self._reader, where=where, split=split)
        self.name = shards.name
        self._folder = shards.folder
        self._index: TarIndex | None = None
        windowed = options.order == "windowed"
        try:
            key_sets = self._open(shards, path, options, where)
        except OSError as error:
            raise UserError(f"{where}: cannot be read ({reason(error)})") from error
        self._cache = None
        if windowed and not shards.is_local:
            folder = os.path.join(local_path(options.cache) or user_cache(), "shards")
            self._cache = ShardCache(folder, options.cache_gb * 1e9, self._reader)
        self._tables = Lru(self._scan, _TABLES)
        self._find_classes(shards, key_sets, where)
        self._check_keys(key_sets, where)

    def _open(self, shards: ShardList, path: str, options: SourceOptions, where: str) -> dict[str, int]:
        """Sets the shards and their lengths; returns what examples have."""
        found = find_index(shards, cache=options.cache, reader=self._reader)
        if found is None and options.order == "windowed":
            lengths, silent = declared_lengths(shards, reader=self._reader, where=where)
            if not silent:
                self._set_lengths(shards.names, lengths)
                self._check_not_empty({}, where)
                return self._look_at_first(where)
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
            found = build_index(shards, options=options)
        self._index = TarIndex(found)
        told = self._index.shards()
        self._set_lengths(told.names, told.rows)
        _check_same_shards(shards, told, path, where)
        self._check_not_empty(told.problems, where)
        return told.all_key_sets

    def _set_lengths(self, names: Sequence[str], lengths: np.ndarray) -> None:
        self._names = Texts(names)
        self.shard_lengths = np.asarray(lengths, np.int64)
        self._ends = np.cumsum(self.shard_lengths)

    def _check_not_empty(self, problems: Mapping[str, str], where: str) -> None:
        if not len(self):
            what = "; ".join(f"{name} is {problem}" for name, problem in list(problems.items())[:3])
            raise UserError(f"{where}: no examples in {len(self._names)} shards{f' ({what})' if what else ''}")

    def _look_at_first(self, where: str) -> dict[str, int]:
        """What the examples at the beginning of the first shard that can be read have."""
        last = "they hold no examples"
        for shard in np.flatnonzero(self.shard_lengths)[:_FIRST_SHARDS].tolist():
            try:
                beginning = self._reader.read_range(self._path(shard), 0, _FIRST_BYTES)
            except OSError as error:
                last = reason(error)
                continue
            table = scan(_reading(beginning), len(beginning), chunk=_FIRST_BYTES)
            if len(table.rows):
                return table.key_sets
            last = table.problem
        raise UserError(f"{where}: none of the first shards can be read (the last: {last}); check the path")

    def _find_classes(self, shards: ShardList, key_sets: Mapping[str, int], where: str) -> None:
        lines = lambda name: read_lines(shards.details, name, reader=self._reader, where=where)
        kinds = [line.lower() for line in lines("dataset_type.txt")]
        self._is_retrieval, self.is_multilabel = kinds == ["retrieval"], kinds == ["multilabel"]
        label = "npy" if self.is_multilabel else "cls"
        labelled = any(label in endings.split(";") for endings in key_sets)
        self.class_names = (lines("classnames.txt") if labelled and not self._is_retrieval else None) or None
        self.templates = None
        if self.class_names:
            self.templates = lines("zeroshot_classification_templates.txt") or list(FOLDER_TEMPLATES)
            for template in self.templates:
                if "{c}" not in template:
                    raise UserError(f"{where}: template {template!r} has no {{c}} for the class name")
            self._class_ids = [stable_id("class", name) for name in self.class_names]

    def _check_keys(self, key_sets: Mapping[str, int], where: str) -> None:
        """Fails at the start where no example at all can be used."""
        sets = [set(endings.split(";")) for endings in key_sets]
        count = sum(key_sets.values())
        if not sets or {"..."} in sets:
            return
        common = ", or ".join(", ".join(endings.split(";")) for endings in list(key_sets)[:5])
        have = f"{count:,} examples have {common}" + (" and others" if len(sets) > 5 else "")
        if not any(endings & set(self._images) for endings in sets):
            raise UserError(
                f"{where}: {have}; none has {_either(self._images)}; set data.image_key to what holds images"
            )
        wanted = {key.partition(":")[0].lower() for key in self._captions.keys}
        if not self.class_names and not any(endings & wanted for endings in sets):
            raise UserError(
                f"{where}: {have}; none has {_either(sorted(wanted))} for captions; set data.caption_keys"
                " (json:FIELD is a field of a .json member)"
            )

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Record:
        """Returns a record.

        Raises:
          BadExample: `no_image`, `no_caption`, `cut` where the shard ends too soon, `read` where it is damaged.
          FileNotFoundError: the shard is not there.
          OSError: it cannot be read.
        """
        index = check_index(index, len(self))
        shard = int(np.searchsorted(self._ends, index, side="right"))
        path = self._path(shard)
        if self._index is not None:
            start, length = self._index.row(index)
        else:
            start, length = self._row(shard, index - int(self._ends[shard] - self.shard_lengths[shard]))
        blob = self._read(path, start, length)
        if len(blob) <= length - BLOCK:  # the last member may lack its padding, no more
            raise BadExample("cut", f"{path} ends at byte {start + len(blob)}, within an example")
        key, members = _parse(blob, f"{path}, example at byte {start}")
        return self._record(path, key, members)

    def prepare(self, shards: Sequence[int]) -> None:
        """Starts to download shards of remote tars in the background, for the order `windowed`."""
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
        return self._with_copy(path, lambda copy: reading.pread(copy, start, length))

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
        look = lambda local: tar_index.scan_shard(local, self._reader)
        scanned = look(path) if self._cache is None else self._with_copy(path, look)
        if scanned.size == GONE:
            raise FileNotFoundError(path)
        declared, there = int(self.shard_lengths[shard]), len(scanned.table.rows)
        if there != declared or scanned.table.problem:
            log.warning("%s has %d examples, %d declared %s", path, there, declared, scanned.table.problem)
        return scanned.table.rows

    def _record(self, path: str, key: str, members: Mapping[str, bytes]) -> Record:
        ending = next((ending for ending in self._images if ending in members), None)
        name = f"{path}/{key}"
        if ending is None:
            raise BadExample("no_image", f"{name}: has {_either(list(members))}, no {_either(self._images)}")
        image, path_in = members[ending], f"{name}.{ending}"
        if self.is_multilabel and self.class_names:
            names = dict(class_names=self.class_names, templates=self.templates)
            return multilabel_record(members, image, path_in, **names, where=name)
        label = self._label(members, name) if self.class_names else None
        try:
            texts = self._captions.gather(_Lookup(members, self._is_retrieval))
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


class _Lookup:
    """Finds the texts of an example: `txt` is a member, `json:FIELD` a field of one."""

    def __init__(self, members: Mapping[str, bytes], one_a_line: bool):
        self._members, self._one_a_line = members, one_a_line
        self._parsed: dict[str, Any] = {}

    def __call__(self, key: str) -> Any:
        ending, colon, field = key.partition(":")
        ending = ending.lower()
        content = self._members.get(ending)
        if content is None or not colon:
            return content.splitlines() if content and self._one_a_line else content
        if ending not in self._parsed:
            try:
                self._parsed[ending] = json.loads(content)
            except (ValueError, RecursionError):
                self._parsed[ending] = None
        return dig(self._parsed[ending], field)


def _parse(blob: bytes, where: str) -> tuple[str, dict[str, bytes]]:
    """The key and, by ending, the contents of an example."""
    key, members = None, {}
    try:
        for member in read_members(_reading(blob), len(blob)):
            split = split_name(member.name)
            if split is None:
                continue
            key = split[0] if key is None else key
            if split[0] == key:
                members.setdefault(split[1], blob[member.data : member.data + member.size])
    except TarError as error:
        raise BadExample(error.reason, f"{where}: {error}") from error
    if key is None:
        raise BadExample("read", f"{where}: no member is there")
    return key, members


def _reading(data: bytes) -> Read:
    return lambda offset, length: data[offset : offset + length]


def build_index(
    shards: ShardList,
    *,
    options: SourceOptions,
    output: str = "",
    workers: int = 0,
    processes: bool = False,
    force: bool = False,
) -> str:
    """Builds the index of shards; returns its local path.

    It lies beside local shards where that folder can be written to, else in the cache folder. One process of a host
    builds it while the others wait.

    Args:
      shards: to index.
      options: `cache` and `retry_seconds`.
      output: local path to write to instead.
      workers: shards scanned at a time; 0 is one per core, or more where they are remote.
      processes: whether workers may be processes (see `tar_index.build`).
      force: scans all shards, whatever an older index knows.

    Raises:
      OSError: a shard cannot be read, or the index not written.
    """
    cached, beside = shards.index_in(options.cache), shards.index_beside()
    writable = shards.is_local and beside and os.access(shards.folder, os.W_OK)
    target = output or (beside if writable else cached)
    workers = workers or max(os.cpu_count() or 1, 1 if shards.is_local else 8)
    before = os.stat(target).st_mtime_ns if os.path.isfile(target) else None
    with locked(cached):
        if not force and os.path.isfile(target) and os.stat(target).st_mtime_ns != before:
            return target  # another process has built it meanwhile
        tar_index.build(
            [(name, shards.path(name)) for name in shards.names],
            target,
            reader=Reader(options.retry_seconds),
            workers=min(workers, 64),
            processes=processes,
            previous=target if os.path.isfile(target) and not force else None,
            progress=lambda shards: tqdm(shards, desc="indexing shards", unit="shard"),
        )
    return target


def _check_same_shards(shards: ShardList, told: tar_index.Shards, path: str, where: str) -> None:
    """Compares an index with the shards that are there; ones that got shorter or vanished are told of and borne."""
    remedy = f"run mmjax index {path!r} again"
    known = set(told.names)
    new = [name for name in shards.names if name not in known]
    lost = known.difference(shards.names)
    if new or (lost and not shards.listed):
        what = f"{new[0]!r} is not in it" if new else f"{min(lost)!r} is in it alone"
        raise UserError(f"{where}: its index is of other shards ({what}); {remedy}")
    if not shards.is_local:
        return
    with ThreadPoolExecutor(_STATS_AT_ONCE) as pool:
        sizes = np.fromiter(pool.map(_size, (shards.path(name) for name in told.names)), np.int64, len(told.names))
    changed = np.flatnonzero(sizes > told.sizes)
    if len(changed):
        name = told.names[changed[0]]
        raise UserError(f"{where}: {len(changed)} shards are not what their index says, such as {name!r}; {remedy}")
    worse = np.flatnonzero(sizes < told.sizes)
    if len(worse):
        gone = int((sizes[worse] == GONE).sum())
        log.warning(
            "%s: %d shards are gone and %d are shorter than when they were indexed, such as %s; "
            "examples in them are replaced and counted",
            shards.name,
            gone,
            len(worse) - gone,
            told.names[worse[0]],
        )


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return GONE


def _either(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"
