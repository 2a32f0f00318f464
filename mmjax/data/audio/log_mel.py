"""Log-mel spectrograms of waveforms, and SpecAugment. NumPy only; everything random comes from the generator passed."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float

from mmjax.data.bad_example import BadExample
from mmjax.errors import UserError, validate_choice

MEL_SCALES = ("htk", "slaney")
MEL_NORMS = ("none", "slaney")
TRIANGLES = ("hertz", "mel")
WINDOWS = {"hann": 0.5, "hamming": 0.54}  # the constant of a cosine window
LOGARITHMS = ("ln", "log10", "db")


@dataclasses.dataclass(frozen=True)
class LogMelSpec:
    """How a waveform becomes a log-mel spectrogram; the default is 25 ms windows every 10 ms at 16 kHz.

    Attributes:
      sample_rate: of the waveform, in Hz. Nothing is resampled.
      n_fft: length of the Fourier transform; a shorter window is filled up with zeros.
      hop: samples from frame to frame.
      window: samples of the window.
      window_shape: `hann` or `hamming`.
      n_mels: F.
      f_min, f_max: edges of the lowest and the highest mel filter in Hz; f_max 0 means half the sample rate.
      mel_scale: `htk` (logarithmic) or `slaney` (linear below 1 kHz).
      mel_norm: `slaney` gives each filter unit area in Hz, `none` unit height.
      triangles: the axis on which the filters are triangles: `hertz` (librosa) or `mel` (Kaldi).
      periodic: the window is one period of its cosine (librosa), else symmetric (Kaldi).
      center: frame t is centred at sample t * hop, the ends being mirrored; else it begins there and has to fit.
      remove_mean, preemphasis: on each frame before its window, as Kaldi does: x[i] - preemphasis * x[i - 1].
      power: 2 for energies, 1 for magnitudes.
      log: `ln`, `log10`, or `db` (decibels, 0 dB at 1).
      offset: added before the logarithm.
      floor: what is smaller counts as this before the logarithm.
      dynamic_range: after the logarithm nothing is further below the loudest value than this; 0 for no limit.
      drop_last: leaves out the last frame (Whisper: 30 s at 100 frames a second are 3000 frames, not 3001).
      mean, std: the result is (log-mel - mean) / std.
    """

    sample_rate: int = 16000
    n_fft: int = 400
    hop: int = 160
    window: int = 400
    window_shape: str = "hann"
    n_mels: int = 128
    f_min: float = 0.0
    f_max: float = 0.0
    mel_scale: str = "htk"
    mel_norm: str = "none"
    triangles: str = "hertz"
    periodic: bool = True
    center: bool = True
    remove_mean: bool = False
    preemphasis: float = 0.0
    power: float = 2.0
    log: str = "ln"
    offset: float = 0.0
    floor: float = 1e-10
    dynamic_range: float = 0.0
    drop_last: bool = False
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self):
        validate_choice("mel_scale", self.mel_scale, MEL_SCALES)
        validate_choice("mel_norm", self.mel_norm, MEL_NORMS)
        validate_choice("triangles", self.triangles, TRIANGLES)
        validate_choice("window_shape", self.window_shape, WINDOWS)
        validate_choice("log", self.log, LOGARITHMS)
        for field in ("sample_rate", "n_fft", "hop", "window", "n_mels", "floor", "std", "power"):
            if not getattr(self, field) > 0:
                raise UserError(f"{field}={getattr(self, field)} is not positive")
        if self.window > self.n_fft:
            raise UserError(f"window={self.window} is longer than n_fft={self.n_fft}; make n_fft at least as long")
        if not 0 <= self.f_min < self.highest <= self.sample_rate / 2:
            raise UserError(
                f"f_min={self.f_min}, f_max={self.f_max}: give 0 <= f_min < f_max <= {self.sample_rate / 2:g} Hz,"
                " half the sample rate"
            )

    @property
    def highest(self) -> float:
        """The upper edge of the highest filter in Hz."""
        return self.f_max or self.sample_rate / 2

    def frames(self, samples: int) -> int:
        """How many frames a waveform of this length gives."""
        around = 2 * (self.window // 2) if self.center else 0
        return max(0, 1 + (samples + around - self.window) // self.hop - int(self.drop_last))

    def samples(self, frames: int) -> int:
        """How long a waveform is that gives this many frames and begins no other."""
        if self.center and self.drop_last:
            return frames * self.hop
        return (frames - 1) * self.hop + (1 if self.center else self.window)


# Named as the models whose input they make.
PRESETS = {
    # AST: Kaldi's filter banks; halved after normalisation with AudioSet's mean and standard deviation.
    "ast": LogMelSpec(
        n_fft=512,
        f_min=20.0,
        triangles="mel",
        periodic=False,
        center=False,
        remove_mean=True,
        preemphasis=0.97,
        floor=float(np.finfo(np.float32).eps),
        mean=-4.2677393,
        std=2 * 4.5689974,
    ),
    "whisper": LogMelSpec(
        n_mels=80,
        f_max=8000.0,
        mel_scale="slaney",
        mel_norm="slaney",
        log="log10",
        dynamic_range=8.0,
        drop_last=True,
        mean=-4.0,
        std=4.0,
    ),
    # MBT. What its paper says is the window, its step and the number of filters; mean and standard deviation are its
    # code's. Nobody published how its spectrograms were made beyond that: scale, edges, magnitudes and offset are here
    # those of AudioSet's features (VGGish), from whose makers it comes.
    "mbt": LogMelSpec(
        n_fft=512,
        window_shape="hamming",
        f_min=125.0,
        f_max=7500.0,
        triangles="mel",
        center=False,
        power=1.0,
        offset=0.01,
        mean=1.102,
        std=2.762,
    ),
    # librosa.feature.melspectrogram with its defaults, then power_to_db(ref=1, top_db=80).
    "librosa": LogMelSpec(
        sample_rate=22050,
        n_fft=2048,
        hop=512,
        window=2048,
        mel_scale="slaney",
        mel_norm="slaney",
        log="db",
        dynamic_range=80.0,
    ),
}


def preset(name: str, **changes) -> LogMelSpec:
    """Returns one of `PRESETS` with some fields changed.

    Raises:
      UserError: the name is not in the table, or a value is wrong.
    """
    return dataclasses.replace(PRESETS[validate_choice("audio preset", name, PRESETS)], **changes)


def hertz_to_mel(hertz: Float[np.ndarray, "*n"], scale: str) -> Float[np.ndarray, "*n"]:
    """Frequencies on the mel scale: HTK's 2595 log10(1 + f / 700), or Slaney's, where 1 kHz is 15 mel."""
    hertz = np.asarray(hertz, np.float64)
    if scale == "htk":
        return np.asarray(2595.0 * np.log10(1.0 + hertz / 700.0))
    return np.where(hertz < 1000.0, hertz * 3 / 200, 15.0 + np.log(np.maximum(hertz, 1.0) / 1000.0) * 27 / np.log(6.4))


def mel_to_hertz(mel: Float[np.ndarray, "*n"], scale: str) -> Float[np.ndarray, "*n"]:
    """The inverse of `hertz_to_mel`."""
    mel = np.asarray(mel, np.float64)
    if scale == "htk":
        return np.asarray(700.0 * (10.0 ** (mel / 2595.0) - 1.0))
    return np.where(mel < 15.0, mel * 200 / 3, 1000.0 * np.exp((mel - 15.0) * np.log(6.4) / 27))


@functools.lru_cache(maxsize=16)
def mel_filters(spec: LogMelSpec) -> Float[np.ndarray, "bins F"]:
    """The triangular filters, each from its lower neighbour's centre over its own to its upper neighbour's.

    Returns:
      Read-only float64 weights of the n_fft // 2 + 1 frequencies. Filters narrower than the distance of two frequencies
      may be empty, as in the originals.
    """
    low, high = hertz_to_mel(np.array([spec.f_min, spec.highest]), spec.mel_scale)
    mel = np.linspace(low, high, spec.n_mels + 2)
    edges = mel_to_hertz(mel, spec.mel_scale)
    bins = np.arange(spec.n_fft // 2 + 1) * (spec.sample_rate / spec.n_fft)
    corners, points = (edges, bins) if spec.triangles == "hertz" else (mel, hertz_to_mel(bins, spec.mel_scale))
    lower, centre, upper = corners[:-2], corners[1:-1], corners[2:]
    points = points[:, None]
    weights = np.maximum(0, np.minimum((points - lower) / (centre - lower), (upper - points) / (upper - centre)))
    if spec.mel_norm == "slaney":
        weights = weights * (2.0 / (edges[2:] - edges[:-2]))
    weights.setflags(write=False)
    return weights


def log_mel(waveform: np.ndarray, spec: LogMelSpec) -> Float[np.ndarray, "T F"]:
    """Makes a waveform's log-mel spectrogram.

    Args:
      waveform: [N] mono samples, float in [-1, 1] or int16.
      spec: how.

    Returns:
      float32, computed in float64.

    Raises:
      BadExample: `empty` when the waveform gives no frame, `corrupt` when a sample is not finite.
      TypeError: the waveform is neither float nor int16, or not one line of samples.
    """
    if waveform.ndim != 1:
        raise TypeError(f"a waveform is one line of samples, not an array of shape {waveform.shape}")
    if waveform.dtype != np.int16 and not np.issubdtype(waveform.dtype, np.floating):
        raise TypeError(f"a waveform is float in [-1, 1] or int16, not {waveform.dtype}")
    x = waveform / 32768.0 if waveform.dtype == np.int16 else waveform.astype(np.float64)
    if not len(x) or spec.frames(len(x)) < 1:
        raise BadExample("empty", f"{len(x)} samples give no frame of {spec.window} samples")
    if not np.isfinite(x).all():
        raise BadExample("corrupt", "a sample is not finite")
    if spec.center:
        x = np.pad(x, spec.window // 2, mode="reflect" if len(x) > 1 else "edge")
    frames = np.lib.stride_tricks.sliding_window_view(x, spec.window)[:: spec.hop]
    frames = frames[:-1] if spec.drop_last else frames
    if spec.remove_mean:
        frames = frames - frames.mean(axis=1, keepdims=True)
    if spec.preemphasis:
        # Before the first sample stands another like it.
        before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
        frames = frames - spec.preemphasis * before
    spectrum = np.fft.rfft(frames * _cosine_window(spec), spec.n_fft, axis=1)
    power = spectrum.real**2 + spectrum.imag**2
    if spec.power != 2:
        power = power ** (spec.power / 2)
    mel = np.maximum(power @ mel_filters(spec) + spec.offset, spec.floor)
    if spec.log == "ln":
        mel = np.log(mel)
    else:
        # A magnitude's decibels are twice a power's: both are 10 log10 of the energy.
        mel = np.log10(mel) * (20 / spec.power if spec.log == "db" else 1)
    if spec.dynamic_range:
        mel = np.maximum(mel, mel.max() - spec.dynamic_range)
    return ((mel - spec.mean) / spec.std).astype(np.float32)


def _cosine_window(spec: LogMelSpec) -> np.ndarray:
    turns = np.arange(spec.window) / max(1, spec.window if spec.periodic else spec.window - 1)
    constant = WINDOWS[spec.window_shape]
    return constant - (1 - constant) * np.cos(2 * np.pi * turns)


def fit_frames(spectrogram: Float[np.ndarray, "T F"], frames: int, value: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a spectrogram at the end, or fills it up with a value, to a number of frames.

    Returns:
      The spectrogram [frames, F] and which frames are real, bool [frames].
    """
    real = min(len(spectrogram), frames)
    out = np.full((frames, spectrogram.shape[1]), value, spectrogram.dtype)
    out[:real] = spectrogram[:real]
    return out, np.arange(frames) < real


