"""Quality of separated sounds in decibels: SI-SDR, and SDR, SIR and SAR of BSS Eval, version 3.

Sounds are rows of samples. Of a silent reference, one whose samples are all equal, nothing can be said: SI-SDR is NaN,
and so are all values of BSS Eval of a mixture that has one. A silent estimate of one that is not has minus infinity.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

FILTER_LENGTH = 512  # taps by which an estimate may differ from its reference, as BSS Eval has it


class BSSEval(NamedTuple):
    """BSS Eval of estimates, each in decibels.

    Attributes:
      sdr: signal to all distortion.
      sir: signal to interference, what filters of the other references explain.
      sar: signal and interference to artifacts, what no filter of any reference explains.
    """

    sdr: Float64[np.ndarray, "*K N"]
    sir: Float64[np.ndarray, "*K N"]
    sar: Float64[np.ndarray, "*K N"]


def si_sdr(estimates: Float[np.ndarray, "*N T"], references: Float[np.ndarray, "*N T"]) -> Float64[np.ndarray, "*N"]:
    """Scale-invariant ratio of signal to distortion (Le Roux et al. 2019, arXiv:1811.02508), of sounds without mean.

    The reference is scaled to be nearest to the estimate; what is left of that is distortion.

    Returns:
      Decibels: infinity for a multiple of the reference, NaN where it is silent.
    """
    estimates, references = (np.asarray(x, np.float64) for x in (estimates, references))
    estimates = estimates - estimates.mean(axis=-1, keepdims=True)
    is_silent = (references == references[..., :1]).all(axis=-1)
    references = references - references.mean(axis=-1, keepdims=True)
    power = np.where(is_silent, np.nan, np.square(references).sum(axis=-1))
    scale = (estimates * references).sum(axis=-1) / power
    targets = scale[..., None] * references
    return _decibels(np.square(targets).sum(axis=-1), np.square(estimates - targets).sum(axis=-1))


def bss_eval(
    references: Float[np.ndarray, "N T"],
    estimates: Float[np.ndarray, "*K N T"],
    filter_length: int = FILTER_LENGTH,
) -> BSSEval:
    """BSS Eval, version 3 (Vincent et al. 2006), of sources that filters of so many taps may have changed.

    An estimate is that of the reference in its row: no other order is tried.

    Args:
      references: the sounds of a mixture.
      estimates: of each of them, in any number of attempts.
      filter_length: taps.

    Raises:
      ValueError: estimates of another number or length.
    """
    references, estimates = np.asarray(references, np.float64), np.asarray(estimates, np.float64)
    if references.ndim != 2 or estimates.shape[-2:] != references.shape:
        raise ValueError(f"estimates {list(estimates.shape)} of references {list(references.shape)}")
    attempts = estimates.reshape(-1, *references.shape)
    if (references == references[:, :1]).all(axis=1).any():
        nothing = np.full(estimates.shape[:-1], np.nan)
        return BSSEval(nothing, nothing.copy(), nothing.copy())
    count, samples = references.shape
    size = 1 << (samples + 2 * filter_length - 2).bit_length()
    spectra, heard = np.fft.rfft(references, size), np.fft.rfft(attempts, size)
    length = samples + filter_length - 1
    rows = np.arange(filter_length)
    gram = np.empty((count, filter_length, count, filter_length))
    for i in range(count):
        for j in range(i + 1):
            correlation = np.fft.irfft(spectra[i] * spectra[j].conj(), size)
            block = correlation[(rows[None, :] - rows[:, None]) % size]
            gram[i, :, j], gram[j, :, i] = block, block.T
    # Of each reference with every estimate, at each delay.
    products = np.fft.irfft(spectra.conj()[:, None, None] * heard, size)[..., :filter_length]
    padded = np.zeros((*attempts.shape[:2], length))
    padded[..., :samples] = attempts
    by_all = _filtered(gram.reshape(count * filter_length, -1), products, spectra, size)[..., :length]
    sdr, sir, sar = (np.empty(attempts.shape[:2]) for _ in range(3))
    for i in range(count):
        one = slice(i, i + 1)
        mine = _filtered(gram[i, :, i], products[one, :, one], spectra[one], size)[:, 0, :length]
        power = lambda x: np.square(x).sum(axis=-1)
        sdr[:, i] = _decibels(power(mine), power(padded[:, i] - mine))
        sir[:, i] = _decibels(power(mine), power(by_all[:, i] - mine))
        sar[:, i] = _decibels(power(by_all[:, i]), power(padded[:, i] - by_all[:, i]))
    shape = estimates.shape[:-1]
    return BSSEval(sdr.reshape(shape), sir.reshape(shape), sar.reshape(shape))


def _filtered(gram: np.ndarray, products: np.ndarray, spectra: np.ndarray, size: int) -> np.ndarray:
    """The sums of filtered references that are nearest to estimates.

    Args:
      gram: inner products of delayed references, [references * delays] squared.
      products: of those with estimates, [references, attempts, estimates, delays].
      spectra: of the references.
      size: of their Fourier transform.
    """
    count, attempts, estimates, delays = products.shape
    right = products.transpose(0, 3, 1, 2).reshape(count * delays, attempts * estimates)
    try:
        filters = np.linalg.solve(gram, right)
    except np.linalg.LinAlgError:  # a reference is a filtered one of another
        filters = np.linalg.lstsq(gram, right, rcond=None)[0]
    filters = filters.reshape(count, delays, attempts, estimates)
    spectrum = np.fft.rfft(filters, size, axis=1)
    return np.fft.irfft(np.einsum("rfae,rf->aef", spectrum, spectra), size)


def _decibels(signal: np.ndarray | np.floating, noise: np.ndarray | np.floating) -> np.ndarray:
    """Ten times the logarithm of a ratio of powers; minus infinity of no signal, whatever the noise."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = 10 * np.log10(signal / noise)
    return np.where(signal == 0, -np.inf, ratio)
