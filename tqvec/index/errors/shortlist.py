"""Shortlists: enough results to hold all of the true best ones; see the "Error bars" page."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._types import Doubles, Floats, Ids
from tqvec.index.errors.standard_errors import candidates_for, estimate_true_scores
from tqvec.index.snapshot import Results, View
from tqvec.kernels.dispatch import kernel

_POINTS, _WEIGHTS = np.polynomial.hermite_e.hermegauss(9)  # of the normal distribution of the k-th best true score
_NODES = np.array([_POINTS, _WEIGHTS / _WEIGHTS.sum()])
_SMALL = 1e-30  # in place of no error at all
_GROWTH = 4  # of what is fetched, until it is enough


def search_shortlist(view: View, queries: Floats, k: int, confidence: float) -> Results:
    """Return for each query enough results to hold all of its true best `k` with a probability of `confidence`.

    Parameters
    ----------
    view : View
    queries : (nq, d) float32
        Checked.
    k : int
        At most the rows of the view.
    confidence : float

    Returns
    -------
    Results
        (nq, m) for the longest list of m results; the last entries of shorter lists are empty.
    """
    m = min(candidates_for(k), view.ntotal)
    if queries.shape[0] == 1 and m:
        return _search_one(view, queries, k, confidence, m)
    pending = np.arange(queries.shape[0])
    parts: list[tuple[Ids, Ids, tuple[NDArray, ...]]] = []
    while pending.size and m:
        fetched, need = _fetch(view, queries[pending], k, confidence, m)
        done = need <= m
        parts.append((pending[done], need[done], tuple(array[done] for array in fetched)))
        pending, m = pending[~done], min(_GROWTH * m, view.ntotal)
    shape = queries.shape[0], max((int(need.max(initial=0)) for _, need, _ in parts), default=0)
    scores, error = np.full(shape, view.metric.worst, np.float32), np.full(shape, np.inf, np.float32)
    rows = np.full(shape, -1, np.int64)
    whole: tuple[NDArray, ...] = scores, rows, error
    for numbers, need, part in parts:
        query, column = np.nonzero(np.arange(part[0].shape[1]) < need[:, None])
        for target, array in zip(whole, part, strict=True):
            target[numbers[query], column] = array[query, column]
    return Results(scores, rows, error)


def _search_one(view: View, queries: Floats, k: int, confidence: float, m: int) -> Results:
    """Do the same for one query, which has no lists to put together: on small arrays that takes longest."""
    while True:
        (scores, rows, error), need = _fetch(view, queries, k, confidence, m)
        length = int(need[0])
        if length <= m:
            return Results(scores[:, :length], rows[:, :length], error[:, :length].astype(np.float32))
        m = min(_GROWTH * m, view.ntotal)


def _fetch(view: View, queries: Floats, k: int, confidence: float, m: int) -> tuple[tuple[Floats, Ids, Doubles], Ids]:
    """Return scores, rows and errors of the best `m` rows for each query, and how many of them are needed.

    Where they are too few, that number is above `m`, unless these are all rows.
    """
    scores, rows = view.best(queries, m)
    true = estimate_true_scores(view, queries, scores, rows)
    fetched = Fetched(true.mean, np.maximum(true.std, _SMALL), true.rate, rest=view.ntotal - m)
    need = np.minimum(required_length(fetched, k, confidence), view.ntotal)
    return (scores, rows, true.error), need


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
    out = np.empty(fetched.mean.shape[0], np.int64)
    kernel("list_lengths")(*fetched, (k, confidence), _NODES, out)
    return out
