"""The tar format: members, and the examples that consecutive members make.

Headers are read as `tarfile` reads them (ustar, GNU's long names, pax, sizes in base 256), several times as fast, and
from anything that gives bytes by offset.
"""

import collections
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

BLOCK = 512
_ZEROS = bytes(BLOCK)
_FILE, _NO_DATA = b"0\x007", b"123456"  # types of members: data follows, or never does whatever the size says
_LONG_NAME, _LONG_LINK, _PAX, _SPARSE = b"L", b"K", b"xX", b"S"
_LONGEST_EXTENSION = 1 << 20  # bytes of a long name or a pax header
_PADDING, _TAIL = 1 << 16, 64 << 20  # bytes read at a time, and in all, to see that only zeros follow an end mark
_KEY_SETS = 1000  # counted in one shard; others are counted together
_KEY = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)  # webdataset's
_META = re.compile(r"__[^/]*__(?:$|/)")  # names that webdataset skips
_PAX_RECORD = re.compile(rb"(\d{1,20}) ([^=]+)=")

Read = Callable[[int, int], bytes]


class TarError(Exception):
    """A tar that cannot be read on.

    Attributes:
      reason: `cut` where it ends within a member, `read` where a header is damaged.
      offset: byte of the tar.
      name: of the member that is cut off, "" where it is not known.
    """

    def __init__(self, reason: str, offset: int, message: str, name: str = ""):
        super().__init__(reason, offset, message, name)
        self.reason = reason
        self.offset = offset
        self.message = message
        self.name = name

    def __str__(self) -> str:
        return self.message


class Member(NamedTuple):
    """A regular file in a tar: its name, where its headers start, where its data starts, and its size in bytes."""

    name: str
    start: int
    data: int
    size: int


def read_members(read: Read, total: int) -> Iterator[Member]:
    """Yields the regular files of a tar that are there to their last byte.

    Args:
      read: (offset, length) -> bytes.
      total: size of the tar in bytes.

    Raises:
      TarError: where the tar breaks off or makes no sense, after the members before.
    """
    offset = start = 0
    name: str | None = None
    pax: dict[bytes, bytes] = {}
    while offset < total:
        header = read(offset, BLOCK)
        if len(header) < BLOCK:
            raise TarError("cut", offset, f"cut off at byte {total}, in a header")
        if header == _ZEROS:  # the end mark
            return
        kind = header[156:157]
        size = _parse_header(header, offset)
        data = offset + BLOCK
        if kind in _PAX or kind in (_LONG_NAME, _LONG_LINK, b"g"):
            if size > _LONGEST_EXTENSION:
                raise TarError("read", offset, f"damaged header at byte {offset}")
            text = read(data, size) if size else b""
            if len(text) < size:
                raise TarError("cut", offset, f"cut off at byte {total}, in a header")
            if kind == _LONG_NAME:
                name = _text(text)
            elif kind in _PAX:
                pax |= _parse_pax(text, offset)
            offset = _padded(data + size)
            continue
        if pax and b"size" in pax:
            size = _decimal(pax[b"size"], offset)
        sparse = kind == _SPARSE or (pax and any(key.startswith(b"GNU.sparse") for key in pax))
        while kind == _SPARSE and header[482 if data == offset + BLOCK else 504]:  # more of a sparse file's map follows
            header = read(data, BLOCK)
            data += BLOCK
            if len(header) < BLOCK:
                raise TarError("cut", offset, f"cut off at byte {total}, in a header")
        if pax and b"path" in pax:
            name = pax[b"path"].decode("utf-8", "surrogateescape")
        elif name is None:
            name = _text(header[:100])
            if header[257:263] == b"ustar\x00" and header[345]:
                name = f"{_text(header[345:500])}/{name}"
        if kind in _NO_DATA or (kind == b"\x00" and name.endswith("/")):
            offset = data
        else:
            if data + size > total:
                raise TarError("cut", offset, f"cut off at byte {total}, in {name!r}", name)
            if kind in _FILE and not sparse:
                yield Member(name, start, data, size)
            offset = _padded(data + size)
        start, name = offset, None
        if pax:
            pax = {}


def split_name(name: str) -> tuple[str, str] | None:
    """Splits a member's name into key and ending (in lower case) at the first dot of its base name, as webdataset does.

    None for names without a dot or with nothing before it (webdataset takes the latter for examples of their own, such
    as macOS's ._00001.jpg beside 00001.jpg), and for those in a folder in double underscores.
    """
    match = _KEY.fullmatch(name)
    if match is None or match[1].endswith("/") or _META.match(name):
        return None
    return match[1], match[2].lower()


class Example(NamedTuple):
    """Consecutive members with the same key: where they start and end, and their endings in order."""

    key: str
    start: int
    end: int
    endings: tuple[str, ...]


def read_examples(read: Read, total: int) -> Iterator[Example]:
    """Yields the examples of a tar; one with a member that is cut off is left out.

    Raises:
      TarError: as `read_members` does.
    """
    key, start, end = None, 0, 0
    endings: list[str] = []
    stopped = None
    try:
        for member in read_members(read, total):
            split = split_name(member.name)
            if split is None:
                continue
            if split[0] != key:
                if key is not None:
                    yield Example(key, start, end, tuple(endings))
                key, start, endings = split[0], member.start, []
            endings.append(split[1])
            end = member.data + member.size
    except TarError as error:
        stopped = error
    cut = split_name(stopped.name) if stopped else None
    if key is not None and (cut is None or cut[0] != key):
        yield Example(key, start, end, tuple(endings))
    if stopped:
        raise stopped


