"""The shards of a pattern, the paths of their index, and the numbers of examples that they declare."""

import dataclasses
import hashlib
import json
import os
import posixpath
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from mmjax.data.webdataset.shard_cache import user_cache
from mmjax.errors import UserError
from mmjax.io.patterns import check_named_once, error_reason, list_files, pattern_name
from mmjax.io.reader import Reader, is_local, local_path

_JOIN = "::"
_SPLITS = ("train", "test", "val", "validation")
_WILD = re.compile(r"[*?\[{]")
_CONCURRENT_REQUESTS = 32


@dataclasses.dataclass(frozen=True)
class ShardList:
    """The shards of a pattern.

    Attributes:
      name: a short name for them.
      folder: the innermost one that holds them all; "" where they have none in common.
      names: their paths within it.
      listed: whether folders were listed for them, so that a shard that vanishes is not among them.
      pattern: that they were listed by, relative to the folder.
      details: folders that may describe them (classnames.txt and the like).
    """

    name: str
    folder: str
    names: list[str]
    listed: bool
    pattern: str
    details: list[str]

    @property
    def is_local(self) -> bool:
        """Whether they lie on this machine's file system."""
        return is_local(self.folder or self.names[0])

    def path(self, name: str) -> str:
        """The full path of a shard."""
        return f"{self.folder}/{name}" if self.folder else name

    def index_beside(self) -> str:
        """Where the index lies when it lies with the shards; "" where they have no folder in common."""
        return f"{self.folder}/mmjax-{_readable(self.pattern)}-{_hash(self.pattern)}.index" if self.folder else ""

    def index_in(self, cache: str) -> str:
        """Where an index that was built here lies in a cache folder; "" is the user's."""
        name = f"{_readable(f'{self.name}-{self.pattern}')}-{_hash(self.path(self.pattern))}"
        return os.path.join(local_path(cache) or user_cache(), "index", f"{name}.index")

    def index_copy_in(self, cache: str) -> str:
        """Where the copy of the index that lies beside remote shards is in a cache folder."""
        return self.index_in(cache).removesuffix(".index") + "-copy.index"


def _readable(pattern: str) -> str:
    """A pattern as part of a file's name."""
    text = pattern.replace("*", "all").replace("..", "-to-").replace(".tar", "")
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:60].rstrip("-") or "shards"


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def list_shards(pattern: str, *, reader: Reader, where: str, split: str = "train") -> ShardList:
    """Finds the shards of a pattern.

    Args:
      pattern: paths or fsspec URLs with {000..123}, {a,b}, * and ?; folders; several joined by "::".
      reader: lists folders.
      where: the config field and its value, to begin errors with.
      split: taken from a folder that has one sub-folder for each, as CLIP_benchmark's.

    Raises:
      UserError: when there are none.
    """
    parts = [_resolve_part(part, split, reader, where) for part in pattern.split(_JOIN)]
    paths = [path for part in parts for path in list_files(part, reader=reader, where=where)]
    check_named_once(paths, where)
    folder = _common_folder(paths, parts)
    prefix = len(folder) + 1 if folder else 0
    return ShardList(
        name=_short_name(parts[0]),
        folder=folder,
        names=[path[prefix:] for path in paths],
        listed=any(re.search(r"[*?\[]", part) for part in parts),
        pattern=_JOIN.join(part[prefix:] for part in parts),
        details=list(dict.fromkeys(folder for part in parts for folder in _detail_folders(part))),
    )


def _resolve_part(part: str, split: str, reader: Reader, where: str) -> str:
    """One part of a pattern: an absolute path where it is local, the pattern of its shards where it is a folder."""
    if part.startswith("pipe:"):
        raise UserError(f"{where}: commands are not run; write the URL itself, such as s3://BUCKET/{{000..123}}.tar")
    if not part:
        raise UserError(f"{where}: nothing on one side of '::'; write PATTERN::PATTERN")
    if is_local(part):
        part = os.path.abspath(local_path(part))
    part = part.rstrip("/")
    return _folder_pattern(part, split, reader, where) if _is_folder(part) else part


def _short_name(part: str) -> str:
    """The name of the folder that holds the shards, or holds their split's folder; else of the shards themselves."""
    folder = posixpath.dirname(part)
    below = folder if posixpath.basename(folder) in _SPLITS else part
    return posixpath.basename(posixpath.dirname(below)) or pattern_name(part)


def _detail_folders(part: str) -> list[str]:
    """The folders that may describe the shards of a part: theirs, and the one above a split's."""
    folder = posixpath.dirname(part)
    folders = [folder, posixpath.dirname(folder)] if posixpath.basename(folder) in _SPLITS else [folder]
    return [folder for folder in folders if not _WILD.search(folder)]


