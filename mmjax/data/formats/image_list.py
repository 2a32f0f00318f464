"""Lists of image files with captions."""

from mmjax.data.image.image_file import read_image
from mmjax.data.record import Record, check_index, stable_id
from mmjax.io.reader import Reader


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
        return Record(image=read_image(self._reader, path), captions=captions, id=self._id(index, path), path=path)

    def _id(self, index: int, path: str) -> int:
        """Images of the same path are positives of one another."""
        return stable_id("image", path)
