"""Noise images with captions, to measure the speed of training without its data."""

import numpy as np
from jaxtyping import UInt8

from mmjax.data.loading.order import hash64
from mmjax.data.record import Record, check_index
from mmjax.data.source_protocols import DEFAULT_OPTIONS, SourceOptions
from mmjax.errors import UserError

_POOL = 16  # images
_DEFAULT_LENGTH = 1_000_000
_MAX_EVALUATED = 1_000_000  # an evaluation reads them all, and would not end
_MAX_TRAINED = 1_000_000_000_000
_COLORS = ("red", "green", "blue", "yellow", "black", "white", "orange", "grey")
_THINGS = ("dog", "house", "tree", "car", "boat", "cup", "chair", "bird")
_PLACES = ("in the snow", "on a table", "by the sea", "at night", "in a field", "on the street", "in a box", "up close")


class Synthetic:
    """Noise images with made-up captions, the same ones every time.

    Image i is image i % 16 of a pool, shifted in brightness by a number that i stands for; its caption is one of
    512. Nothing can be learnt from them.

    Args:
      path: number of examples; one million where it is empty.
      options: `image_size` is the side of the images, in pixels.
      field: config field to name in errors.

    Raises:
      UserError: when the number is not one, is below 1, or above a million outside training.
    """

    name = "synthetic"
    class_names = None
    templates = None

    def __init__(self, path: str = "", *, options: SourceOptions = DEFAULT_OPTIONS, field: str = "data.train"):
        try:
            self._length = int(path) if path else _DEFAULT_LENGTH
        except ValueError:
            self._length = 0
        if self._length < 1:
            raise UserError(f"{field}='synthetic/{path}': {path!r} is no number of examples; write synthetic/1000")
        most = _MAX_TRAINED if field == "data.train" else _MAX_EVALUATED
        if self._length > most:
            raise UserError(f"{field}='synthetic/{path}' is more than {most:,} examples; write synthetic/1000")
        self._size = options.image_size
        self._pool = _pool(self._size)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Record:
        index = check_index(index, self._length)
        draw = hash64(index)
        words = _COLORS[draw % 8], _THINGS[draw // 8 % 8], _PLACES[draw // 64 % 8]
        return Record(
            image=self._pool[index % _POOL] + np.uint8(draw >> 56),  # uint8 wraps around
            captions=[f"a {words[0]} {words[1]} {words[2]}"],
            id=index,
        )

    def __getstate__(self) -> tuple[int, int]:
        return self._length, self._size

    def __setstate__(self, state: tuple[int, int]) -> None:
        self._length, self._size = state
        self._pool = _pool(self._size)


def _pool(size: int) -> UInt8[np.ndarray, "pool size size 3"]:
    return np.random.default_rng(0).integers(0, 256, (_POOL, size, size, 3), np.uint8)
