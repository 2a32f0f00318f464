"""Small video and audio files, made with PyAV and soundfile."""

import io
import struct
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
import soundfile

# (container, codec, options) of what is written here.
CODECS = {
    "h264.mp4": ("mp4", "libx264", {"g": "8"}),
    "open-gop.mp4": ("mp4", "libx264", {"x264-params": "open-gop=1:keyint=8:bframes=3"}),
    "refreshed.mp4": ("mp4", "libx264", {"x264-params": "intra-refresh=1:keyint=8:bframes=0"}),
    "hevc.mp4": ("mp4", "libx265", {"x265-params": "keyint=8:min-keyint=8:open-gop=1:bframes=3:log-level=none"}),
    "mpeg4.mp4": ("mp4", "mpeg4", {}),
    "vp9.webm": ("webm", "libvpx-vp9", {"g": "8", "cpu-used": "8"}),
    "hidden-vp8.webm": ("webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "12", "g": "16"}),
    "h264.mkv": ("matroska", "libx264", {"g": "8"}),
    "mpeg4.avi": ("avi", "mpeg4", {"bf": "2", "g": "8"}),
    "a.gif": ("gif", "gif", {}),
}


def frames(count: int = 24, size: tuple[int, int] = (64, 48), seed: int = 0) -> np.ndarray:
    """uint8 [count, H, W, 3]: a square that moves over a smooth picture, and a bar as long as the frame's number."""
    width, height = size
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    out = np.empty((count, height, width, 3), np.uint8)
    for i in range(count):
        out[i] = np.stack([2 * x + 3 * i, 3 * y + seed, x + y], axis=-1) % 200
        out[i, 10:22, (3 * i) % (width - 12) : (3 * i) % (width - 12) + 12] = (255, 40 * seed % 256, 10)
        out[i, : height // 8, : 1 + i * width // count] = 255
    return out


def make_video(
    kind: str = "h264.mp4",
    pixels: np.ndarray | None = None,
    *,
    rate: int = 25,
    milliseconds: Sequence[int] | None = None,
    sound: str = "",
) -> bytes:
    """An encoded video.

    Args:
      kind: one of CODECS.
      pixels: uint8 [T, H, W, 3].
      rate: frames a second.
      milliseconds: when each frame is shown, instead.
      sound: the codec of a second of two tones beside it.
    """
    container_format, codec, options = CODECS[kind]
    pixels = frames() if pixels is None else pixels
    file = io.BytesIO()
    with av.open(file, "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        stream.thread_count = 1
        track = container.add_stream(sound, rate=48000, layout="stereo") if sound else None
        if milliseconds is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for i, picture in enumerate(pixels):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            if milliseconds is not None:
                frame.pts, frame.time_base = milliseconds[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if track is not None:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(tones(48000).T), "fltp", "stereo")
            frame.sample_rate, frame.pts = 48000, 0
            container.mux(track.encode(frame))
            container.mux(track.encode(None))
    return file.getvalue()


def pyav_frames(data: bytes) -> np.ndarray:
    """All frames as PyAV gives them from start to end."""
    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def turned(video: bytes, degrees: int) -> bytes:
    """An MP4 that says that it is to be turned clockwise by 0, 90, 180 or 270 degrees."""
    cosine, sine = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    one = 1 << 16
    matrix = (cosine * one, sine * one, 0, -sine * one, cosine * one, 0, 0, 0, 1 << 30)
    position = video.index(b"tkhd") + 44
    return video[:position] + struct.pack(">9i", *matrix) + video[position + 36 :]


def tones(samples: int, rate: int = 48000) -> np.ndarray:
    """float32 [samples, 2]: 440 Hz on the left, 660 Hz on the right, quieter."""
    time = np.arange(samples) / rate
    return np.stack([0.5 * np.sin(880 * np.pi * time), 0.3 * np.sin(1320 * np.pi * time)], axis=1).astype(np.float32)


def make_sound(
    kind: str = "wav", samples: np.ndarray | None = None, *, rate: int = 22050, subtype: str | None = None
) -> bytes:
    """An encoded sound of [N, channels] samples; `kind` is wav, flac, ogg, mp3 or aiff."""
    file = io.BytesIO()
    samples = tones(rate, rate) if samples is None else samples
    soundfile.write(file, samples, rate, format=kind.upper(), subtype=subtype)
    return file.getvalue()
