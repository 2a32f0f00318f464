"""Writes data/log_mel.npz: filters and log-mel spectrograms of Hugging Face's `audio_utils`, in float64.

Run it with the `full` extra installed: python -m tests.golden.make_audio
"""

from pathlib import Path

import numpy as np

from mmjax.data.audio import log_mel

PATH = Path(__file__).parent / "data/log_mel.npz"

# A small spectrogram for each feature: both scales, both norms, both kinds of triangles, each logarithm.
SPECS = {
    "ast": log_mel.preset("ast", n_mels=24),
    "whisper": log_mel.preset("whisper", n_mels=20),
    "librosa": log_mel.preset("librosa", n_fft=512, window=512, hop=256, n_mels=20),
    "magnitude": log_mel.LogMelSpec(
        sample_rate=8000, n_fft=256, window=256, hop=100, n_mels=16, f_min=60.0, f_max=3800.0, power=1.0, log="db"
    ),
    "uncentred": log_mel.LogMelSpec(n_fft=512, window=320, n_mels=16, center=False, mel_norm="slaney", floor=0.02),
}


def waveform(samples=2000):
    """A rising tone in noise, as loud at the end as at the start, with a fraction of silence."""
    rng = np.random.default_rng(0)
    time = np.arange(samples) / 16000
    x = 0.4 * np.sin(2 * np.pi * (300 * time + 12000 * time**2)) + 0.05 * rng.standard_normal(samples)
    x[samples // 2 : samples // 2 + 300] *= 1e-3
    return x


def reference_filters(spec):
    """[bins, F] by transformers.audio_utils."""
    from transformers import audio_utils

    kaldi = spec.triangles == "mel"
    return audio_utils.mel_filter_bank(
        num_frequency_bins=spec.n_fft // 2 + 1,
        num_mel_filters=spec.n_mels,
        min_frequency=spec.f_min,
        max_frequency=spec.highest,
        sampling_rate=spec.sample_rate,
        norm=None if spec.mel_norm == "none" else spec.mel_norm,
        mel_scale="kaldi" if kaldi else spec.mel_scale,
        triangularize_in_mel_space=kaldi,
    )


def reference(x, spec):
    """[T, F] by transformers.audio_utils.spectrogram; cut, clipped and normalised here as the specs say."""
    from transformers import audio_utils

    decibels = dict(min_value=spec.floor) if spec.log == "db" else {}
    out = audio_utils.spectrogram(
        x,
        audio_utils.window_function(spec.window, "hann", periodic=spec.periodic),
        frame_length=spec.window,
        hop_length=spec.hop,
        fft_length=spec.n_fft,
        power=spec.power,
        center=spec.center,
        preemphasis=spec.preemphasis or None,
        remove_dc_offset=spec.remove_mean,
        mel_filters=reference_filters(spec),
        mel_floor=spec.floor,
        log_mel={"ln": "log", "log10": "log10", "db": "dB"}[spec.log],
        dtype=np.float64,
        **decibels,
    ).T
    out = out[:-1] if spec.drop_last else out
    if spec.dynamic_range:
        out = np.maximum(out, out.max() - spec.dynamic_range)
    return (out - spec.mean) / spec.std


if __name__ == "__main__":
    arrays = {}
    for name, spec in SPECS.items():
        arrays[f"{name}/filters"] = reference_filters(spec).astype(np.float32)
        arrays[f"{name}/log_mel"] = reference(waveform(), spec).astype(np.float32)
    np.savez_compressed(PATH, **arrays)
    print({name: array.shape for name, array in arrays.items()}, PATH.stat().st_size)
