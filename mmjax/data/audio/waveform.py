"""Waveforms of audio files, and of the sound of videos: decoded, mixed to one channel, resampled."""

import functools
import io
import itertools
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float32

from mmjax.data.bad_example import BadExample
from mmjax.data.formats.media_bytes import (
    AUDIO_FORMATS,
    VIDEO_FORMATS,
    check_complete,
    media_format,
    says_length,
)
from mmjax.data.video.container import open_container
from mmjax.errors import UserError
from mmjax.utils.optional_imports import require

# Samples of all channels that are decoded of a file, or of its time span: 23 minutes of two channels at 48 kHz.
MAX_SAMPLES = 1 << 27
MAX_SECONDS = 3600.0
# Larger files are not read.
MAX_BYTES = 512 << 20
# Hz; what is outside of this is a damaged header.
RATES = (1_000, 768_000)

_MOST_CHANNELS = 64
_SEEKABLE = ("WAV", "WAVEX", "RF64", "FLAC", "AIFF")  # where samples are found by their numbers


def decode_audio(data: bytes, *, span: tuple[float, float] | None = None) -> tuple[Float32[np.ndarray, " N"], int]:
    """Decodes a sound to one channel, the mean of all.

    Args:
      data: a file that soundfile reads (WAV, FLAC, MP3, Ogg, AIFF), or a video or M4A, whose first sound track counts.
        An MP3 or FLAC file that does not say how long it is is decoded as videos are.
      span: the part that counts, from second to second; None for all of it.

    Returns:
      Samples, in [-1, 1] but for files of floating point, which may go beyond; and their rate in Hz.

    Raises:
      BadExample: `empty` for no bytes, no samples, or none within the span; `not_media` for other formats; `no_track`
        for a video without sound; `corrupt` for a damaged or truncated file, or a sample that is not finite;
        `too_large`.
      UserError: what decodes the file is not installed.
    """
    check_complete(data)
    if len(data) > MAX_BYTES:
        raise BadExample("too_large", f"{len(data)} bytes, the limit is {MAX_BYTES}")
    name = media_format(data)
    if name in AUDIO_FORMATS and says_length(data):
        samples, rate = _decode_sound(data, span)
    elif name in (*VIDEO_FORMATS, *AUDIO_FORMATS):  # soundfile would guess a length, and keep to that
        samples, rate = _decode_track(data, span)
    else:
        raise BadExample("not_media", f"{len(data)} bytes of no audio format that is read here")
    if not len(samples):
        where = "" if span is None else f" from {span[0]:g} to {span[1]:g} s"
        raise BadExample("empty", f"no samples{where}")
    if not np.isfinite(samples).all():
        raise BadExample("corrupt", "a sample is not finite")
    return samples, rate


def decode_samples(
    entry: bytes | np.ndarray, rate: float | None, span: tuple[float, float] | None
) -> tuple[Float32[np.ndarray, " N"], float]:
    """Samples of a file, or those that an array holds, within a span; and their rate in Hz.

    Raises:
      BadExample: see `decode_audio`.
      UserError: an array comes without the rate of its samples.
    """
    return decode_audio(entry, span=span) if isinstance(entry, bytes) else _samples(entry, rate, span)


def resample(samples: Float32[np.ndarray, " N"], rate: float, target: int) -> Float32[np.ndarray, " M"]:
    """Samples at another rate, by soxr in its high quality.

    Raises:
      UserError: soxr is not installed, and the rates differ.
    """
    if rate == target:
        return samples
    return require("soxr", extra="audio", where=f"audio of {rate:g} Hz for {target} Hz").resample(samples, rate, target)


