"""A reader of tf.train.Example protos, without TensorFlow and compiled protos.

Wire format: https://protobuf.dev/programming-guides/encoding. The messages are
`Example {Features features = 1}`, `Features {map<string, Feature> feature = 1}`,
`Feature {oneof {BytesList = 1, FloatList = 2, Int64List = 3}}`, each list with `repeated value = 1`.
"""

from collections.abc import Iterator

import numpy as np

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5

Feature = list[bytes] | list[int] | np.ndarray


def parse_example(data: bytes) -> dict[str, Feature]:
    """Reads a serialized tf.train.Example.

    Returns:
      Values by feature: a list of bytes, a list of ints, or float32 [N]; an empty list where a feature has no values.

    Raises:
      ValueError: on bytes that are no such proto.
    """
    features: dict[str, Feature] = {}
    for number, content in _messages(memoryview(data)):  # no copies of images on the way down
        if number == 1:
            for inner, entry in _messages(content):
                if inner == 1:
                    key, value = _entry(entry)
                    features[key] = value  # of equal keys the last one counts
    return features


def _entry(data: memoryview) -> tuple[str, Feature]:
    key, value = "", []
    for number, content in _messages(data):
        if number == 1:
            try:
                key = str(content, "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError("a feature's name is not UTF-8") from error
        elif number == 2:
            value = _feature(content)
    return key, value


def _feature(data: memoryview) -> Feature:
    kind, value = 0, []
    for number, content in _messages(data):
        if number not in (1, 2, 3):
            continue
        read = (_bytes_list, _float_list, _int64_list)[number - 1](content)
        if kind == number:  # the parts of a message that comes in parts are joined
            value = np.concatenate([value, read]) if number == 2 else value + read
        else:
            kind, value = number, read
    return value


def _bytes_list(data: memoryview) -> list[bytes]:
    return [bytes(content) for number, content in _messages(data) if number == 1]


def _float_list(data: memoryview) -> np.ndarray:
    parts = []
    for number, wire, content in _fields(data):
        if number != 1:
            continue
        if wire not in (_LENGTH, _FIXED32) or len(content) % 4:
            raise ValueError("a list of floats is damaged")
        parts.append(content)
    return np.frombuffer(b"".join(parts), "<f4")


def _int64_list(data: memoryview) -> list[int]:
    values = []
    for number, wire, content in _fields(data):
        if number != 1:
            continue
        if wire == _VARINT:
            values.append(content)
        elif wire == _LENGTH:
            offset = 0
            while offset < len(content):
                value, offset = _varint(content, offset)
                values.append(value)
        else:
            raise ValueError("a list of integers is damaged")
    return [value - (1 << 64) if value >> 63 else value for value in values]


def _messages(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yields (number, content) of a message whose known fields are strings, bytes and messages."""
    for number, wire, content in _fields(data):
        if wire == _LENGTH:
            yield number, content
        elif number in (1, 2, 3):
            raise ValueError(f"field {number} has wire type {wire}")


def _fields(data: memoryview) -> Iterator[tuple[int, int, memoryview | int]]:
    """Yields (number, wire type, content) of each field of a message."""
    offset, end = 0, len(data)
    while offset < end:
        tag, offset = _varint(data, offset)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("a field has number 0")
        if wire == _VARINT:
            content, offset = _varint(data, offset)
        else:
            if wire == _LENGTH:
                length, offset = _varint(data, offset)
            elif wire in (_FIXED64, _FIXED32):
                length = 8 if wire == _FIXED64 else 4
            else:
                raise ValueError(f"wire type {wire} is unknown")
            if offset + length > end:
                raise ValueError("it breaks off")
            content = data[offset : offset + length]
            offset += length
        yield number, wire, content


def _varint(data: memoryview, offset: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if offset >= len(data):
            raise ValueError("it breaks off")
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, offset
        shift += 7
        if shift >= 70:
            raise ValueError("a number has more than 64 bits")
