"""Containers of video and sound: opened from bytes with PyAV, within limits of size, format and codec."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

from mmjax.data.bad_example import BadExample
from mmjax.data.formats.media_bytes import VIDEO_FORMATS, check_complete, media_format
from mmjax.utils.optional_imports import require

# Larger frames are refused before they are decoded: 4096 x 2304, as the largest cinema 4K. A decoder keeps up to
# seventeen of them.
MAX_PIXELS = 4096 * 2304
# Larger files are not read.
MAX_BYTES = 512 << 20

# Formats of sounds alone that are opened here.
_SOUNDS = ("mp3", "flac")

# FFmpeg has hundreds of decoders; files of these codecs are what people have.
VIDEO_CODECS = (
    *("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "msmpeg4v2", "msmpeg4v3", "mpeg1video", "mpeg2video", "h263"),
    *("mjpeg", "gif", "png", "rawvideo", "ffv1"),
)
AUDIO_CODECS = (
    *("aac", "mp3", "mp2", "opus", "vorbis", "flac", "alac", "ac3", "eac3"),
    *("pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_u8"),
)


@contextlib.contextmanager
def open_container(data: bytes, *, kind: str, max_pixels: int = MAX_PIXELS) -> Iterator[tuple[Any, Any]]:
    """Opens a file for as long as it is decoded; whatever goes wrong in the block becomes a BadExample.

    One thread decodes: as many run as the loader has.

    Args:
      data: the file.
      kind: of the track that is wanted, `video` or `audio`; of several the first counts.
      max_pixels: larger frames are refused.

    Yields:
      PyAV's container, and its stream.

    Raises:
      BadExample: `empty`; `not_media` for a format or codec that is not read; `no_track`; `corrupt`; `too_large`.
      UserError: PyAV is not installed.
    """
    av = require("av", extra="video", where=f"{kind} files")
    check_complete(data)
    name = media_format(data)
    if name not in VIDEO_FORMATS and (kind != "audio" or name not in _SOUNDS):
        raise BadExample("not_media", f"{len(data)} bytes of no {kind} format that is read here")
    if len(data) > MAX_BYTES:
        raise BadExample("too_large", f"{len(data)} bytes, the limit is {MAX_BYTES}")
    # The demuxer decodes a few frames itself to know what is in the file: the limit is for these, too.
    options = {"max_pixels": str(max_pixels), "threads": "1"}
    try:
        with av.open(io.BytesIO(data), format=name, options=options) as container:
            stream = _stream(container, kind, max_pixels)
            stream.codec_context.thread_count = 1
            if kind == "video":  # what the header says need not be the size of the frames
                stream.codec_context.options = {"max_pixels": str(max_pixels)}
            yield container, stream
    except BadExample:
        raise
    except Exception as error:  # FFmpeg's errors, and PyAV's about what it cannot represent
        raise BadExample("corrupt", f"{type(error).__name__}: {error}") from error


def _stream(container: Any, kind: str, max_pixels: int) -> Any:
    """The first track of a kind that is no cover picture.

    Raises:
      BadExample: as `open_container` does.
    """
    streams = [stream for stream in container.streams if stream.type == kind]
    cover = type(streams[0].disposition).attached_pic if streams else 0
    streams = [stream for stream in streams if not stream.disposition & cover]
    if not streams:
        raise BadExample("no_track", f"the file has no {kind} track")
    context = streams[0].codec_context
    codec = context.codec.canonical_name if context is not None else "unknown"
    if context is None or codec not in (VIDEO_CODECS if kind == "video" else AUDIO_CODECS):
        raise BadExample("not_media", f"{kind} in the codec {codec}, which is not read here")
    if kind == "video" and context.width * context.height > max_pixels:
        raise BadExample("too_large", f"{context.width} x {context.height} pixels, the limit is {max_pixels}")
    return streams[0]
