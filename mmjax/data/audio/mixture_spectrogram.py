"""What a separator sees of a mixture of sounds, and how its masks make waveforms again. NumPy only."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32

from mmjax.data.audio.stft import STFTSpec, from_log_frequency, to_log_frequency
from mmjax.data.audio.waveform import decode_samples, resample
from mmjax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureSpec:
    """How sounds are cut, mixed, and seen as magnitudes [frames, bins].

    It prepares a sound as a modality's decoder does: a stretch of the waveform of `samples` samples.

    Attributes:
      sample_rate: in Hz, to which sounds are resampled.
      n_fft, hop: of the transform, see `STFTSpec`.
      frames: of a stretch.
      log_bins: frequencies of a logarithmic axis that masks are made on; 0 for all of the transform's.
      sources: sounds of a mixture, which is their mean.
      gain: training: the least and the largest factor that a sound is multiplied by before it is mixed.
    """

    sample_rate: int = 11025
    n_fft: int = 1022
    hop: int = 256
    frames: int = 256
    log_bins: int = 256
    sources: int = 2
    gain: Sequence[float] = (0.5, 1.5)

    def __post_init__(self):
        object.__setattr__(self, "gain", tuple(self.gain))
        self.stft  # its mistakes are those of now  # noqa: B018
        for field, least in (("sample_rate", 1000), ("frames", 1), ("log_bins", 0), ("sources", 2)):
            if getattr(self, field) < least:
                raise UserError(f"data.separation.{field}={getattr(self, field)}: give {least} or more")
        if self.log_bins > self.stft.bins:
            raise UserError(
                f"data.separation.log_bins={self.log_bins}: data.separation.n_fft={self.n_fft} makes {self.stft.bins}"
                " frequencies; give at most so many"
            )
        if self.log_bins == 1:
            raise UserError("data.separation.log_bins=1: give 2 or more, or 0 for all of the transform's")
        if len(self.gain) != 2 or not 0 < self.gain[0] <= self.gain[1] < np.inf:
            raise UserError(f"data.separation.gain={self.gain}: give (least, largest), 0 < least <= largest")

    @property
    def stft(self) -> STFTSpec:
        """The transform."""
        return STFTSpec(n_fft=self.n_fft, hop=self.hop)

    @property
    def samples(self) -> int:
        """Of a stretch."""
        return self.stft.samples(self.frames)

    @property
    def seconds(self) -> float:
        """Of a stretch."""
        return self.samples / self.sample_rate

    @property
    def shape(self) -> tuple[int]:
        """Of what `prepare` gives."""
        return (self.samples,)

    @property
    def dtype(self) -> str:
        """Of what `prepare` gives."""
        return "float32"

    @property
    def magnitudes_shape(self) -> tuple[int, int]:
        """Frames and bins of what a separator sees, and of its masks."""
        return self.frames, self.log_bins or self.stft.bins

    def prepare(
        self,
        entry: bytes | np.ndarray,
        rng: np.random.Generator | None,
        *,
        rate: float | None = None,
        span: tuple[float, float] | None = None,
        position: float | None = None,
    ) -> Float32[np.ndarray, " N"]:
        """A stretch of a sound; what is shorter is followed by silence.

        Args:
          entry: an encoded file, a video with sound among them, or samples.
          rng: of training: where the stretch begins and its gain are drawn. None: its middle, as loud as it is.
          rate: of samples that are an array, in Hz.
          span: the part of the sound that counts, from second to second.
          position: of training: where the stretch begins, as a share of where it may; None draws it.

        Raises:
          BadExample: it cannot be decoded, or is empty.
          UserError: what decodes or resamples is not installed, or samples come without a rate.
        """
        waveform = self.decode(entry, rate=rate, span=span)
        if rng is None:
            return self.stretch(waveform, self.middle(len(waveform)))
        room = max(0, len(waveform) - self.samples)
        position = rng.random() if position is None else position
        low, high = self.gain
        gain = low + (high - low) * rng.random()
        return np.float32(gain) * self.stretch(waveform, int(position * (room + 1)))

    def decode(
        self, entry: bytes | np.ndarray, *, rate: float | None = None, span: tuple[float, float] | None = None
    ) -> Float32[np.ndarray, " M"]:
        """All of a sound at the rate of the mixture; arguments and errors as those of `prepare`."""
        samples, rate = decode_samples(entry, rate, span)
        return resample(samples, rate, self.sample_rate)

    def middle(self, samples: int) -> int:
        """The first sample of the middle stretch of a sound of so many samples."""
        return max(0, samples - self.samples) // 2

    def stretch(self, waveform: Float32[np.ndarray, " M"], start: int) -> Float32[np.ndarray, " N"]:
        """The samples from one on, and silence where they end before."""
        part = waveform[start : start + self.samples]
        return np.pad(part, (0, self.samples - len(part)))

    def mix(self, waveforms: Sequence[Float32[np.ndarray, " N"]]) -> Float32[np.ndarray, " N"]:
        """A mixture of as many sounds as `sources`: their mean."""
        return np.stack(waveforms).sum(axis=0) / np.float32(self.sources)

    def magnitudes(self, waveform: Float[np.ndarray, " N"]) -> Float32[np.ndarray, "T F"]:
        """The magnitudes of a stretch, on the axis of the masks."""
        magnitudes = np.abs(self.stft.forward(waveform))
        if self.log_bins:
            magnitudes = to_log_frequency(magnitudes, self.log_bins)
        return magnitudes.astype(np.float32)

    def apply(
        self, mask: Float[np.ndarray, "T F"], mixture: Float[np.ndarray, " N"]
    ) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, "T B"]]:
        """What a mask leaves of a mixture: its waveform, float64, with the mixture's phases, and its transform's mask.

        Args:
          mask: as a separator gives it, in [0, 1].
          mixture: a stretch.
        """
        linear = mask.astype(np.float64)
        if self.log_bins:
            linear = from_log_frequency(linear, self.stft.bins)
        return self.stft.inverse(self.stft.forward(mixture) * linear, len(mixture)), linear