def spec_augment(
    spectrogram: Float[np.ndarray, "T F"],
    rng: np.random.Generator,
    *,
    time_masks: int = 2,
    time_width: int = 100,
    time_share: float = 1.0,
    frequency_masks: int = 2,
    frequency_width: int = 27,
    value: float = 0.0,
) -> Float[np.ndarray, "T F"]:
    """Hides stretches of time and of frequency (SpecAugment, arXiv:1904.08779, without time warping; policy LD).

    A mask's width is uniform in 0..width, its start uniform among those where it fits. Masks may overlap.

    Args:
      spectrogram: left as it is; a changed copy is returned.
      rng: drawn from twice a mask.
      time_masks, time_width: number of time masks, and the widest one in frames.
      time_share: no time mask is wider than this share of the spectrogram (the paper's p).
      frequency_masks, frequency_width: number of frequency masks, and the widest one in mel bins.
      value: what stands there: 0, the mean of normalised spectrograms.
    """
    out = spectrogram.copy()
    length, bins = out.shape
    widest = min(time_width, int(time_share * length))
    for axis, count, width, size in ((0, time_masks, widest, length), (1, frequency_masks, frequency_width, bins)):
        for _ in range(count):
            span = int(rng.integers(0, min(width, size) + 1))
            start = int(rng.integers(0, size - span + 1))
            stretch = slice(start, start + span)
            out[(stretch, slice(None)) if axis == 0 else (slice(None), stretch)] = value
    return out