def _samples(
    entry: np.ndarray, rate: float | None, span: tuple[float, float] | None
) -> tuple[Float32[np.ndarray, " N"], float]:
    """Samples that are an array, those within a span, and their rate."""
    if entry.ndim != 1 or not np.issubdtype(entry.dtype, np.floating):
        raise BadExample("corrupt", f"a sound of {entry.dtype} {list(entry.shape)}; expected float32 [samples]")
    if not rate or not RATES[0] <= rate <= RATES[1]:
        raise UserError(
            f"samples that are an array come with rates={{'audio': {rate}}} in their record; give their rate in Hz,"
            f" from {RATES[0]} to {RATES[1]}"
        )
    samples = entry.astype(np.float32)
    if span is not None:
        samples = samples[max(0, round(span[0] * rate)) : max(0, round(span[1] * rate))]
    if not len(samples):
        raise BadExample("empty", "no samples" if span is None else f"no samples from {span[0]:g} to {span[1]:g} s")
    if not np.isfinite(samples).all():
        raise BadExample("corrupt", "a sample is not finite")
    return samples, rate


def _decode_sound(data: bytes, span: tuple[float, float] | None) -> tuple[np.ndarray, int]:
    """As `decode_audio`, by soundfile."""
    soundfile = require("soundfile", extra="audio", where="audio files")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate = file.samplerate
            _check_header(rate, file.channels)
            start, stop = _range(rate, span)
            stop = min(stop, file.frames)
            # Where a frame needs those before it, only what is read from the start is exact; and in one piece, as
            # soundfile goes back after each.
            skipped = min(start, stop) if file.format in _SEEKABLE else 0
            count = stop - skipped
            _check_length(count, rate, file.channels)
            file.seek(skipped)
            samples = file.read(count, dtype="float32", always_2d=True)
            if len(samples) < count:
                raise BadExample("corrupt", f"the file breaks off after {len(samples)} of {count} samples")
            return _mix(samples[start - skipped :]), rate
    except BadExample:
        raise
    except Exception as error:  # libsndfile's errors, and what goes wrong in its calls back
        text = getattr(error, "error_string", error)  # without the address of the bytes
        raise BadExample("corrupt", f"{type(error).__name__}: {text}") from error


def _decode_track(data: bytes, span: tuple[float, float] | None) -> tuple[np.ndarray, int]:
    """As `decode_audio`, by PyAV; the file's start is that of all its tracks."""
    av = require("av", extra="video", where="the sound of videos")
    with open_container(data, kind="audio") as (container, stream):
        rate = stream.codec_context.sample_rate
        _check_header(rate, stream.codec_context.channels)
        # A picture's time and a sound's are the same: what begins later than the file begins with silence.
        delay = float((stream.start_time or 0) * stream.time_base) - (container.start_time or 0) / 1e6
        position = round(delay * rate)
        start, stop = _range(rate, span)
        count = max(0, min(position, stop) - start)
        _check_length(count, rate)
        parts = [np.zeros(count, np.float32)]
        for block in _track_blocks(av, container, stream):
            parts.append(_mix(block[max(0, start - position) : max(0, stop - position)]))
            position, count = position + len(block), count + len(parts[-1])
            _check_length(count, rate)
            if position >= stop:
                break
        return np.concatenate(parts), rate


def _track_blocks(av: Any, container: Any, stream: Any) -> Iterator[np.ndarray]:
    """What a track holds, float32 [N, channels]."""
    resampler = av.AudioResampler(format="fltp")
    for frame in itertools.chain(container.decode(stream), [None]):
        for part in resampler.resample(frame):
            yield part.to_ndarray().T


def _range(rate: int, span: tuple[float, float] | None) -> tuple[int, int]:
    """The samples of a time span: the first, and behind the last."""
    if span is None:
        return 0, sys.maxsize
    return max(0, round(span[0] * rate)), max(0, round(span[1] * rate))


def _check_header(rate: int, channels: int) -> None:
    if not RATES[0] <= rate <= RATES[1] or not 0 < channels <= _MOST_CHANNELS:
        raise BadExample("corrupt", f"{channels} channels at {rate} Hz")


def _check_length(count: int, rate: int, channels: int = 1) -> None:
    most = min(MAX_SAMPLES // channels, int(MAX_SECONDS * rate))
    if count > most:
        raise BadExample(
            "too_large", f"more than {most} samples of {channels} channels; cut the sound, or give time spans"
        )


def _mix(block: Float32[np.ndarray, "N C"]) -> Float32[np.ndarray, " N"]:
    """The mean of the channels; column by column, which is several times as quick as along rows."""
    return functools.reduce(np.add, block.T) / np.float32(block.shape[1])
