"""Whether the numbers of a parameter were drawn from a distribution, or from the one that others were drawn from."""

import numpy as np
from scipy import stats

MOST, LIKELY = 4, 1e-4  # standard errors; p of Kolmogorov's and Smirnov's test
FEW = 30  # so few numbers have no standard error to speak of


def assert_drawn(path, values, expected):
    """Numbers of a frozen distribution of scipy's, or all of them a constant."""
    values = np.asarray(values, np.float64).ravel()
    if not hasattr(expected, "cdf"):
        np.testing.assert_array_equal(values, expected, err_msg=path)
        return
    low, high = expected.support()
    rounding = 1e-6 * expected.std()
    assert low - rounding <= values.min() and values.max() <= high + rounding, path
    if len(values) >= FEW:
        error = expected.std() / len(values) ** 0.5
        assert abs(values.mean() - expected.mean()) <= MOST * error, path
        kurtosis = float(expected.stats("k")) + 3
        assert abs(values.std() / expected.std() - 1) <= MOST * ((kurtosis - 1) / len(values) / 4) ** 0.5, path
    assert stats.kstest(values, expected.cdf).pvalue > LIKELY, path


def assert_alike(path, ours, theirs):
    """Two arrays of one shape drawn from one distribution; constants, also in single rows of a table, are the same."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, (path, ours.shape, theirs.shape)
    if ours.ndim == 2:
        constant = np.ptp(theirs, axis=1) == 0
        np.testing.assert_array_equal(np.ptp(ours, axis=1) == 0, constant, err_msg=path)
        np.testing.assert_array_equal(ours[constant], theirs[constant], err_msg=path)
        ours, theirs = ours[~constant], theirs[~constant]
    if np.ptp(theirs) == 0 if theirs.size else True:
        np.testing.assert_array_equal(ours, theirs, err_msg=path)
        return
    ours, theirs = ours.ravel(), theirs.ravel()
    if len(ours) >= FEW:
        pooled = np.concatenate([ours, theirs])
        error = pooled.std() * (2 / len(ours)) ** 0.5
        assert abs(ours.mean() - theirs.mean()) <= MOST * error, path
        kurtosis = stats.kurtosis(pooled) + 3
        spread = ((kurtosis - 1) / len(ours) / 2) ** 0.5
        assert abs(np.log(ours.std() / theirs.std())) <= MOST * spread, path
        if len(ours) > 2000 and kurtosis < 2.2:  # uniform: the bound shows
            assert abs(np.log(abs(ours).max() / abs(theirs).max())) <= 0.01, path
    assert stats.ks_2samp(ours, theirs).pvalue > LIKELY, path
