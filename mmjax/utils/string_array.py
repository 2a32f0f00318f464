"""Arrays of many short texts, without an object for each."""

import operator
from array import array
from collections.abc import Iterable
from typing import Any, SupportsIndex

import numpy as np


class StringArray:
    """Immutable sequence of texts: UTF-8 in one buffer, and where each ends. Quick to pickle, small in memory.

    Args:
      texts: read once, one after the other.
    """

    def __init__(self, texts: Iterable[str] = ()):
        builder = StringArrayBuilder()
        builder.extend(texts)
        self._buffer, self._ends = builder.buffers()

    @classmethod
    def of(cls, builder: "StringArrayBuilder") -> "StringArray":
        """The array of a builder's texts; the builder is empty then."""
        texts = cls.__new__(cls)
        texts._buffer, texts._ends = builder.buffers()
        return texts

    @classmethod
    def of_buffers(cls, buffer: Any, ends: Any) -> "StringArray":
        """The array of what `buffers` gives, or of arrays elsewhere that are sliced and indexed as these are."""
        texts = cls.__new__(cls)
        texts._buffer, texts._ends = buffer, ends
        return texts

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: SupportsIndex) -> str:
        number = operator.index(index)
        start = int(self._ends[number - 1]) if number else 0
        return bytes(self._buffer[start : int(self._ends[number])]).decode("utf-8", "surrogatepass")

    def buffers(self) -> tuple[np.ndarray, np.ndarray]:
        """The bytes of all texts, uint8, and int64 [N] where each ends."""
        return np.frombuffer(self._buffer, np.uint8), self._ends

    @property
    def length(self) -> int:
        """Bytes of all texts, without where they end."""
        return len(self._buffer)

    @property
    def nbytes(self) -> int:
        """Memory of all texts, in bytes."""
        return len(self._buffer) + self._ends.nbytes


class StringArrayBuilder:
    """Gathers texts."""

    def __init__(self):
        self._buffer = bytearray()
        self._lengths = array("q")

    def extend(self, texts: Iterable[str]) -> None:
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]  # JSON may hold halves of pairs
        self._buffer += b"".join(encoded)
        self._lengths.extend(map(len, encoded))

    def buffers(self) -> tuple[bytes, np.ndarray]:
        """Returns the bytes, and int64 [N] where each text ends; the builder is empty then."""
        buffer, ends = bytes(self._buffer), np.cumsum(np.array(self._lengths, np.int64))
        self.__init__()
        return buffer, ends
