"""How many results it takes to have all of the true best ones among them (docs/explanation/errors.md)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy  # whose `special` loads when it is first used, not with tqvec
from numpy.typing import NDArray

from tqvec._types import Doubles, Floats, Ids
from tqvec.index.errors.standard_errors import Find, Judge, reach, tail_rates

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(9)  # of the normal distribution of the k-th best true score
_HALVINGS = 24  # of the interval that it is in
_SMALL = 1e-30  # in place of no error at all
_BLOCK = 1 << 20  # scores looked at together
_GROWTH = 4  # of what is fetched, until it is enough


def shortlist(find: Find, judge: Judge, queries: Floats, k: int, confidence: float) -> tuple[Floats, Ids, Floats]:
    """As many results a query as hold all of its true best `k` with a probability of at least `confidence`.

    Parameters
    ----------
    find : callable
        As in `with_errors`.
    judge : Judge
    queries : (nq, d) float32
        Checked.
    k : int
        At most the number of rows.
    confidence : float

    Returns
    -------
    scores : (nq, m) float32
        m is what the query takes that needs most; of the others the last entries are empty.
    ids : (nq, m) int64
    error : (nq, m) float32
    """
    worst = np.inf if judge.metric == "l2" else -np.inf
    pending, m = np.arange(queries.shape[0]), min(reach(k), judge.ntotal)
    parts: list[tuple[Ids, Ids, tuple[NDArray, ...]]] = []
    while pending.size and m:
        scores, ids = find(queries[pending], m)
        judged = judge(queries[pending], scores, ids)
        rate = tail_rates(np.nan_to_num(scores))
        deviation = np.maximum(judged.deviation, _SMALL)
        fetched = Fetched(judged.mean, deviation, rate, judge.ntotal - m)
        need = np.minimum(lengths(fetched, k, confidence), judge.ntotal)
        done = need <= m
        parts.append((pending[done], need[done], (scores[done], ids[done], judged.error[done])))
        pending, m = pending[~done], min(_GROWTH * m, judge.ntotal)
    shape = queries.shape[0], max((int(need.max(initial=0)) for _, need, _ in parts), default=0)
    scores, error = np.full(shape, worst, np.float32), np.full(shape, np.inf, np.float32)
    ids = np.full(shape, -1, np.int64)
    results: tuple[NDArray, ...] = scores, ids, error
    for rows, need, found in parts:
        row, column = np.nonzero(np.arange(found[0].shape[1]) < need[:, None])
        for whole, part in zip(results, found, strict=True):
            whole[rows[row], column] = part[row, column]
    return scores, ids, error


class Fetched(NamedTuple):
    """The best results of some queries, normal estimates of what is better the larger it is.

    Attributes
    ----------
    mean, deviation : (nq, m) float64
        Of their true scores.
    rate : (nq,) float64
        Of the exponential tail that they are.
    rest : int
        Rows that haven't been fetched.
    """

    mean: Doubles
    deviation: Doubles
    rate: Doubles
    rest: int


def lengths(fetched: Fetched, k: int, confidence: float) -> Ids:
    """Least number of results, at least `k`, that hold all of the true best `k` with this probability, (nq,).

    Where that are more than have been fetched: m + 1.
    """
    nq, m = fetched.mean.shape
    out = np.empty(nq, np.int64)
    step = max(1, _BLOCK // m)
    for q in range(0, nq, step):
        mean, deviation, rate = (array[q : q + step] for array in fetched[:3])
        part = Fetched(mean, deviation, rate, fetched.rest)
        complete = _complete(part, k)[:, k:]
        enough = complete >= confidence
        out[q : q + step] = np.where(enough.any(axis=1), k + enough.argmax(axis=1), m + 1)
    return out


def _complete(fetched: Fetched, k: int) -> Doubles:
    """Probability that the first 0, 1, … m results hold all of the true best `k`, (nq, m + 1)."""
    nq, m = fetched.mean.shape
    centre, deviation = _kth_best(fetched, k)
    total = np.zeros((nq, m + 1))
    for node, weight in zip(_NODES, _WEIGHTS / _WEIGHTS.sum(), strict=True):
        threshold = centre + node * deviation
        below = scipy.special.log_ndtr((threshold[:, None] - fetched.mean) / fetched.deviation)
        logarithm = np.concatenate([below, -_better_unseen(fetched, threshold)[:, None]], axis=1)
        total += weight * np.exp(np.cumsum(logarithm[:, ::-1], axis=1)[:, ::-1])
    return total


def _kth_best(fetched: Fetched, k: int) -> tuple[Doubles, Doubles]:
    """Mean and standard deviation of the k-th best true score, (nq,) each."""
    mean, deviation = fetched.mean, fetched.deviation
    low, high = (mean - 8 * deviation).min(axis=1), (mean + 8 * deviation).max(axis=1)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = scipy.special.ndtr((mean - middle[:, None]) / deviation).sum(axis=1) > k - 0.5
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    steps = (mean - low[:, None]) / deviation
    share = scipy.special.ndtr(steps)
    density = np.exp(-np.square(steps) / 2) / (np.sqrt(2 * np.pi) * deviation)
    spread = np.sqrt(np.sum(share * (1 - share), axis=1))
    return low, spread / np.maximum(density.sum(axis=1), _SMALL)


def _better_unseen(fetched: Fetched, threshold: Doubles) -> Doubles:
    """Expected number of rows below the last result whose true score is above the threshold, (nq,).

    ∫ mλ e^{λy} Q(a + y/σ) dy over y > 0 is m (e^{λ²σ²/2 − λσa} Q(a − λσ) − Q(a)), with a the threshold's distance from
    the last mean in units of σ.
    """
    deviation, m = fetched.deviation[:, -1], fetched.mean.shape[1]
    away = (threshold - fetched.mean[:, -1]) / deviation
    steep = fetched.rate * deviation
    grown = np.exp(np.minimum(steep**2 / 2 - steep * away + scipy.special.log_ndtr(steep - away), 700.0))
    return np.clip(m * (grown - scipy.special.ndtr(-away)), 0.0, fetched.rest)
