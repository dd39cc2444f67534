"""Shortlists: enough results to hold all of the true best ones; see the "Error bars" page."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy  # whose `special` loads when it is first used, not with tqvec
from numpy.typing import NDArray

from tqvec._types import Doubles, Floats, Ids
from tqvec.index.errors.standard_errors import candidates_for, estimate_true_scores, tail_rates
from tqvec.index.snapshot import Results, Snapshot

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(9)  # of the normal distribution of the k-th best true score
_HALVINGS = 24  # of the interval that it is in
_SMALL = 1e-30  # in place of no error at all
_BLOCK = 1 << 20  # scores looked at together
_GROWTH = 4  # of what is fetched, until it is enough


def search_shortlist(snapshot: Snapshot, queries: Floats, k: int, confidence: float) -> Results:
    """Return for each query enough results to hold all of its true best `k` with a probability of `confidence`.

    Parameters
    ----------
    snapshot : Snapshot
    queries : (nq, d) float32
        Checked.
    k : int
        At most the rows of the snapshot.
    confidence : float

    Returns
    -------
    Results
        (nq, m) for the longest list of m results; the last entries of shorter lists are empty.
    """
    pending, m = np.arange(queries.shape[0]), min(candidates_for(k), snapshot.ntotal)
    parts: list[tuple[Ids, Ids, tuple[NDArray, ...]]] = []
    while pending.size and m:
        scores, rows = snapshot.best(queries[pending], m)
        true = estimate_true_scores(snapshot, queries[pending], scores, rows)
        fetched = Fetched(
            mean=true.mean,
            std=np.maximum(true.std, _SMALL),
            rate=tail_rates(np.nan_to_num(scores)),
            rest=snapshot.ntotal - m,
        )
        need = np.minimum(required_length(fetched, k, confidence), snapshot.ntotal)
        done = need <= m
        parts.append((pending[done], need[done], (scores[done], rows[done], true.error[done])))
        pending, m = pending[~done], min(_GROWTH * m, snapshot.ntotal)
    shape = queries.shape[0], max((int(need.max(initial=0)) for _, need, _ in parts), default=0)
    scores, error = np.full(shape, snapshot.metric.worst, np.float32), np.full(shape, np.inf, np.float32)
    rows = np.full(shape, -1, np.int64)
    whole: tuple[NDArray, ...] = scores, rows, error
    for numbers, need, part in parts:
        query, column = np.nonzero(np.arange(part[0].shape[1]) < need[:, None])
        for target, array in zip(whole, part, strict=True):
            target[numbers[query], column] = array[query, column]
    return Results(scores, rows, error)


class Fetched(NamedTuple):
    """The best results of some queries, with normal estimates of their true scores. Larger is better.

    Attributes
    ----------
    mean, std : (nq, m) float64
        Of the true scores.
    rate : (nq,) float64
        Of the exponential tail that the scores are from.
    rest : int
        Number of rows that haven't been fetched.
    """

    mean: Doubles
    std: Doubles
    rate: Doubles
    rest: int


def required_length(fetched: Fetched, k: int, confidence: float) -> Ids:
    """Return the least number of results that hold all of the true best `k` with this probability, (nq,).

    It is at least `k`, and m + 1 where the `m` fetched results are too few.
    """
    nq, m = fetched.mean.shape
    out = np.empty(nq, np.int64)
    step = max(1, _BLOCK // m)
    for q in range(0, nq, step):
        mean, std, rate = (array[q : q + step] for array in fetched[:3])
        part = Fetched(mean, std, rate, fetched.rest)
        complete = _complete(part, k)[:, k:]
        enough = complete >= confidence
        out[q : q + step] = np.where(enough.any(axis=1), k + enough.argmax(axis=1), m + 1)
    return out


def _complete(fetched: Fetched, k: int) -> Doubles:
    """Probability that the first 0, 1, … m results hold all of the true best `k`, (nq, m + 1)."""
    nq, m = fetched.mean.shape
    centre, std = _kth_best(fetched, k)
    total = np.zeros((nq, m + 1))
    for node, weight in zip(_NODES, _WEIGHTS / _WEIGHTS.sum(), strict=True):
        threshold = centre + node * std
        below = scipy.special.log_ndtr((threshold[:, None] - fetched.mean) / fetched.std)
        logarithm = np.concatenate([below, -_better_unseen(fetched, threshold)[:, None]], axis=1)
        total += weight * np.exp(np.cumsum(logarithm[:, ::-1], axis=1)[:, ::-1])
    return total


def _kth_best(fetched: Fetched, k: int) -> tuple[Doubles, Doubles]:
    """Mean and standard deviation of the k-th best true score, (nq,) each."""
    mean, std = fetched.mean, fetched.std
    low, high = (mean - 8 * std).min(axis=1), (mean + 8 * std).max(axis=1)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = scipy.special.ndtr((mean - middle[:, None]) / std).sum(axis=1) > k - 0.5
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    steps = (mean - low[:, None]) / std
    share = scipy.special.ndtr(steps)
    density = np.exp(-np.square(steps) / 2) / (np.sqrt(2 * np.pi) * std)
    count_std = np.sqrt(np.sum(share * (1 - share), axis=1))
    return low, count_std / np.maximum(density.sum(axis=1), _SMALL)


def _better_unseen(fetched: Fetched, threshold: Doubles) -> Doubles:
    """Expected number of rows below the last result whose true score is above the threshold, (nq,).

    ∫ mλ e^{λy} Q(a + y/σ) dy over y > 0 is m (e^{λ²σ²/2 − λσa} Q(a − λσ) − Q(a)), with a the threshold's distance from
    the last mean in units of σ.
    """
    std, m = fetched.std[:, -1], fetched.mean.shape[1]
    away = (threshold - fetched.mean[:, -1]) / std
    steep = fetched.rate * std
    grown = np.exp(np.minimum(steep**2 / 2 - steep * away + scipy.special.log_ndtr(steep - away), 700.0))
    return np.clip(m * (grown - scipy.special.ndtr(-away)), 0.0, fetched.rest)
