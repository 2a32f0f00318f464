"""An index of embeddings on disk, kept in step with what they are of: images, videos, sounds.

It is a folder: `index.json` says which model made it, `part-N.npz` hold embeddings with the files they are of. A part
is written whole or not at all, so an update that was killed goes on where it was.
"""

import dataclasses
import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mmjax.errors import UserError
from mmjax.io import paths as paths_lib
from mmjax.utils.python_literals import PARSING

_FORMAT = 1
_PART = 4096  # entries embedded between two writes
_SMALL_PARTS = 16  # so many are made one

# Embeds entries by name: (embeddings [n, E] of those that could be read, their indices, why others could not be).
Embed = Callable[[Sequence[str]], tuple[np.ndarray, Sequence[int], Mapping[int, str]]]


@dataclasses.dataclass
class _Part:
    """Some files with their stamps, the embeddings of those that could be read (the first ones), and why not others."""

    files: list[tuple[str, str]]
    bad: list[tuple[str, str, str]]
    embeddings: np.ndarray

    def keep(self, entries: Mapping[str, str], seen: set[str]) -> "_Part":
        """The files that are unchanged, and not in another part."""
        kept = [i for i, (path, stamp) in enumerate(self.files) if entries.get(path) == stamp and path not in seen]
        bad = [entry for entry in self.bad if entries.get(entry[0]) == entry[1] and entry[0] not in seen]
        return _Part([self.files[i] for i in kept], bad, self.embeddings[kept])

    def __len__(self) -> int:
        return len(self.files) + len(self.bad)


class Index:
    """The embeddings of the entries of a gallery.

    Args:
      folder: where it is kept; made when it does not exist.
      model: identifies what embeds, as JSON can hold it; `name` is for people.
      rebuild: makes it anew.

    Raises:
      UserError: it was made with another model, or cannot be written.
    """

    def __init__(self, folder: Any, model: Mapping[str, Any], *, rebuild: bool = False):
        self.folder = paths_lib.as_path(folder)
        self.parts: dict[int, _Part] = {}
        paths_lib.make_folder(self.folder, "--index")
        head = self.folder / "index.json"
        if rebuild or not head.exists():
            for number in self._numbers():
                self._path(number).unlink()
            paths_lib.write_atomically(head, json.dumps({"format": _FORMAT, "model": dict(model)}, indent=2) + "\n")
            return
        try:
            stored = json.loads(head.read_text())
            form, other = stored["format"], dict(stored["model"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"--index={folder}: {head.name} is damaged; give --rebuild to make the index anew"
            ) from error
        if form != _FORMAT:
            raise UserError(f"--index={folder}: its format is {form}, not {_FORMAT}; give --rebuild to make it anew")
        if other != dict(model):
            what = "with other preprocessing" if other.get("params") == model.get("params") else "with another model"
            raise UserError(
                f"--index={folder}: it was made {what} ({other.get('name')}; this is {model.get('name')}); give"
                " --rebuild to make it anew, or another --index"
            )
        for number in self._numbers():
            part = self._read(number)
            if part is None:
                self._path(number).unlink()  # its files are embedded again
            else:
                self.parts[number] = part

    def update(self, entries: Mapping[str, str], embed: Embed) -> tuple[int, int]:
        """Drops entries that are gone or have changed and embeds new ones; returns how many of each.

        Args:
          entries: in order, each with a stamp that changes when it does, see `Gallery`.
          embed: embeds the new ones by name.
        """
        dropped, seen = 0, set()
        for number, part in list(self.parts.items()):
            kept = part.keep(entries, seen)
            dropped += len(part) - len(kept)
            seen |= {path for path, *_ in [*kept.files, *kept.bad]}
            if len(kept) < len(part):
                self._write(number, kept)
        new = [path for path in entries if path not in seen]
        for start in range(0, len(new), _PART):
            paths = new[start : start + _PART]
            embeddings, readable, reasons = embed(paths)
            files = [(paths[i], entries[paths[i]]) for i in readable]
            bad = [(paths[i], entries[paths[i]], why) for i, why in reasons.items()]
            self._write(max(self.parts, default=-1) + 1, _Part(files, bad, np.asarray(embeddings, np.float32)))
        self._merge_small()
        return dropped, len(new)

    def gallery(self) -> tuple[list[str], np.ndarray]:
        """All readable entries, sorted, and their embeddings, float32 [N, E]."""
        parts = [part for part in self.parts.values() if part.files]
        if not parts:
            return [], np.empty((0, 0), np.float32)
        paths = [path for part in parts for path, _ in part.files]
        order = sorted(range(len(paths)), key=paths.__getitem__)
        return [paths[i] for i in order], np.concatenate([part.embeddings for part in parts])[order]

    def unreadable(self) -> dict[str, str]:
        """Why entries could not be read, by name."""
        return {path: why for part in self.parts.values() for path, _, why in part.bad}

    def _merge_small(self) -> None:
        small = [number for number, part in self.parts.items() if len(part) < _PART]
        if len(small) < _SMALL_PARTS:
            return
        parts = [self.parts[number] for number in small]
        rows = [part.embeddings for part in parts if part.files]
        merged = _Part(
            [entry for part in parts for entry in part.files],
            [entry for part in parts for entry in part.bad],
            np.concatenate(rows) if rows else parts[0].embeddings,
        )
        # Written before the others are removed: an update that meets both drops the repeated entries.
        self._write(max(self.parts) + 1, merged)
        for number in small:
            self._write(number, _Part([], [], merged.embeddings[:0]))

    def _numbers(self) -> list[int]:
        names = (path.name for path in self.folder.iterdir())
        return sorted(int(name[5:-4]) for name in names if name.startswith("part-") and name.endswith(".npz"))

    def _path(self, number: int) -> Any:
        return self.folder / f"part-{number:06d}.npz"

    def _read(self, number: int) -> _Part | None:
        try:
            with PARSING, np.load(io.BytesIO(self._path(number).read_bytes()), allow_pickle=False) as stored:
                head, embeddings = json.loads(stored["files"].tobytes()), stored["embeddings"]
            part = _Part([tuple(entry) for entry in head["files"]], [tuple(entry) for entry in head["bad"]], embeddings)
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile):
            return None
        return part if len(part.files) == len(embeddings) else None

    def _write(self, number: int, part: _Part) -> None:
        path = self._path(number)
        if not len(part):
            path.unlink()
            self.parts.pop(number)
            return
        stream = io.BytesIO()
        head = json.dumps({"files": part.files, "bad": part.bad}).encode()
        np.savez(stream, files=np.frombuffer(head, np.uint8), embeddings=part.embeddings)
        paths_lib.write_atomically(path, stream.getvalue())
        self.parts[number] = part
