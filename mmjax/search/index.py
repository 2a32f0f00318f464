"""An index of image embeddings on disk, kept in step with a folder of images.

It is a folder: `index.json` says which model made it, `part-N.npz` hold embeddings with the files they are of. A part
is written whole or not at all, so an update that was killed goes on where it was.
"""

import dataclasses
import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import fsspec
import numpy as np

from mmjax.data.image.image_file import IMAGE_SUFFIXES
from mmjax.errors import UserError
from mmjax.io import paths as paths_lib

FOLDER = ".mmjax-index"
_FORMAT = 1
_PART = 4096  # images embedded between two writes
_SMALL_PARTS = 16  # so many are made one

# Embeds images by their paths: (embeddings [n, E] of those that could be read, their indices, why others could not be).
Embed = Callable[[Sequence[str]], tuple[np.ndarray, Sequence[int], Mapping[int, str]]]


def list_images(folder: str) -> dict[str, str]:
    """The images under a folder or URL, by path within it in order, each with a stamp that changes when the file does.

    Hidden files and folders are left out.

    Raises:
      UserError: it cannot be listed, or has no images.
    """
    try:
        fs, root = fsspec.core.url_to_fs(folder)
        root = root.rstrip("/")
        if not fs.isdir(root):
            raise UserError(f"--images={folder}: there is no such folder")
        files = fs.find(root, detail=True)
    except (OSError, ValueError, ImportError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"--images={folder}: cannot be listed ({' '.join(str(error).split())})") from error
    images = {}
    for path, info in sorted(files.items()):
        within = path[len(root) + 1 :]
        if within.lower().endswith(IMAGE_SUFFIXES) and not any(part.startswith(".") for part in within.split("/")):
            stamps = (info.get(key) for key in ("mtime", "etag", "ETag", "md5Hash", "LastModified", "last_modified"))
            images[within] = f"{info.get('size')}:{next((str(stamp) for stamp in stamps if stamp is not None), '')}"
    if not images:
        raise UserError(f"--images={folder}: no images there (files ending in {', '.join(IMAGE_SUFFIXES)})")
    return images


@dataclasses.dataclass
class _Part:
    """Some files with their stamps, the embeddings of those that could be read (the first ones), and why not others."""

    files: list[tuple[str, str]]
    bad: list[tuple[str, str, str]]
    embeddings: np.ndarray

    def keep(self, images: Mapping[str, str], seen: set[str]) -> "_Part":
        """The files that are unchanged, and not in another part."""
        kept = [i for i, (path, stamp) in enumerate(self.files) if images.get(path) == stamp and path not in seen]
        bad = [entry for entry in self.bad if images.get(entry[0]) == entry[1] and entry[0] not in seen]
        return _Part([self.files[i] for i in kept], bad, self.embeddings[kept])

    def __len__(self) -> int:
        return len(self.files) + len(self.bad)


class Index:
    """The embeddings of a folder's images.

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

    def update(self, images: Mapping[str, str], embed: Embed) -> tuple[int, int]:
        """Drops images that are gone or have changed and embeds new ones; returns how many entries of each.

        Args:
          images: as `list_images` gives them.
          embed: embeds the new ones by their paths.
        """
        dropped, seen = 0, set()
        for number, part in list(self.parts.items()):
            kept = part.keep(images, seen)
            dropped += len(part) - len(kept)
            seen |= {path for path, *_ in [*kept.files, *kept.bad]}
            if len(kept) < len(part):
                self._write(number, kept)
        new = [path for path in images if path not in seen]
        for start in range(0, len(new), _PART):
            paths = new[start : start + _PART]
            embeddings, readable, reasons = embed(paths)
            files = [(paths[i], images[paths[i]]) for i in readable]
            bad = [(paths[i], images[paths[i]], why) for i, why in reasons.items()]
            self._write(max(self.parts, default=-1) + 1, _Part(files, bad, np.asarray(embeddings, np.float32)))
        self._merge_small()
        return dropped, len(new)

    def gallery(self) -> tuple[list[str], np.ndarray]:
        """All readable images' paths, sorted, and their embeddings, float32 [N, E]."""
        parts = [part for part in self.parts.values() if part.files]
        if not parts:
            return [], np.empty((0, 0), np.float32)
        paths = [path for part in parts for path, _ in part.files]
        order = sorted(range(len(paths)), key=paths.__getitem__)
        return [paths[i] for i in order], np.concatenate([part.embeddings for part in parts])[order]

    def unreadable(self) -> dict[str, str]:
        """Why images could not be read, by path."""
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
            with np.load(io.BytesIO(self._path(number).read_bytes()), allow_pickle=False) as stored:
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
