"""Error bars in NumPy, after the formulas of the "Error bars" page: what the compiled ones are tested against."""

import numpy as np
from scipy.special import log_ndtr, ndtr

from tqvec.index.errors.standard_errors import candidates_for, near_error, score_geometry

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(9)


def hill(below, windows):
    """Rates (nq, n_windows) of the best `windows` scores, which are `below` (nq, m) the first one."""
    last = windows - 1
    total = windows * below[:, last] - np.cumsum(below, axis=1)[:, last]
    return last / np.maximum(total, 1e-150)


def local_rates(scores, ntotal):
    """Return the slope −d/ds log p of the density p of a query's scores at its best `m`, and the windows behind it.

    At rank r the slope comes from the best 2r + 20 scores, if there are as many and they are no more than half of all
    rows. Hill's estimate is of the hazard rate. It becomes the slope by the factor (1 − 2S)/(1 − S), exact for the
    logistic distribution, with S the share of all rows that are better.

    Returns
    -------
    slopes : (nq, m) float64
    windows : (m,) int64
        Number of scores that each slope is estimated from.
    """
    rank = np.arange(scores.shape[1])
    windows = np.minimum(candidates_for(0) + 2 * rank, min(scores.shape[1], max(6, ntotal // 2)))
    better = (rank + 0.5) / max(1, ntotal)
    slope = np.maximum(1 - 2 * better, 0) / (1 - better)
    return hill(np.abs(scores.astype(np.float64) - scores[:, :1]), windows) * slope, windows


def true_scores(snapshot, queries, scores, rows):
    """Mean, standard deviation and error of the true scores of the best rows, and the rate of their tail."""
    bias, std = near_error(snapshot.codec)
    stored = snapshot.gather(rows, snapshot.metric.scalars)
    geometry = score_geometry(snapshot.codec, snapshot.metric, stored, queries, scores)
    rates, windows = local_rates(scores, snapshot.ntotal)
    limit = np.sqrt(2 * np.log(max(1, snapshot.ntotal)))
    total = np.zeros_like(rates)
    for _ in range(2):
        unit = geometry.std(total)
        own = std * unit
        selection_bias = own * np.minimum(own * rates, limit)
        total = bias * unit + selection_bias
    error = np.sqrt(own**2 + total**2 + selection_bias**2 / windows)
    below = np.abs(scores.astype(np.float64) - scores[:, :1])
    rate = hill(below, np.array([scores.shape[1]]))[:, 0]
    return scores * snapshot.metric.sign - total, own, error, rate


def required_length(fetched, k, confidence):
    """The least number of results that hold all of the true best `k`."""
    enough = complete(fetched, k)[:, k:] >= confidence
    return np.where(enough.any(axis=1), k + enough.argmax(axis=1), fetched.mean.shape[1] + 1)


def complete(fetched, k):
    """Probability that the first 0, 1, … m results hold all of the true best `k`, (nq, m + 1)."""
    nq, m = fetched.mean.shape
    centre, std = kth_best(fetched, k)
    total = np.zeros((nq, m + 1))
    for node, weight in zip(NODES, WEIGHTS / WEIGHTS.sum(), strict=True):
        threshold = centre + node * std
        below = log_ndtr((threshold[:, None] - fetched.mean) / fetched.std)
        logarithm = np.concatenate([below, -better_unseen(fetched, threshold)[:, None]], axis=1)
        total += weight * np.exp(np.cumsum(logarithm[:, ::-1], axis=1)[:, ::-1])
    return total


def kth_best(fetched, k):
    """Mean and standard deviation of the k-th best true score, (nq,) each."""
    mean, std = fetched.mean, fetched.std
    low, high = (mean - 8 * std).min(axis=1), (mean + 8 * std).max(axis=1)
    for _ in range(24):
        middle = (low + high) / 2
        above = ndtr((mean - middle[:, None]) / std).sum(axis=1) > k - 0.5
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    steps = (mean - low[:, None]) / std
    share = ndtr(steps)
    density = np.exp(-np.square(steps) / 2) / (np.sqrt(2 * np.pi) * std)
    count_std = np.sqrt(np.sum(share * (1 - share), axis=1))
    return low, count_std / np.maximum(density.sum(axis=1), 1e-30)


def better_unseen(fetched, threshold):
    """Expected number of rows below the last result whose true score is above the threshold, (nq,).

    ∫ mλ e^{λy} Q(a + y/σ) dy over y > 0 is m (e^{λ²σ²/2 − λσa} Q(a − λσ) − Q(a)), with a the threshold's distance from
    the last mean in units of σ.
    """
    std, m = fetched.std[:, -1], fetched.mean.shape[1]
    away = (threshold - fetched.mean[:, -1]) / std
    steep = fetched.rate * std
    grown = np.exp(np.minimum(steep**2 / 2 - steep * away + log_ndtr(steep - away), 700.0))
    return np.clip(m * (grown - ndtr(-away)), 0.0, fetched.rest)
