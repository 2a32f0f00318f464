"""Frames of a video file: how many there are, when each is shown, and their pixels by index.

Headers are not believed. Where a container lists one packet a frame the packets are counted, and decoding begins at the
key frame before the first frame that is wanted; of other files all frames are decoded to count them. Either way frame i
is the i-th that decoding from start to end gives.
"""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, UInt8

from mmjax.data.bad_example import BadExample
from mmjax.data.video.container import MAX_PIXELS, open_container

MAX_FRAMES = 1 << 18  # of a file: 2.4 hours at 30 a second
MAX_DECODED = 1 << 35  # pixels of all frames that are decoded for an example: nine minutes of 1920 x 1080

# Codecs in which each packet gives one frame, and containers that mark key frames. VP8 has packets that are not shown,
# and AVI marks what is none.
_ONE_FRAME_A_PACKET = ("h264", "hevc", "vp9", "av1")
_MARKED = ("mov", "matroska")

# EXIF orientations by the degrees by which a picture is to be turned, counter-clockwise.
_ORIENTATIONS = {0: 1, 90: 8, 180: 3, 270: 6}


class Frame(NamedTuple):
    """A decoded frame.

    Attributes:
      pixels: RGB as the file stores it.
      orientation: what makes it upright, as an EXIF orientation: 1, 3, 6 or 8.
    """

    pixels: UInt8[np.ndarray, "H W 3"]
    orientation: int


