"""A reader of WAV files, on the standard library's."""

import io
import struct
import wave

import numpy as np
from jaxtyping import Float

from mmjax.data.audio import log_mel
from mmjax.data.bad_example import BadExample
from mmjax.errors import UserError

# What the reader raises on damaged bytes.
_DAMAGED = (wave.Error, EOFError, ValueError, RuntimeError, OverflowError, struct.error)


def read_wav(data: bytes) -> tuple[Float[np.ndarray, " N"], int]:
    """Reads a WAV file of 8, 16, 24 or 32 bit PCM; several channels are averaged.

    Returns:
      Mono samples in [-1, 1), float32, and the sample rate in Hz.

    Raises:
      BadExample: `empty` for no bytes or no samples; `corrupt` for what is no WAV file, is not PCM or breaks off.
    """
    if not data:
        raise BadExample("empty", "an audio file of zero bytes")
    try:
        with wave.open(io.BytesIO(data)) as file:
            channels, width, rate, count = file.getparams()[:4]
            raw = file.readframes(count)
    except _DAMAGED as error:
        raise BadExample("corrupt", f"no WAV file of PCM samples: {error or type(error).__name__}") from error
    if width not in (1, 2, 3, 4) or channels < 1 or rate < 1:
        raise BadExample("corrupt", f"a WAV file of {channels} channels, {8 * width} bits, {rate} Hz")
    if len(raw) < count * channels * width:
        raise BadExample("corrupt", f"the WAV file breaks off after {len(raw)} of {count * channels * width} bytes")
    if not raw:
        raise BadExample("empty", "a WAV file without samples")
    return _samples(raw, width).reshape(-1, channels).mean(axis=1).astype(np.float32), rate


def _samples(raw: bytes, width: int) -> Float[np.ndarray, " N"]:
    """PCM bytes as float64 in [-1, 1); 8 bit is unsigned, all others are signed, little-endian."""
    if width == 1:
        return (np.frombuffer(raw, np.uint8) - 128.0) / 128.0
    # Moved to the top of 32 bits, three bytes keep their sign.
    words = np.zeros((len(raw) // width, 4), np.uint8)
    words[:, 4 - width :] = np.frombuffer(raw, np.uint8).reshape(-1, width)
    return words.view("<i4")[:, 0] / 2.0**31


def wav_to_log_mel(data: bytes, spec: log_mel.AudioSpec) -> Float[np.ndarray, "T F"]:
    """Reads a WAV file and makes its log-mel spectrogram.

    Raises:
      BadExample: the file cannot be used.
      UserError: its sample rate is not the spec's.
    """
    waveform, rate = read_wav(data)
    if rate != spec.sample_rate:
        raise UserError(
            f"sample_rate={spec.sample_rate}, but the WAV file has {rate} Hz; resample the files first"
            f" (ffmpeg -i IN.wav -ar {spec.sample_rate} OUT.wav)"
        )
    return log_mel.log_mel(waveform, spec)