def _is_folder(part: str) -> bool:
    if is_local(part):
        return os.path.isdir(part)
    return not part.lower().endswith(".tar") and not _WILD.search(posixpath.basename(part))


def _folder_pattern(folder: str, split: str, reader: Reader, where: str) -> str:
    """The pattern of the shards in a folder."""
    count = _read_text(f"{folder}/nshards.txt", reader, where)
    if count is None and (count := _read_text(f"{folder}/{split}/nshards.txt", reader, where)) is not None:
        folder = f"{folder}/{split}"
    if count is None:
        if is_local(folder) and not any(name.endswith(".tar") for name in os.listdir(folder)):
            splits = [f"{folder}/{name}" for name in _SPLITS if os.path.isdir(f"{folder}/{name}")]
            hint = f"give one of {', '.join(splits)}" if splits else "check the path"
            raise UserError(f"{where}: no *.tar in {folder!r}; {hint}")
        return f"{folder}/*.tar"
    if not count.strip().isdigit() or int(count) == 0:
        raise UserError(f"{where}: {folder}/nshards.txt holds {count.strip()[:20]!r}, which is no number of shards")
    return f"{folder}/0.tar" if int(count) == 1 else f"{folder}/{{0..{int(count) - 1}}}.tar"


def _common_folder(paths: Sequence[str], parts: Sequence[str]) -> str:
    folder = posixpath.dirname(paths[0])
    while folder and not all(path.startswith(folder + "/") for path in [*paths, *parts]):
        folder = posixpath.dirname(folder)
        if folder.endswith((":", "/")) or "/" not in folder:
            return ""
    return "" if folder.endswith("/") else folder


def _read_text(path: str, reader: Reader, where: str) -> str | None:
    """A small file's text, None where there is none."""
    try:
        return reader.read(path).decode("utf-8-sig", "replace")
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # some stores forbid what they do not have
        return None
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{where}: {path} cannot be read ({error_reason(error)})") from error


def declared_lengths(shards: ShardList, *, reader: Reader, where: str) -> tuple[np.ndarray, list[str]]:
    """The numbers of examples that shards declare: in sizes.json of their folder, else in img2dataset's statistics.

    Returns:
      int64 [S], -1 where a shard declares none; and the names of those.

    Raises:
      UserError: a file of these is no JSON, or holds no number.
    """
    paths = [shards.path(name) for name in shards.names]
    lengths = _lengths_in_sizes_files(paths, reader, where)
    undeclared = np.flatnonzero(lengths < 0).tolist()
    with ThreadPoolExecutor(_CONCURRENT_REQUESTS) as pool:
        lengths[undeclared] = list(pool.map(lambda i: _length_in_statistics(paths[i], reader, where), undeclared))
    return lengths, [shards.names[i] for i in np.flatnonzero(lengths < 0)]


def _lengths_in_sizes_files(paths: Sequence[str], reader: Reader, where: str) -> np.ndarray:
    """int64 [S], the number of examples of each shard in its folder's sizes.json, -1 where it is not in there."""
    sizes_files: dict[str, dict] = {}
    lengths = []
    for path in paths:
        folder, name = posixpath.split(path)
        if folder not in sizes_files:
            sizes_files[folder] = _read_json(f"{folder}/sizes.json", reader, where) or {}
        sizes = sizes_files[folder]
        lengths.append(_count(sizes[name], f"{folder}/sizes.json", where) if name in sizes else -1)
    return np.array(lengths, np.int64)


def _length_in_statistics(path: str, reader: Reader, where: str) -> int:
    """The number of examples in a shard's statistics of img2dataset, -1 where there are none."""
    path = re.sub(r"\.tar$", "", path) + "_stats.json"
    statistics = _read_json(path, reader, where)
    return -1 if statistics is None else _count(statistics.get("successes"), path, where)


def _read_json(path: str, reader: Reader, where: str) -> dict | None:
    text = _read_text(path, reader, where)
    if text is None:
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: {path} is not JSON ({error}); repair or remove it") from error
    if not isinstance(content, dict):
        raise UserError(f"{where}: {path} is not a JSON object; repair or remove it")
    return content


def _count(value: Any, path: str, where: str) -> int:
    try:
        count = int(value)
    except (TypeError, ValueError):
        count = -1
    if count < 0:
        raise UserError(f"{where}: {path} holds {value!r} where a number of examples should be; repair or remove it")
    return count