class FrameReader:
    """An open video, see `open_video`.

    Attributes:
      times: when each frame is shown, in seconds from the start of the file, ascending.
      end: when the last one ends.
    """

    times: Float64[np.ndarray, " N"]
    end: float

    def __init__(self, container: Any, stream: Any):
        self._stream, self._context = stream, stream.codec_context
        self._packets = _read_packets(container, stream)
        self._indexed = any(name in container.format.name for name in _MARKED) and self._has_one_frame_a_packet()
        if self._indexed:
            stamps = sorted(packet.pts for packet in self._packets)
        else:
            self._check_work(len(self._packets))
            stamps = [frame.pts for frame in self._decode(0, len(self._packets))]
        if not stamps:
            raise BadExample("empty", "a video without frames")
        self._indices = {stamp: index for index, stamp in enumerate(stamps)}
        self._numbers = {self._indices.get(packet.pts, -1): number for number, packet in enumerate(self._packets)}
        self.times = self._to_seconds(stamps, container.start_time)
        gaps = np.diff(self.times)
        self.end = float(self.times[-1] + (np.median(gaps) if len(gaps) else 1 / self._rate()))

    def __len__(self) -> int:
        return len(self.times)

    def read(self, indices: Sequence[int]) -> Iterator[Frame]:
        """Decodes frames.

        Args:
          indices: which, in ascending order; one may come several times.

        Raises:
          BadExample: `corrupt` where one cannot be decoded; `too_large` where that takes too much work.
        """
        remaining = list(indices)
        ranges = self._packet_ranges(remaining) if self._indexed else [(0, len(self._packets))]
        self._check_work(sum(stop - start for start, stop in ranges) if self._indexed else remaining[-1] + 1)
        for start, stop in ranges:
            after = [index for index in remaining if not self._is_inside(index, stop)]
            # From what is marked as a key frame not all can be decoded where pictures are refreshed part by part.
            for first in dict.fromkeys((start, 0)):
                for index, decoded in self._decode_numbered(first, stop):
                    frame = _to_frame(decoded) if index == remaining[0] else None
                    while frame is not None and len(remaining) > len(after) and index == remaining[0]:
                        remaining.pop(0)
                        yield frame
                    if len(remaining) == len(after):
                        break
                if len(remaining) == len(after):
                    break
                self._check_work(stop)
            else:
                raise BadExample("corrupt", f"frame {remaining[0]} of {len(self)} cannot be decoded")

    def _is_inside(self, index: int, stop: int) -> bool:
        """Whether the packet of a frame is among the first ones."""
        return not self._indexed or self._numbers[index] < stop

    def _decode_numbered(self, start: int, stop: int) -> Iterator[tuple[int, Any]]:
        """PyAV's frames of a range of packets with their indices, in order."""
        frames = self._decode(start, stop)
        if not self._indexed:
            return enumerate(frames)
        return ((self._indices.get(frame.pts, -1), frame) for frame in frames)

    def _packet_ranges(self, indices: list[int]) -> list[tuple[int, int]]:
        """Ranges of packets to decode for frames of these indices, each from a key frame on."""
        keys = [number for number, packet in enumerate(self._packets) if packet.is_keyframe]
        # What is shown from a key frame on needs nothing before it; what is decoded after it but shown before it does.
        key_indices = [self._indices[self._packets[number].pts] for number in keys]
        ranges: list[tuple[int, int]] = []
        for index in indices:
            start = max(number for number, shown in zip(keys, key_indices, strict=True) if shown <= index)
            stop = self._numbers[index] + 1
            if ranges and start < ranges[-1][1]:
                start, stop = ranges[-1][0], max(stop, ranges.pop()[1])
            ranges.append((start, stop))
        return ranges

    def _decode(self, start: int, stop: int) -> Iterator[Any]:
        """PyAV's frames of a range of packets, in the order in which they are shown."""
        self._context.flush_buffers()
        size = None
        for packet in itertools.chain(self._packets[start:stop], [None]):
            for frame in self._context.decode(packet):
                size = size or (frame.width, frame.height)
                if frame.is_corrupt:
                    raise BadExample("corrupt", "a frame is damaged")
                if size != (frame.width, frame.height):
                    raise BadExample("corrupt", f"frames of {size} and {(frame.width, frame.height)} pixels")
                yield frame

    def _has_one_frame_a_packet(self) -> bool:
        """Whether the packets alone say how many frames there are and when each is shown."""
        stamps = [packet.pts for packet in self._packets]
        return (
            self._context.codec.canonical_name in _ONE_FRAME_A_PACKET
            and len(stamps) > 0
            and None not in stamps
            and len(set(stamps)) == len(stamps)
            and self._packets[0].is_keyframe
            and stamps[0] == min(stamps)
            and not any(packet.is_discard for packet in self._packets)
        )

    def _check_work(self, frames: int) -> None:
        pixels = frames * self._context.width * self._context.height
        if pixels > MAX_DECODED:
            raise BadExample(
                "too_large",
                f"{frames} frames of {self._context.width} x {self._context.height} to decode; cut the video",
            )

    def _rate(self) -> Fraction:
        """Frames a second, as the file has it."""
        return self._stream.average_rate or self._stream.guessed_rate or Fraction(25)

    def _to_seconds(self, stamps: list[Any], start: int | None) -> Float64[np.ndarray, " N"]:
        """Times of time stamps; where those are missing or contradict each other, frames are evenly spaced.

        Args:
          stamps: in units of the stream, or None.
          start: of the file, in microseconds.
        """
        if None in stamps or any(later <= earlier for earlier, later in itertools.pairwise(stamps)):
            return np.arange(len(stamps)) / float(self._rate())
        return np.array([float(stamp * self._stream.time_base) for stamp in stamps]) - (start or 0) / 1e6


@contextlib.contextmanager
def open_video(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Iterator[FrameReader]:
    """Opens a video for as long as the block lasts; whatever goes wrong in it becomes a BadExample.

    Args:
      data: the file.
      max_pixels: larger frames are refused.

    Raises:
      BadExample: `empty` for no bytes or no frames; `not_media` for other formats; `no_track` for a file without video;
        `corrupt` for a damaged or truncated one; `too_large` for frames, files or durations beyond the limits.
      UserError: PyAV is not installed.
    """
    with open_container(data, kind="video", max_pixels=max_pixels) as (container, stream):
        yield FrameReader(container, stream)


def _read_packets(container: Any, stream: Any) -> list[Any]:
    """All packets of a stream."""
    packets = []
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise BadExample("corrupt", "a packet is damaged")
        if packet.size:  # the last one is empty
            packets.append(packet)
        if len(packets) > MAX_FRAMES:
            raise BadExample("too_large", f"more than {MAX_FRAMES} frames; cut the video")
    return packets


def _to_frame(decoded: Any) -> Frame:
    """The pixels of PyAV's frame."""
    pixels = decoded.to_ndarray(format="rgb24", threads=1)
    return Frame(pixels, _ORIENTATIONS.get(decoded.rotation % 360, 1))
