"""Offsets between videos and their sounds, of files of any length: what `Model.sync_offset` computes."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32

from mmjax.data.bad_example import BadExample
from mmjax.data.loading.shifted_clips import TimedEntry
from mmjax.errors import UserError
from mmjax.inference import modality_inputs
from mmjax.inference.restored_model import RestoredModel
from mmjax.tasks import synchronization

WINDOWS = 100  # of a part, where the call does not say: four seconds of 25 frames


@dataclasses.dataclass(frozen=True)
class SyncOffset:
    """How late a video's sound is.

    Attributes:
      frames: by which the sound is late, at most `loss.sync_shifts`; below 0 it is early.
      seconds: the same.
      confidence: by how much the mean cosine similarity at this offset exceeds the median over all of them.
      similarities: the mean cosine similarities at all offsets, from the earliest sound to the latest.
      parts: (seconds from the video's first frame, offset in frames) of each part of the video.
    """

    frames: int
    seconds: float
    confidence: float
    similarities: Float32[np.ndarray, " K"]
    parts: tuple[tuple[float, int], ...]


class SynchronizingModel(RestoredModel):
    """A restored model that tells how late sounds are, where it was trained to; arguments as of `RestoredModel`."""

    def sync_offset(
        self,
        videos: Any,
        sounds: Any = None,
        *,
        rates: Mapping[str, float] | None = None,
        windows: int | None = None,
    ) -> list[SyncOffset]:
        """Tells by how many frames the sounds of videos are late, of videos of any length.

        Args:
          videos: a list of paths, of files as bytes, or of frames uint8 [T, H, W, 3].
          sounds: of each, as `encode_audio` takes them; None for those of the video files.
          rates: of raw frames and samples a second, by name.
          windows: of a part of a long video, a hundred by default; what is told of parts follows from it.

        Raises:
          UserError: one cannot be decoded or is too short; or the model was not trained to synchronise.
        """
        self._check("sync_offset")
        run = functools.partial(self._run, self._similarities)
        return sync_offsets(self._task, run, videos, sounds, rates, windows)

    @functools.cached_property
    def _similarities(self) -> Callable[..., Any]:
        return jax.jit(self._task.sync_similarities)


def sync_offsets(
    task: Any,
    run: Callable[[tuple[np.ndarray, ...]], Any],
    videos: Any,
    sounds: Any = None,
    rates: Mapping[str, float] | None = None,
    windows: int | None = None,
) -> list[SyncOffset]:
    """The offset of each video, from all windows of it that have a sound at every shift.

    Args:
      task: of a model that was trained to synchronise.
      run: (video [1, V, S, S, 3], audio [1, T, F]) -> similarities [1, M, K].
      videos: a list of paths, of files as bytes, or of frames.
      sounds: of each; None for those of the video files.
      rates: of frames and samples a second, by modality, where they are arrays.
      windows: at most, that are looked at together as a part; parts stand side by side, the last one ends with the
        video.

    Raises:
      UserError: one cannot be decoded or is too short, by its number; or an argument makes no sense.
    """
    windows, rates = WINDOWS if windows is None else windows, modality_inputs.check_rates(rates, ("video", "audio"))
    if isinstance(windows, bool) or not isinstance(windows, int) or windows < 1:
        raise UserError(f"sync_offset: windows={windows!r}; give an integer, 1 or more")
    videos = modality_inputs.to_entries(videos, "video")
    sounds = videos if sounds is None else modality_inputs.to_entries(sounds, "audio")
    if sounds is videos and any(isinstance(video, np.ndarray) for video in videos):
        raise UserError("sync_offset: frames that are arrays have no sound; give sounds=, one each")
    if len(sounds) != len(videos):
        raise UserError(f"sync_offset: {len(sounds)} sounds of {len(videos)} videos; give one each")
    results = []
    for index, (video, sound) in enumerate(zip(videos, sounds, strict=True)):
        try:
            frames = TimedEntry(modality_inputs.read_entry(video, "video"), rates.get("video"))
            entry = frames.entry if sound is video else modality_inputs.read_entry(sound, "audio")
            results.append(_offset(task, run, frames, TimedEntry(entry, rates.get("audio")), windows))
        except (BadExample, UserError) as error:
            raise UserError(f"sync_offset: video {index}: {error}") from error
    return results


def _offset(
    task: Any, run: Callable[[tuple[np.ndarray, ...]], Any], frames: TimedEntry, sound: TimedEntry, windows: int
) -> SyncOffset:
    one = synchronization.clip_specs(task.config, task.input_specs, 1)
    samples = one.audio.samples(sound.entry, rate=sound.rate, span=sound.span)
    first, count = one.starts(frames, samples)
    # A short video is read by parts of a power of two, so that few shapes are compiled.
    part = windows if count >= windows else 1 << (count.bit_length() - 1)
    clips = synchronization.clip_specs(task.config, task.input_specs, part)
    shifts, rate = clips.shifts, clips.video.rate
    total, parts, done = np.zeros(2 * shifts + 1), [], 0
    while done < count:
        begin = min(done, count - clips.windows)
        video = clips.cut_video(frames, first, begin + shifts)
        similarities = run((video[None], clips.cut_audio(samples, first, begin)[None]))[0]
        parts.append(((begin + shifts) / rate, int(similarities.mean(axis=0).argmax()) - shifts))
        total += similarities[done - begin :].sum(axis=0)  # the last part may begin within the one before it
        done = begin + clips.windows
    mean = (total / count).astype(np.float32)
    if mean.min() == mean.max():
        raise UserError("the sound fits at every offset alike, as silence does; give one that is heard")
    frame = int(mean.argmax())
    confidence = float(mean[frame] - np.median(mean))
    return SyncOffset(frame - shifts, (frame - shifts) / rate, confidence, mean, tuple(parts))
