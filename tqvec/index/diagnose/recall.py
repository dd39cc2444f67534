"""Recall of an index for some queries: measured on its vectors, or estimated from its codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tqvec import exact
from tqvec._types import Doubles, Floats, Ids
from tqvec.exact import squared_norms
from tqvec.index.diagnose.posterior import STEP, Found, Neighbours, judged, known, without
from tqvec.index.snapshot import Snapshot

_FETCHED = (1024, 4096, 16384)  # results a query: more where errors reach farther
_HEAP = 1 << 22  # results of all queries together
DRAWS = 8  # of true positions, for an estimate
_TIE = 1e-9  # part of the scores' size by which a result may miss the k-th and still count
_ORDER = 0x64726177  # of the generator, beside the codec's seed

Ask = Callable[[int, int], Found]


class Recall(NamedTuple):
    """What was found.

    Attributes
    ----------
    by_query : (nq,) float64
    variance : float
        Of the mean, by the choice of queries.
    near : Neighbours
        What it was found from.
    gaps : (nq,) float64
        How far the true k-th row is ahead of the next, in standard errors; of estimates, in one draw.
    depths : (m + 1,) int64
        Number of true results by their rank among those of the index; the last: of those not among its first `m`.
    ids : (nq, m) int64
        Rows that `near` is about.
    """

    by_query: Doubles
    variance: float
    near: Neighbours
    gaps: Doubles
    depths: Ids
    ids: Ids

    @property
    def value(self) -> float:
        """Mean over queries."""
        return float(self.by_query.mean())

    def shortlist(self, kept: float) -> int | None:
        """Results that hold a part `kept` of the true ones; None if those looked at do not."""
        held = np.cumsum(self.depths)
        enough = np.flatnonzero(held[:-1] >= kept * held[-1])
        return int(enough[0]) + 1 if enough.size else None


def measured(stored: Snapshot, vectors: Floats, queries: Floats, own: Ids | None, k: int) -> Recall:
    """Recall k@k of an index of these vectors, which are in the order of its rows.

    A result that ties with the true k-th best counts as found. `own`, (nq,) int64, are the vectors that the queries
    are; each is left out.
    """
    skip = own is not None
    m = min(stored.ntotal - skip, max(_FETCHED[0], 4 * k))
    scores, ids = exact.best(stored.metric, queries, vectors, m, own)
    found, rows = stored.estimates(queries, m + skip)
    live = stored.live_rows()
    results = np.searchsorted(live, rows)
    if own is not None:
        _, results = without(results == own[:, None], found, results)
    # Rounding is in proportion to what distances are differences of.
    size = squared_norms(queries) if stored.metric == "l2" else np.abs(scores[:, 0])
    by_query, depths = np.empty(len(queries)), np.zeros(m + 1, np.int64)
    for q, best in enumerate(results):
        values = exact.scores(stored.metric, queries[q : q + 1], vectors[best[:k]])[0]
        by_query[q] = np.count_nonzero(values >= scores[q, k - 1] - _TIE * size[q]) / k
        ranks = np.flatnonzero(np.isin(best, ids[q, :k]))
        depths[ranks] += 1
        depths[m] += k - ranks.size
    rows = live[ids]
    near = known(stored, Found(queries, scores, rows, np.zeros(ids.shape, bool), None), k)
    return Recall(by_query, float(by_query.var() / by_query.size), near, _gaps(near.mean, k), depths, rows)


def estimated(stored: Snapshot, ask: Ask, count: int, k: int) -> Recall:
    """Recall k@k by draws of the true scores.

    Parameters
    ----------
    stored : Snapshot
    ask : callable
        Results of the first so many queries, so many for each.
    count : int
        Queries that there are.
    k : int
    """
    for fetched in _FETCHED:
        found = ask(min(count, _HEAP // fetched), max(fetched, 4 * k))
        near = judged(stored, found, k)
        if near.complete:
            break
    return simulated(near, k, 1.0, stored.codec.seed, DRAWS)._replace(ids=found.ids)


def simulated(near: Neighbours, k: int, factor: float, seed: int, draws: int) -> Recall:
    """Recall k@k of codes whose errors are `factor` times those of the index; draws are the same for every factor.

    True positions are drawn `draws` times. Where rows are in the order of the index' own estimates, and the factor is
    1, that order counts; otherwise estimates are drawn too. A result that ties with the true k-th best counts as found.
    """
    rng = np.random.default_rng([seed, _ORDER])
    nq, m = near.mean.shape
    overlaps, depths = np.empty((draws, nq)), np.zeros(m + 1, np.int64)
    for draw in range(draws):
        truth = near.truth(rng)
        least = -np.partition(-truth, k - 1, axis=1)[:, k - 1 : k]
        estimates = near.estimates(truth, factor, rng)
        results = truth
        if not near.ordered or factor != 1:
            results = np.take_along_axis(truth, np.argsort(-estimates, axis=1), axis=1)
        overlaps[draw] = np.mean(results[:, :k] >= least - STEP * m, axis=1)
        depths += np.bincount(np.nonzero(results >= least)[1], minlength=m + 1)
    variance = float(overlaps.var(axis=1).mean() / nq)
    return Recall(overlaps.mean(axis=0), variance, near, _gaps(truth, k), depths, np.empty((nq, 0), np.int64))


def shifted(value: float, base: float, anchor: float) -> float:
    """A simulated recall, moved on the scale of log odds as far as takes the simulated `base` to the true `anchor`."""
    least = 1e-6
    odds = [np.log(p / (1 - p)) for p in np.clip([value, base, anchor], least, 1 - least)]
    return float(1 / (1 + np.exp(odds[1] - odds[0] - odds[2])))


def _gaps(positions: Doubles, k: int) -> Doubles:
    """Between the k-th largest and the next; infinity where there is none."""
    if positions.shape[1] <= k:
        return np.full(positions.shape[0], np.inf)
    top = -np.partition(-positions, [k - 1, k], axis=1)
    return top[:, k - 1] - top[:, k]
