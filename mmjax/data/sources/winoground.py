"""Winoground (Thrush et al. 2022): two images and two captions of the same words, to be matched."""

import json
import posixpath
from typing import Any

from mmjax.data.formats.image_list import ImageList
from mmjax.data.formats.json_fields import json_fault
from mmjax.data.record import stable_id
from mmjax.data.source_protocols import DEFAULT_OPTIONS, SourceOptions
from mmjax.data.sources.karpathy import beside, locate_images
from mmjax.errors import UserError
from mmjax.io.reader import Reader

_FIELDS = ("image_0", "image_1", "caption_0", "caption_1")
_FOLDERS = ("", "images", "../images")
_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


class Winoground(ImageList):
    """Both images of every example, one after the other, for the task `image_caption_selection`, not for training.

    The captions of an image are its own, then the other one's. The file is `examples.jsonl` of Hugging Face's
    facebook/winoground (its `images.zip` unpacked): lines of {"image_0", "image_1", "caption_0", "caption_1"}; names of
    images without an ending are of .png files.

    Args:
      path: `FILE.jsonl`, with `,images=DIR` where the images are not beside it, or in `images` beside it or its folder.
      options: how to read it.
      field: config field to name in errors.

    Attributes:
      images_per_example: 2; consecutive images that make an example.
      has_hard_negatives: true.

    Raises:
      UserError: on a file that is missing or is not of this form, or images that are not there.
    """

    images_per_example = 2
    has_hard_negatives = True

    def __init__(self, path: str, *, options: SourceOptions = DEFAULT_OPTIONS, field: str = "data.eval"):
        where = f"{field}='winoground:{path}'"
        file, comma, root = path.partition(",images=")
        if comma and not root:
            raise UserError(f"{where}: images= names no folder; write winoground:FILE.jsonl,images=DIR")
        name = posixpath.basename(file).removesuffix(".jsonl")
        self.name = "winoground" if name == "examples" else name
        self._reader = Reader(options.retry_seconds)
        names: list[str] = []
        self._captions: list[tuple[str, str]] = []
        for number, entry in enumerate(_read(self._reader, file, where)):
            missing = [key for key in _FIELDS if not isinstance(entry.get(key), str) or not entry[key].strip()]
            if missing:
                raise UserError(f"{where}: example {number} lacks {missing[0]!r}; each needs {', '.join(_FIELDS)}")
            images, captions = ([entry[f"{kind}_{i}"].strip() for i in (0, 1)] for kind in ("image", "caption"))
            names += [name if name.lower().endswith(_ENDINGS) else f"{name}.png" for name in images]
            self._captions += [(captions[0], captions[1]), (captions[1], captions[0])]
        if not names:
            raise UserError(f"{where}: the file has no examples; give Winoground's examples.jsonl")
        roots = [root] if comma else [beside(file, name) for name in _FOLDERS]
        self._files = locate_images(self._reader, names, roots, where, is_named=bool(comma))

    def _id(self, index: int, path: str) -> int:
        # The captions of one image are not positives of one another here.
        return stable_id("winoground", self.name, index)


def _read(reader: Reader, file: str, where: str) -> list[dict[str, Any]]:
    try:
        text = reader.read(file).decode("utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{where}: there is no file {file}; give the path of one that exists") from error
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{where}: {file} cannot be read ({' '.join(str(error).split())})") from error
    entries = []
    # Not splitlines(): a caption may hold what Unicode calls the end of a line.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{where}: line {number} is no JSON ({json_fault(error)}); give a file of one object a line"
            ) from error
        if not isinstance(entry, dict):
            raise UserError(f"{where}: line {number} is no JSON object; each needs {', '.join(_FIELDS)}")
        entries.append(entry)
    return entries
