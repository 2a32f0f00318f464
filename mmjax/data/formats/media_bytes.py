"""Formats of video and audio files: told from their first bytes, and whether a file is as long as its header says."""

from mmjax.data.bad_example import BadExample

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".gif")
AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aiff", ".aif", ".m4a")

# Formats in which frames are looked for, by the name of FFmpeg's reader. Others (playlists that open further files,
# streams without a header) are not tried.
VIDEO_FORMATS = ("mov", "matroska", "avi", "gif")
# Formats that soundfile reads here, by our name.
AUDIO_FORMATS = ("wav", "flac", "ogg", "mp3", "aiff")

_MOV_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
_SEGMENT = 0x18538067  # Matroska's element that holds all but the header
_UNKNOWN_SIZE = 0x7FFF0000  # RIFF sizes from here on are what writers to a pipe leave


def media_format(data: bytes) -> str:
    """The format of a file, one of VIDEO_FORMATS or AUDIO_FORMATS; "" for any other."""
    if data[4:8] in _MOV_BOXES:
        return "mov"
    if data[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    if data[:4] in (b"RIFF", b"RF64", b"RIFX"):
        return {b"AVI ": "avi", b"WAVE": "wav"}.get(data[8:12], "")
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if data[:4] == b"fLaC":
        return "flac"
    if data[:4] == b"OggS":
        return "ogg"
    if data[:4] == b"FORM" and data[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    # The marker of an MPEG frame, of a layer and with a rate that exist.
    is_frame = len(data) > 3 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0 and data[1] & 6 and data[2] & 0xF0 != 0xF0
    return "mp3" if data[:3] == b"ID3" or is_frame else ""


def says_length(data: bytes) -> bool:
    """Whether a sound says how long it is: an MP3 need not, nor a FLAC file that was written to a pipe."""
    name = media_format(data)
    if name == "flac":  # 36 bits in its first block
        return int.from_bytes(data[21:26], "big") & ((1 << 36) - 1) > 0
    if name != "mp3":
        return True
    start = 0
    if data[:3] == b"ID3":  # seven bits of its length are in each of four bytes
        start = 10 + sum(byte << 7 * digit for digit, byte in enumerate(reversed(data[6:10])))
    head = data[start : start + 4096]
    return any(mark in head for mark in (b"Xing", b"Info", b"VBRI"))


def check_complete(data: bytes) -> None:
    """Refuses a file that ends before its header says that it does; readers would take what is left for all.

    Raises:
      BadExample: `empty` for no bytes, `corrupt` for a file that breaks off.
    """
    if not data:
        raise BadExample("empty", "a file of zero bytes")
    declared = {
        "mov": _mov_length,
        "matroska": _matroska_length,
        "avi": _riff_length,
        "gif": _gif_length,
        "wav": _riff_length,
        "aiff": _riff_length,
        "ogg": _ogg_length,
    }.get(media_format(data), len)(data)
    if declared > len(data):
        raise BadExample("corrupt", f"the file breaks off after {len(data)} of {declared} bytes")


def _mov_length(data: bytes) -> int:
    """Where the last of an MP4's boxes ends."""
    position = 0
    while position + 8 <= len(data):
        size, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        if size == 1:
            size = int.from_bytes(data[position + 8 : position + 16], "big")
        if size < 8 or not kind.isalnum():  # 0: up to the end; what else stands there is no box
            return len(data)
        position += size
    return position


def _matroska_length(data: bytes) -> int:
    """Where the segment of a Matroska or WebM file ends; what is written to a pipe does not say."""
    position = 4
    length, width = _matroska_size(data, position)
    position += width + length
    if int.from_bytes(data[position : position + 4], "big") != _SEGMENT:
        return len(data)
    length, width = _matroska_size(data, position + 4)
    return len(data) if length == (1 << 7 * width) - 1 else position + 4 + width + length


def _matroska_size(data: bytes, position: int) -> tuple[int, int]:
    """A number of variable length, and the bytes that it takes."""
    first = data[position] if position < len(data) else 0x80
    width = 9 - first.bit_length() if first else 8
    return int.from_bytes(data[position : position + width], "big") & ((1 << 7 * width) - 1), width


def _riff_length(data: bytes) -> int:
    """The length that a RIFF or AIFF file has by its header.

    Eight bytes may be missing: some writers count the head, too, or leave out the byte that pads an odd length.
    """
    size = int.from_bytes(data[4:8], "little" if data[:4] == b"RIFF" else "big")
    is_known = data[:4] != b"RF64" and 0 < size < _UNKNOWN_SIZE
    return 8 + size if is_known and size > len(data) else len(data)


def _gif_length(data: bytes) -> int:
    """Where the last block of a GIF ends; its trailer may be missing."""
    color_table = lambda flags: 3 << (flags & 7) + 1 if flags & 0x80 else 0
    position = 13 + color_table(data[10] if len(data) > 10 else 0)
    while position < len(data) and data[position] in (0x21, 0x2C):  # an extension, an image
        if data[position] == 0x21:
            position += 2
        else:
            position += 11 + color_table(data[position + 9] if position + 9 < len(data) else 0)
        while position < len(data) and data[position]:
            position += 1 + data[position]
        position += 1  # of length 0, which ends the block
    return position


def _ogg_length(data: bytes) -> int:
    """Where the last page of an Ogg file ends."""
    page = data.rfind(b"OggS")
    segments = data[page + 26] if page + 26 < len(data) else 0
    lengths = data[page + 27 : page + 27 + segments]
    return page + 27 + segments + sum(lengths)
