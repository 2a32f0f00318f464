"""Long videos and sounds in windows: equal parts of a file, each prepared as if it were a file of its own."""

import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mmjax.data.audio.transform import AudioSpec
from mmjax.data.audio.waveform import decode_audio
from mmjax.data.bad_example import BadExample
from mmjax.data.loading.inputs import ModalitySpec
from mmjax.data.record import Record
from mmjax.data.video.frame_reader import open_video
from mmjax.errors import UserError
from mmjax.inference import inputs, modality_inputs

_MOST = 10_000  # windows of a file
_SLACK = 1e-6  # seconds

Span = tuple[float, float]


class CaptionedWindow(NamedTuple):
    """A part of a file, from second to second, with what was written about it."""

    start: float
    end: float
    text: str


def caption_windows(
    write: Callable[[np.ndarray, list[str]], list[str]],
    task: Any,
    values: Any,
    prompt: Any,
    seconds: float,
    rate: float | None,
) -> list[list[CaptionedWindow]]:
    """Writes about each window of each file.

    Args:
      write: (what the model sees of windows, a prompt for each) -> texts.
      task: the model's.
      values, prompt, seconds, rate: as of `Model.caption`, where `seconds` are `windows`.

    Raises:
      UserError: as `in_windows`; or the model sees images.
    """
    if task.seen == "image":
        raise UserError(f"windows={seconds}: windows are of videos and sounds, and this model sees images")
    modality_inputs.check_kinds(values, task.seen)
    spec = next(spec for spec in task.input_specs.others if spec.name == task.seen)
    arrays, spans = in_windows(values, spec, seconds, rate)
    prompts = inputs.broadcast_texts("prompt", prompt, len(spans))
    prompts = [text for text, parts in zip(prompts, spans, strict=True) for _ in parts]
    texts = iter(write(arrays, prompts))
    return [[CaptionedWindow(*span, next(texts)) for span in parts] for parts in spans]


def in_windows(
    values: Any, spec: ModalitySpec, seconds: float, rate: float | None = None
) -> tuple[np.ndarray, list[list[Span]]]:
    """Windows of videos or sounds, as a batch has them.

    Args:
      values: as of `modality_inputs.to_arrays`.
      spec: how they are prepared.
      seconds: of the longest window; a file is cut into as few equal ones as that allows.
      rate: of raw arrays: frames or samples a second.

    Returns:
      The windows of all files, one after the other, and for each file where its windows begin and end.

    Raises:
      UserError: a length that makes no sense, or is longer than what the model hears at a time; a file cannot be used.
    """
    check_seconds(spec, seconds)
    modality_inputs.check_rate(rate)
    arrays, spans = [], []
    for index, entry in enumerate(modality_inputs.to_entries(values, spec.name)):
        entry = modality_inputs.read_entry(entry, spec.name)
        try:
            entry, known_rate, end = _with_length(entry, spec.name, rate)
            spans.append(equal_spans(end, seconds))
            for span in spans[-1]:
                record = Record(id=index, modalities={spec.name: entry}, spans={spec.name: span})
                if known_rate is not None:
                    record["rates"] = {spec.name: float(known_rate)}
                arrays.append(spec.array(record, None))
        except (BadExample, UserError) as error:
            raise UserError(f"{spec.name} {index}: {error}") from error
    return np.stack(arrays) if arrays else np.zeros((0, *spec.shape), spec.dtype), spans


def check_seconds(spec: ModalitySpec, seconds: float) -> None:
    """Checks the length of windows.

    Raises:
      UserError: it is no length, or longer than what the model hears at a time, which would leave out the rest.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, numbers.Real) or not 0 < seconds < math.inf:
        raise UserError(f"windows={seconds!r}: give seconds, more than 0")
    if isinstance(spec.decoder, AudioSpec):
        log_mel = spec.decoder.log_mel_spec
        heard = log_mel.samples(spec.shape[0]) / log_mel.sample_rate
        if seconds > heard + _SLACK:
            raise UserError(f"windows={seconds}: the model hears {heard:g} s at a time; choose that or less")


def equal_spans(end: float, seconds: float) -> list[Span]:
    """The fewest equal parts of `end` seconds that are at most `seconds` long.

    Raises:
      UserError: there are too many.
    """
    if end > _MOST * seconds:
        raise UserError(
            f"windows={seconds}: {end:g} s are more than {_MOST:,} windows, which is the limit; choose more"
        )
    count = max(1, math.ceil(end / seconds - _SLACK))
    edges = [end * number / count for number in range(count + 1)]
    return list(zip(edges[:-1], edges[1:], strict=True))


def _with_length(entry: Any, name: str, rate: float | None) -> tuple[Any, float | None, float]:
    """An entry (of a file's sound its samples, so that it is decoded once), its rate, and its length in seconds.

    Raises:
      BadExample: it cannot be decoded.
      UserError: it has no seconds.
    """
    if name not in ("video", "audio"):
        raise UserError(f"windows are of videos and sounds, and this model sees {name}; leave them out")
    if isinstance(entry, bytes):
        if name == "audio":
            samples, file_rate = decode_audio(entry)
            return samples, file_rate, len(samples) / file_rate
        with open_video(entry) as video:
            return entry, None, video.end
    if entry.ndim == 0:
        raise UserError("neither a file nor an array; give one")
    if not rate:
        raise UserError("an array has no seconds without its rate; give rate=, frames or samples a second")
    return entry, rate, len(entry) / rate
