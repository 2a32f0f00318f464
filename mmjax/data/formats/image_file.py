"""Image files: their suffixes, their bytes, and lists of them with captions."""

from mmjax.data.bad_example import BadExample
from mmjax.data.record import Record, check_index, stable_id
from mmjax.io.patterns import error_reason
from mmjax.io.reader import Reader

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")


def read_image(reader: Reader, path: str) -> bytes:
    """Returns an image file's contents.

    Raises:
      OSError: it is not there, or cannot be read.
      BadExample: `read`, where the path is of a kind that nothing here can read.
    """
    try:
        return reader.read(path)
    except (ValueError, ImportError) as error:  # a scheme that is unknown, or whose package is missing
        raise BadExample("read", f"{path!r}: {error_reason(error)}") from error


class ImageList:
    """Images by path, each with captions; images are read on demand.

    A subclass sets `_reader`, `_files` and `_captions`.
    """

    class_names = None
    templates = None
    _reader: Reader
    _files: list[str]
    _captions: list

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Record:
        index = check_index(index, len(self))
        path = self._files[index]
        captions = list(self._captions[index])
        return Record(image=self._reader.read(path), captions=captions, id=self._id(index, path), path=path)

    def _id(self, index: int, path: str) -> int:
        """Images of the same path are positives of one another."""
        return stable_id("image", path)
