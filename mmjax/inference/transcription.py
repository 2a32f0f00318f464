"""Transcripts of sounds of any length: windows that are cut at pauses, written one by one, and joined."""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float32

from mmjax.data.audio.transform import AudioSpec
from mmjax.data.bad_example import BadExample
from mmjax.errors import UserError
from mmjax.inference import modality_inputs

_PAUSE = 0.2  # seconds that are quiet together where a window is cut; of short windows a twentieth
_QUIET = 0.1  # what is a pause has at most this share of a window's mean power

log = logging.getLogger("mmjax")


@dataclasses.dataclass(frozen=True)
class Segment:
    """What was written of a part of a sound.

    Attributes:
      start, end: of the part, in seconds; one begins where the one before it ends.
      text: of it.
      in_pause: whether it ends in a pause, or where the sound does; else a word may have been cut in two there.
    """

    start: float
    end: float
    text: str
    in_pause: bool = True


def join(segments: Iterable[Segment]) -> str:
    """The text of a sound: those of its segments with a space between them."""
    return " ".join(segment.text for segment in segments if segment.text)


def transcribe(
    sounds: Any,
    spec: AudioSpec,
    write: Callable[[np.ndarray, int], list[str]],
    *,
    rate: float | None = None,
    batch_size: int = 64,
) -> list[list[Segment]]:
    """Transcribes sounds window by window.

    A sound that is longer than the model's window is cut where it is quietest within the second half of what a window
    holds. Windows follow each other without a gap and do not overlap, so that no part of the sound is left out or
    heard twice. Where nothing there is a pause, a word may be cut in two; the log has a line then.

    Args:
      sounds: a list of paths (videos, too), of files as bytes, or of samples float32 [N] in [-1, 1].
      spec: how the model's spectrograms are made.
      write: gives the texts of spectrograms [B, T, F]; its second argument is the first one's number among all.
      rate: of samples that are arrays, in Hz.
      batch_size: spectrograms that are written about at a time.

    Returns:
      For each sound its segments.

    Raises:
      UserError: a sound cannot be read.
    """
    segments: list[list[Segment]] = []
    held: list[tuple[int, Segment, np.ndarray]] = []  # windows without a text so far
    count = 0

    def flush() -> None:
        nonlocal count
        texts = write(np.stack([array for _, _, array in held]), count) if held else []
        for (number, segment, _), text in zip(held, texts, strict=True):
            segments[number].append(dataclasses.replace(segment, text=text))
        count += len(held)
        held.clear()

    modality_inputs.check_rate(rate)
    for number, entry in enumerate(_entries(sounds)):
        segments.append([])
        try:
            for segment, array in _windows(modality_inputs.read_entry(entry, "audio"), spec, rate, f"audio {number}"):
                held.append((number, segment, array))
                if len(held) == batch_size:
                    flush()
        except (BadExample, UserError) as error:
            raise UserError(f"audio {number}: {error}") from error
    flush()
    return segments


def _entries(sounds: Any) -> Iterable[Any]:
    if isinstance(sounds, np.ndarray) and sounds.ndim == 1:
        raise UserError("audio: one sound alone; give a list of them")
    return modality_inputs.to_entries(sounds, "audio")


def _windows(
    entry: Any, spec: AudioSpec, rate: float | None, label: str
) -> Iterator[tuple[Segment, Float32[np.ndarray, "T F"]]]:
    """Segments of a sound, without their texts, and their spectrograms."""
    samples = spec.samples(entry, rate=rate)
    mel = spec.log_mel_spec
    wanted = mel.sample_rate
    for start, stop, in_pause in cut_at_pauses(samples, wanted, mel.samples(spec.shape[0]), mel.samples(1)):
        if not in_pause:
            log.warning("%s: a window ends at %.2f s, where no pause is: a word may be cut", label, stop / wanted)
        array = spec.prepare(samples[start:stop], None, rate=wanted)
        yield Segment(start / wanted, stop / wanted, "", in_pause), array


def cut_at_pauses(
    samples: Float32[np.ndarray, " N"], rate: int, longest: int, shortest: int = 1
) -> Iterator[tuple[int, int, bool]]:
    """Parts of a sound of at most `longest` samples, each cut where it is quietest in its second half.

    Args:
      samples: of the sound.
      rate: in Hz.
      longest: samples of a window.
      shortest: samples that a part has at least, where the sound has; what gives a frame of a spectrogram.

    Yields:
      The first sample, the one after the last, and whether the part ends in a pause or with the sound.

    Raises:
      UserError: the sound is longer than a window, and a window has not room for two of the shortest parts.
    """
    if len(samples) > longest < 2 * shortest:
        raise UserError(
            f"windows of {longest} samples are too short to be cut into parts of {shortest} or more, of a frame each;"
            " raise data.audio.frames"
        )
    pause = max(1, min(round(_PAUSE * rate), longest // 20))
    power = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    start = 0
    while len(samples) - start > longest:
        # Mean power around all samples where it could be cut, so far from the window's end that the pause is in it, and
        # from the sound's that the rest is no shorter than it may be.
        last = min(start + longest - pause // 2, len(samples) - shortest + 1)
        cuts = np.arange(start + longest // 2, last)
        around = (power[cuts - pause // 2 + pause] - power[cuts - pause // 2]) / pause
        quietest = int(np.argmin(around))
        stop = int(cuts[quietest])
        mean = (power[start + longest] - power[start]) / longest
        yield start, stop, bool(around[quietest] <= _QUIET * mean)
        start = stop
    yield start, len(samples), True
