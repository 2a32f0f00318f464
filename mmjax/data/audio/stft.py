"""Short-time Fourier transforms of waveforms and back, and the logarithmic axis of frequencies of masks. NumPy only."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Complex, Float

from mmjax.errors import UserError

_RATIO = 21.0  # of Sound of Pixels' axis: of the last bin's step to the first one's


@dataclasses.dataclass(frozen=True, kw_only=True)
class STFTSpec:
    """A short-time Fourier transform with a periodic Hann window, centred frames and zeros beyond the ends.

    Its inverse is exact: the waveform is what its transform gives back, whatever the window's overlap.

    Attributes:
      n_fft: samples of a window.
      hop: samples from frame to frame, at most half a window.
    """

    n_fft: int
    hop: int

    def __post_init__(self):
        if not (0 < self.n_fft < 1 << 20 and self.n_fft % 2 == 0):
            raise UserError(f"data.separation.n_fft={self.n_fft}: give an even number of samples above 0")
        if not 0 < self.hop <= self.n_fft // 2:
            raise UserError(
                f"data.separation.hop={self.hop}: give from 1 to {self.n_fft // 2}, half of data.separation.n_fft"
            )

    @property
    def bins(self) -> int:
        """Frequencies from 0 to half the rate of the samples."""
        return self.n_fft // 2 + 1

    def frames(self, samples: int) -> int:
        """How many frames a waveform of this length gives."""
        return 1 + samples // self.hop

    def samples(self, frames: int) -> int:
        """The longest waveform that gives this many frames."""
        return frames * self.hop - 1

    def forward(self, waveform: Float[np.ndarray, " N"]) -> Complex[np.ndarray, "T F"]:
        """The transform of a waveform, complex128; frame t is centred at sample t * hop."""
        half = self.n_fft // 2
        padded = np.zeros((self.frames(len(waveform)) - 1) * self.hop + self.n_fft)
        padded[half : half + len(waveform)] = waveform
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.n_fft)[:: self.hop]
        return np.fft.rfft(frames * _hann(self.n_fft), axis=1)

    def inverse(self, transform: Complex[np.ndarray, "T F"], samples: int) -> Float[np.ndarray, " N"]:
        """The waveform, float64, whose transform is nearest to a given one (Griffin and Lim 1984).

        Args:
          transform: of as many frames as a waveform of this length has.
          samples: of the waveform.

        Raises:
          ValueError: another number of frames or of bins.
        """
        if transform.shape != (self.frames(samples), self.bins):
            raise ValueError(
                f"a transform {list(transform.shape)} is not that of {samples} samples,"
                f" {[self.frames(samples), self.bins]}"
            )
        window, half = _hann(self.n_fft), self.n_fft // 2
        pieces = np.fft.irfft(transform, self.n_fft, axis=1) * window
        total = np.zeros(len(transform) * self.hop + self.n_fft)
        weight = np.zeros_like(total)
        for index, piece in enumerate(pieces):
            start = index * self.hop
            total[start : start + self.n_fft] += piece
            weight[start : start + self.n_fft] += window**2
        inside = slice(half, half + samples)
        return total[inside] / weight[inside]


@functools.lru_cache(maxsize=8)
def _hann(n_fft: int) -> Float[np.ndarray, " n"]:
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    window.setflags(write=False)
    return window


def to_log_frequency(values: Float[np.ndarray, "T F"], log_bins: int) -> Float[np.ndarray, "T L"]:
    """Values on Sound of Pixels' logarithmic axis, by linear interpolation of evenly spaced bins."""
    return _interpolate(values, *_log_positions(values.shape[1], log_bins))


def from_log_frequency(values: Float[np.ndarray, "T L"], bins: int) -> Float[np.ndarray, "T F"]:
    """Values of evenly spaced bins, by linear interpolation of logarithmic ones."""
    return _interpolate(values, *_even_positions(values.shape[1], bins))


@functools.lru_cache(maxsize=8)
def _log_positions(bins: int, log_bins: int) -> tuple[np.ndarray, np.ndarray]:
    share = np.linspace(0, 1, log_bins)
    return _neighbours((_RATIO**share - 1) / (_RATIO - 1) * (bins - 1), bins)


@functools.lru_cache(maxsize=8)
def _even_positions(log_bins: int, bins: int) -> tuple[np.ndarray, np.ndarray]:
    share = np.linspace(0, 1, bins)
    return _neighbours(np.log(share * (_RATIO - 1) + 1) / np.log(_RATIO) * (log_bins - 1), log_bins)


def _neighbours(positions: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The lower neighbour of each position among so many, and how far beyond it lies."""
    low = np.clip(np.floor(positions).astype(int), 0, count - 2)
    return low, positions - low


def _interpolate(values: np.ndarray, low: np.ndarray, share: np.ndarray) -> np.ndarray:
    # By columns and not as a matrix product, whose threads would wait for one another in every worker.
    return values[:, low] * (1 - share) + values[:, low + 1] * share
