"""SugarCrepe (Hsieh et al. 2023): images of COCO's val2017, each with its caption and a hard negative."""

import posixpath

from mmjax.data.formats.image_list import ImageList
from mmjax.data.formats.json_fields import text_field
from mmjax.data.record import stable_id
from mmjax.data.source_protocols import DEFAULT_OPTIONS, SourceOptions
from mmjax.data.sources.karpathy import beside, locate_images, read_json
from mmjax.errors import UserError
from mmjax.io.reader import Reader

_FIELDS = ("filename", "caption", "negative_caption")
_NEEDS = ", ".join(_FIELDS)
_FOLDERS = ("", "images", "val2017", "../val2017", "../images")


class SugarCrepe(ImageList):
    """Images with two captions, the right one first: for the task `image_caption_selection`, not for training.

    The file is one of the benchmark's, such as `replace_att.json`: {"0": {"filename", "caption", "negative_caption"}}.

    Args:
      path: `FILE.json`, with `,images=DIR` where the images are not beside it, in `images`, or in `val2017` beside it
        or its folder.
      options: how to read it.
      field: config field to name in errors.

    Attributes:
      has_hard_negatives: true.

    Raises:
      UserError: on a file that is missing or is not of this form, or images that are not there.
    """

    has_hard_negatives = True

    def __init__(self, path: str, *, options: SourceOptions = DEFAULT_OPTIONS, field: str = "data.eval"):
        where = f"{field}='sugarcrepe:{path}'"
        file, comma, root = path.partition(",images=")
        self.name = posixpath.basename(file).removesuffix(".json")
        self._reader = Reader(options.retry_seconds)
        content = read_json(self._reader, file, where)
        entries = list(content.values()) if isinstance(content, dict) else content
        names: list[str] = []
        self._captions: list[tuple[str, str]] = []
        for number, entry in enumerate(entries if isinstance(entries, list) else []):
            file_name, right, wrong = (
                text_field(entry, name, f"{where}: example {number}", _NEEDS) for name in _FIELDS
            )
            names.append(file_name)
            self._captions.append((right, wrong))
        if not names:
            raise UserError(f"{where}: the file has no examples; give one of SugarCrepe's")
        roots = [root] if comma else [beside(file, name) for name in _FOLDERS]
        self._files = locate_images(self._reader, names, roots, where, is_named=bool(comma))

    def _id(self, index: int, path: str) -> int:
        # The captions of one image are not positives of one another here.
        return stable_id("sugarcrepe", self.name, index)
