"""What a model sees of a sound: an encoded file or its samples -> a log-mel spectrogram, float32 [frames, mel bins]."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from mmjax.data.audio import log_mel
from mmjax.data.audio.waveform import RATES, decode_samples, resample
from mmjax.data.bad_example import BadExample
from mmjax.errors import UserError, validate_choice


@dataclasses.dataclass(frozen=True)
class Preset:
    """How the model of a name has its sounds.

    Attributes:
      frames: of its spectrograms.
      padding: what follows a sound that is too short: `zeros` in the spectrogram before it is normalised, `silence` in
        the waveform, or the sound again (`repeat`).
      middle: whether evaluation sees the middle of a sound that is too long; else its beginning.
    """

    frames: int
    padding: str
    middle: bool = False


# As the feature extractors of Hugging Face have them, and scenic for MBT.
PRESETS = {
    "ast": Preset(1024, "zeros"),
    "whisper": Preset(3000, "silence"),
    "mbt": Preset(800, "repeat", middle=True),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioSpec:
    """How a sound becomes a [frames, mel bins] array.

    Attributes:
      preset: whose filters, windows, normalisation and padding: one of PRESETS.
      frames: of the spectrogram, 10 ms each; 0 for the preset's.
      mel_bins: 0 for the preset's.
      sample_rate: in Hz, to which sounds are resampled; 0 for the preset's 16 kHz. Windows keep their milliseconds.
      longer: in training, whether a sound that is longer than the spectrogram is cropped (`crop`) or a bad example
        (`bad`).
      time_masks: in training, SpecAugment's masks of time and the widest one in frames; (0, 0) for none.
      time_share: no mask of time is wider than this share of the spectrogram.
      frequency_masks: in training, SpecAugment's masks of frequency and the widest one in mel bins; (0, 0) for none.
      clips: of testing, see `views`.
      crops: of testing, of which a sound has one.
    """

    preset: str = "ast"
    frames: int = 0
    mel_bins: int = 0
    sample_rate: int = 0
    longer: str = "crop"
    time_masks: Sequence[int] = (0, 0)
    time_share: float = 1.0
    frequency_masks: Sequence[int] = (0, 0)
    clips: int = 1
    crops: int = 1

    def __post_init__(self):
        validate_choice("data.audio.preset", self.preset, PRESETS)
        validate_choice("data.audio.longer", self.longer, ("crop", "bad"))
        for name in ("frames", "mel_bins"):
            if getattr(self, name) < 0:
                raise UserError(
                    f"data.audio.{name}={getattr(self, name)}: give a positive number, or 0 for the preset's"
                )
        if self.clips < 1:
            raise UserError(f"eval.audio.clips={self.clips}: give 1 or more")
        if self.sample_rate and not RATES[0] <= self.sample_rate <= RATES[1]:
            raise UserError(f"data.audio.sample_rate={self.sample_rate}: give {RATES[0]} to {RATES[1]} Hz, or 0")
        if not 0 <= self.time_share <= 1:
            raise UserError(f"data.audio.time_share={self.time_share}: give a share from 0 to 1")
        for name in ("time_masks", "frequency_masks"):
            value = tuple(getattr(self, name))
            object.__setattr__(self, name, value)
            if len(value) != 2 or not all(isinstance(x, int) and x >= 0 for x in value):
                raise UserError(f"data.audio.{name}={value}: give (masks, widest), integers from 0 on")
        self.log_mel_spec  # its mistakes, too, are those of now  # noqa: B018

    @functools.cached_property
    def log_mel_spec(self) -> log_mel.LogMelSpec:
        """The preset's spectrogram with this spec's changes."""
        spec = log_mel.preset(self.preset)
        changes: dict[str, int | float] = {"n_mels": self.mel_bins} if self.mel_bins else {}
        if self.sample_rate and self.sample_rate != spec.sample_rate:
            scaled = lambda samples: max(1, round(samples * self.sample_rate / spec.sample_rate))
            window = scaled(spec.window)
            changes |= {"sample_rate": self.sample_rate, "window": window, "hop": scaled(spec.hop)}
            changes["n_fft"] = window if spec.n_fft == spec.window else 1 << math.ceil(math.log2(window))
            changes["f_max"] = min(spec.highest, self.sample_rate / 2)
        return dataclasses.replace(spec, **changes)

    @property
    def shape(self) -> tuple[int, int]:
        """Of what `prepare` gives."""
        return self.frames or PRESETS[self.preset].frames, self.log_mel_spec.n_mels

    @property
    def dtype(self) -> str:
        """Of what `prepare` gives."""
        return "float32"

    def prepare(
        self,
        entry: bytes | np.ndarray,
        rng: np.random.Generator | None,
        *,
        rate: float | None = None,
        span: tuple[float, float] | None = None,
        position: float | None = None,
    ) -> Float32[np.ndarray, "T F"]:
        """Decodes, resamples, crops and transforms a sound. Silence is a sound like any other.

        Args:
          entry: an encoded file, a video with sound, or samples, float [N] in [-1, 1].
          rng: of training: the crop of a sound that is too long and the masks are drawn from it. In evaluation it is
            None: its beginning or its middle is taken, as the preset has it, and nothing is masked.
          rate: of samples that are an array, in Hz.
          span: the part of the sound that counts, from second to second.
          position: of training: where in it the crop begins, as a share of the possible beginnings; None draws it.

        Returns:
          The normalised spectrogram; what the preset pads with where the sound is too short.

        Raises:
          BadExample: as `decode_audio` does; `empty` for less than one window of samples; `too_large` for a sound
            that is longer than the spectrogram, where `longer` says so.
          UserError: samples without a rate; what decodes the file is not installed.
        """
        samples, spare = self._decode(entry, rate, span)
        start = 0
        if spare > 0 and rng is not None and self.longer == "bad":
            rate, frames = self.log_mel_spec.sample_rate, self.shape[0]
            raise BadExample(
                "too_large",
                f"a sound of {len(samples) / rate:.2f} s, longer than {frames} frames; set data.audio.longer='crop'",
            )
        if spare > 0:
            middle = PRESETS[self.preset].middle
            if rng is not None:
                start = int(rng.integers(spare + 1)) if position is None else int(position * (spare + 1))
            else:
                start = spare // 2 if middle else 0
        return self.spectrogram(samples, start, rng)

    def samples(
        self, entry: bytes | np.ndarray, *, rate: float | None = None, span: tuple[float, float] | None = None
    ) -> Float32[np.ndarray, " N"]:
        """All samples of a sound at the spectrogram's rate; arguments and errors as of `prepare`."""
        return self._decode(entry, rate, span)[0]

    def spectrogram(
        self, samples: Float32[np.ndarray, " N"], start: int = 0, rng: np.random.Generator | None = None
    ) -> Float32[np.ndarray, "T F"]:
        """The spectrogram from one of `samples` on, padded as the preset has it; `rng` draws the masks of training."""
        spectrogram = self._spectrogram(samples, start)
        return spectrogram if rng is None else self._mask(spectrogram, rng)

    def views(
        self, entry: bytes | np.ndarray, *, rate: float | None = None, span: tuple[float, float] | None = None
    ) -> Float32[np.ndarray, "C T F"]:
        """The windows of testing, evenly spaced from the first possible one to the last; one is that of `prepare`.

        Args:
          entry: see `prepare`; so are the others.

        Raises:
          BadExample: as `prepare` does.
          UserError: as `prepare` does.
        """
        if self.clips == 1:
            return self.prepare(entry, None, rate=rate, span=span)[None]
        samples, spare = self._decode(entry, rate, span)
        starts = [max(0, spare) * clip // (self.clips - 1) for clip in range(self.clips)]
        made = {start: self._spectrogram(samples, start) for start in set(starts)}
        return np.stack([made[start] for start in starts])

    def _decode(
        self, entry: bytes | np.ndarray, rate: float | None, span: tuple[float, float] | None
    ) -> tuple[Float32[np.ndarray, " N"], int]:
        """Samples at the spectrogram's rate, and how many more there are than it shows, which may be below 0."""
        samples, rate = decode_samples(entry, rate, span)
        spec = self.log_mel_spec
        samples = resample(samples, rate, spec.sample_rate)
        return samples, len(samples) - spec.samples(self.shape[0])

    def _spectrogram(self, samples: Float32[np.ndarray, " N"], start: int) -> Float32[np.ndarray, "T F"]:
        """The spectrogram from a sample on, padded as the preset has it."""
        spec, preset, frames = self.log_mel_spec, PRESETS[self.preset], self.shape[0]
        samples = samples[start : start + spec.samples(frames)]
        if preset.padding == "silence":
            samples = np.pad(samples, (0, spec.samples(frames) - len(samples)))
        spectrogram = log_mel.log_mel(samples, spec)
        if preset.padding == "repeat":
            spectrogram = spectrogram[np.arange(frames) % len(spectrogram)]
        return log_mel.fit_frames(spectrogram, frames, value=-spec.mean / spec.std)[0]

    def _mask(self, spectrogram: Float32[np.ndarray, "T F"], rng: np.random.Generator) -> Float32[np.ndarray, "T F"]:
        (time_masks, time_width), (frequency_masks, frequency_width) = self.time_masks, self.frequency_masks
        return log_mel.spec_augment(
            spectrogram,
            rng,
            time_masks=time_masks,
            time_width=time_width,
            time_share=self.time_share,
            frequency_masks=frequency_masks,
            frequency_width=frequency_width,
        )
