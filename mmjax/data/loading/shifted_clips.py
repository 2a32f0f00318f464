"""Clips of a video with its sound, one of them shifted in time by a known number of frames: for synchronisation."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from mmjax.data.audio.transform import AudioSpec
from mmjax.data.bad_example import BadExample
from mmjax.data.loading.inputs import Arrays, InputSpecs, ModalitySpec
from mmjax.data.loading.order import example_rng
from mmjax.data.record import Record
from mmjax.data.video.transform import VideoSpec
from mmjax.utils.random_streams import SynchronizationStream

_SLACK = 1e-6  # frames, by which times are rounded


class TimedEntry(NamedTuple):
    """A file or an array of a modality, with its rate and the span of it that counts, as records have them."""

    entry: Any
    rate: float | None = None
    span: tuple[float, float] | None = None

    @classmethod
    def of(cls, record: Record, name: str) -> "TimedEntry":
        """A record's.

        Raises:
          BadExample: `no_input` where the record has none.
        """
        entry: Any = (record.get("modalities") or {}).get(name)
        if entry is None:
            raise BadExample("no_input", f"no {name}")
        return cls(entry, (record.get("rates") or {}).get(name), (record.get("spans") or {}).get(name))

    @property
    def offset(self) -> float:
        """When what counts begins, in seconds of the file."""
        return 0.0 if self.span is None else self.span[0]


@dataclasses.dataclass(frozen=True)
class ShiftedClips(InputSpecs):
    """How a record's video and sound become a clip with `2 * shifts` frames more of sound than of video.

    A clip has `video` uint8 [V, S, S, 3] of V = W + windows - 1 consecutive frames, of which W are a window of the
    video tower; `audio` float32 [(V + 2 * shifts) * R, F], R spectrogram frames to one of video; and `shift` int32 []:
    the video begins with frame `shift` of the sound, from 0 to 2 * shifts, so that `shift - shifts` frames is how late
    the sound is, were the two played with their middles together.

    Every stretch of a record that is long enough is as likely; the shift is drawn after it and by itself, all of them
    alike, and the sound is cut without regard to it. So the sound that a model is given is independent of the answer:
    neither silence or padding at its edges, nor where in it the events are, tells anything of the shift without the
    video. With the video always in the middle all of that would, as events are rarer at the edges of what people cut.

    Attributes:
      shifts: frames, each way.
      windows: of the video tower in a clip, one frame apart.
    """

    shifts: int = 1
    windows: int = 1

    @classmethod
    def of_windows(cls, specs: InputSpecs, shifts: int, windows: int) -> "ShiftedClips":
        """Clips for towers whose windows are prepared as `specs` say; the two windows last equally long.

        Raises:
          TypeError: no video and sound that are decoded.
        """
        decoders = {spec.name: spec.decoder for spec in specs.others}
        video, audio = decoders.get("video"), decoders.get("audio")
        if not isinstance(video, VideoSpec) or not isinstance(audio, AudioSpec):
            raise TypeError(f"clips are of a video and its sound, and not of {', '.join(specs.names)}")
        frames, per_frame = video.frames + windows - 1, audio.shape[0] // video.frames
        others = (
            ModalitySpec.decoded("video", dataclasses.replace(video, frames=frames, stride=1)),
            ModalitySpec.decoded("audio", dataclasses.replace(audio, frames=(frames + 2 * shifts) * per_frame)),
        )
        return cls(others=others, shifts=shifts, windows=windows)

    @property
    def video(self) -> VideoSpec:
        """How frames are decoded: all of a clip."""
        decoder: Any = self.others[0].decoder
        return decoder

    @property
    def audio(self) -> AudioSpec:
        """How the spectrogram is made: all of a clip."""
        decoder: Any = self.others[1].decoder
        return decoder

    def train(self, record: Record, rng: np.random.Generator) -> Arrays:
        """A clip that begins at a random frame, with a random shift.

        Raises:
          BadExample: `no_input` without video or sound, `too_short`, or it cannot be decoded.
        """
        return self._clip(record, rng, rng)

    def evaluate(self, record: Record, index: int = 0) -> Arrays:
        """The middle clip, with a shift that the record's id draws; errors as `train`. Nothing depends on the index."""
        del index
        return self._clip(record, example_rng(SynchronizationStream.SHIFT, record["id"]), None)

    def _clip(self, record: Record, draws: np.random.Generator, rng: np.random.Generator | None) -> Arrays:
        frames, sound = TimedEntry.of(record, "video"), TimedEntry.of(record, "audio")
        samples = self.audio.samples(sound.entry, rate=sound.rate, span=sound.span)
        first, starts = self.starts(frames, samples)
        begin = starts // 2 if rng is None else int(draws.integers(starts))
        shift = int(draws.integers(2 * self.shifts + 1))
        arrays = {
            "video": self.cut_video(frames, first, begin + shift, rng),
            "audio": self.cut_audio(samples, first, begin, rng),
        }
        return arrays | {"shift": np.array(shift, np.int32)}

    def cut_video(
        self, frames: TimedEntry, first: float, begin: int, rng: np.random.Generator | None = None
    ) -> UInt8[np.ndarray, "V S S 3"]:
        """The frames of a clip that begins with a number of the video's; `rng` as of `VideoSpec.prepare`."""
        start = frames.offset + first + begin / self.video.rate
        span = (start, start + self.video.frames / self.video.rate)
        return self.video.prepare(frames.entry, rng, rate=frames.rate, span=span, position=0.0)

    def cut_audio(
        self, samples: Float32[np.ndarray, " N"], first: float, begin: int, rng: np.random.Generator | None = None
    ) -> Float32[np.ndarray, "T F"]:
        """The spectrogram of a clip whose sound begins with a number of the video's frames."""
        start = (first + begin / self.video.rate) * self.audio.log_mel_spec.sample_rate
        return self.audio.spectrogram(samples, int(start + _SLACK), rng)

    def starts(self, frames: TimedEntry, samples: Float32[np.ndarray, " N"]) -> tuple[float, int]:
        """When the first frame is shown, in seconds of the waveform, and how many frames a clip may begin with.

        Raises:
          BadExample: `too_short` where there is no such frame.
        """
        shown, spec = self.video.shown(*frames), self.audio.log_mel_spec
        first, last = (time - frames.offset for time in shown)
        needed, most = spec.samples(self.audio.shape[0]), self.video.frames + 2 * self.shifts
        room = (last - first) * self.video.rate - most
        room = min(room, ((len(samples) - needed) / spec.sample_rate - first) * self.video.rate)
        if room < -_SLACK:
            raise BadExample(
                "too_short",
                f"{last - first:.2f} s of video and {len(samples) / spec.sample_rate:.2f} s of sound; objectives.sync"
                f" needs {most / self.video.rate:.2f} s of video ({most} frames) and {needed / spec.sample_rate:.2f} s"
                " of sound, that of each frame; leave short ones out, or lower loss.sync_shifts or the windows of a"
                " clip (loss.sync_windows, in evaluation eval.synchronization.windows)",
            )
        return first, int(room + _SLACK) + 1

    def blank(self) -> Arrays:
        """What stands for arrays that are not there."""
        return {**super().blank(), "shift": np.zeros((), np.int32)}