class ShardTable(NamedTuple):
    """The examples of one shard.

    Attributes:
      rows: uint32 [N, 2], first block of 512 bytes and number of blocks of each.
      key_sets: how many examples have which endings; the endings are sorted and joined by ";".
      problem: what is wrong with the shard, "" when nothing is.
    """

    rows: np.ndarray
    key_sets: dict[str, int]
    problem: str


def scan(read: Read, total: int, *, chunk: int) -> ShardTable:
    """Finds the examples of a tar.

    Args:
      read: (offset, length) -> bytes.
      total: size of the tar in bytes.
      chunk: bytes read at a time; headers that lie close together are read at once.
    """
    rows: list[tuple[int, int]] = []
    counts: collections.Counter[tuple[str, ...]] = collections.Counter()
    problem = "" if total else "empty"
    window = _Window(read, chunk)
    try:
        for example in read_examples(window.read, total):
            rows.append((example.start // BLOCK, _padded(example.end) // BLOCK - example.start // BLOCK))
            counts[example.endings if example.endings in counts or len(counts) < _KEY_SETS else ("...",)] += 1
        if rows and window.last != _ZEROS:
            problem = f"ends at byte {total} without an end mark; it may be cut off"
        elif rows and (position := _behind_end_mark(window, total)) is not None:
            problem = f"goes on at byte {position} after its end mark, and what is there is not read"
    except TarError as error:
        problem = str(error) if error.offset else _describe_non_tar(window.read(0, BLOCK), str(error))
    if not rows and not problem:
        problem = "no examples"
    key_sets: collections.Counter[str] = collections.Counter()
    for endings, count in counts.items():
        key_sets[";".join(sorted(set(endings)))] += count
    table = np.array(rows, np.uint64).reshape(-1, 2)
    if table.size and table.max() > np.iinfo(np.uint32).max:
        return ShardTable(np.zeros((0, 2), np.uint32), {}, "larger than 2 TiB")
    return ShardTable(table.astype(np.uint32), dict(key_sets), problem)


def _behind_end_mark(window: "_Window", total: int) -> int | None:
    """Where something else than zeros stands behind the end mark that was read last, as in joined tars."""
    offset, end = window.end, min(total, window.end + _TAIL)
    while offset < end:
        data = window.read(offset, min(_PADDING, end - offset))
        if data.strip(b"\0"):
            return offset + len(data) - len(data.lstrip(b"\0"))
        if not data:
            return None
        offset += len(data)
    return None


class _Window:
    """A buffer for reads that move forward."""

    def __init__(self, read: Read, chunk: int):
        self.source, self.chunk = read, chunk
        self.first, self.data, self.last, self.end = 0, b"", b"", 0

    def read(self, offset: int, length: int) -> bytes:
        self.end = offset + length
        begin = offset - self.first
        if not 0 <= begin <= len(self.data) - length:
            self.first, self.data, begin = offset, self.source(offset, max(length, self.chunk)), 0
        self.last = self.data[begin : begin + length]
        return self.last


def _parse_header(header: bytes, offset: int) -> int:
    """Checks a header; returns the size in it."""
    try:
        if header[154] or header[135] or header[124] & 0xF8 != 0x30:  # unlike nearly all programs write them
            raise ValueError
        checksum, size = int(header[148:154], 8), int(header[124:135], 8)
    except ValueError:
        checksum, size = _checksum_and_size(header, offset)
    # The sum of the bytes, the checksum's own counted as spaces. Adler-32's low half is that sum, modulo 65521.
    expected = checksum - 255 + sum(header[148:156])
    is_valid = (zlib.adler32(header) & 0xFFFF) == expected % 65521 or _signed_sum(header) == checksum
    if not (is_valid and 0 <= size < 1 << 60):
        raise TarError("read", offset, f"damaged header at byte {offset}")
    return size


def _checksum_and_size(header: bytes, offset: int) -> tuple[int, int]:
    """Checksum and size in a header, in any notation."""
    try:
        return _number(header[148:156]), _number(header[124:136])
    except ValueError:
        raise TarError("read", offset, f"damaged header at byte {offset}") from None


def _signed_sum(header: bytes) -> int:
    """The checksum of some old programs, which add signed bytes."""
    return sum(struct.unpack("512b", header)) - sum(struct.unpack("8b", header[148:156])) + 8 * ord(" ")


def _number(field: bytes) -> int:
    """Octal, or base 256 where the highest bit is set."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    if field[0] == 0xFF:
        return int.from_bytes(field, "big", signed=True)
    return int(field.partition(b"\x00")[0].strip() or b"0", 8)


def _decimal(text: bytes, offset: int) -> int:
    if not text.isdigit() or len(text) > 18:
        raise TarError("read", offset, f"damaged header at byte {offset}")
    return int(text)


def _parse_pax(text: bytes, offset: int) -> dict[bytes, bytes]:
    records, position = {}, 0
    while position < len(text) and text[position]:
        match = _PAX_RECORD.match(text, position)
        end = position + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(text) or text[end - 1] != ord("\n"):
            raise TarError("read", offset, f"damaged pax header at byte {offset}")
        records[match[2]] = text[match.end() : end - 1]
        position = end
    return records


def _text(field: bytes) -> str:
    return field.partition(b"\x00")[0].decode("utf-8", "surrogateescape")


def _padded(offset: int) -> int:
    return (offset + BLOCK - 1) & -BLOCK


def _describe_non_tar(beginning: bytes, message: str) -> str:
    """The problem of a file whose first header cannot be read."""
    if beginning[:2] == b"\x1f\x8b":
        return "compressed with gzip; decompress it"
    return "not a tar" if message.startswith("damaged") or len(beginning) < BLOCK else message
