"""Recall of an index for some queries: measured on its vectors, or estimated from its codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tqvec import exact
from tqvec._random import generator
from tqvec._types import Doubles, Floats, Ids
from tqvec._vectors import Vectors
from tqvec.exact import squared_norms
from tqvec.index.diagnose.candidates import Candidates, drop_one
from tqvec.index.diagnose.posterior import STEP, Posterior, positions_from_exact, posterior_positions
from tqvec.index.metrics import Metric
from tqvec.index.snapshot import Snapshot

_FETCHED = (1024, 4096, 16384)  # candidates per query: more where errors reach farther
_HEAP = 1 << 22  # candidates of all queries together
DRAWS = 8  # of true positions, for an estimate
_TIE = 1e-9  # share of the scores' size by which a result may miss the k-th and still count

FetchCandidates = Callable[[int, int], Candidates]  # of the first so many queries, so many for each


class Recall(NamedTuple):
    """Recall of an index, and the positions it follows from.

    Attributes
    ----------
    by_query : (nq,) float64
    variance : float
        Variance of the mean, by the choice of queries.
    posterior : Posterior
        True positions of the best rows.
    gaps : (nq,) float64
        How far the true k-th row is ahead of the next, in standard errors; of estimates, in one draw.
    depths : (m + 1,) int64
        Number of true results by their rank among those of the index; the last: of those not among its first `m`.
    rows : (nq, m) int64
        Numbers of the rows in `posterior`.
    """

    by_query: Doubles
    variance: float
    posterior: Posterior
    gaps: Doubles
    depths: Ids
    rows: Ids

    @property
    def value(self) -> float:
        """The mean over queries."""
        return float(self.by_query.mean())

    def shortlist(self, kept: float) -> int | None:
        """Return how many results hold a share `kept` of the true ones; None if those fetched do not."""
        held = np.cumsum(self.depths)
        enough = np.flatnonzero(held[:-1] >= kept * held[-1])
        return int(enough[0]) + 1 if enough.size else None


def measure_recall(snapshot: Snapshot, vectors: Vectors, queries: Floats, own: Ids | None, k: int) -> Recall:
    """Measure recall k@k of an index of these vectors, which are in the order of its rows.

    A result that ties with the true k-th best counts as a hit. `own`, (nq,) int64, are the vectors that the queries
    are; each is left out.
    """
    skip = own is not None
    m = min(snapshot.ntotal - skip, max(_FETCHED[0], 4 * k))
    scores, ids = exact.best(snapshot.metric, queries, vectors, m, own)
    estimates, rows = snapshot.estimates(queries, m + skip)
    live = snapshot.live_rows()
    results = np.searchsorted(live, rows)
    if own is not None:
        _, results = drop_one(results == own[:, None], estimates, results)
    # Rounding is in proportion to the terms whose difference a distance is.
    size = squared_norms(queries) if snapshot.metric is Metric.L2 else np.abs(scores[:, 0])
    by_query, depths = np.empty(len(queries)), np.zeros(m + 1, np.int64)
    for q, best in enumerate(results):
        values = exact.scores(snapshot.metric, queries[q : q + 1], vectors.take(best[:k]))[0]
        by_query[q] = np.count_nonzero(values >= scores[q, k - 1] - _TIE * size[q]) / k
        ranks = np.flatnonzero(np.isin(best, ids[q, :k]))
        depths[ranks] += 1
        depths[m] += k - ranks.size
    rows = live[ids]
    no_copies = np.zeros(ids.shape, bool)
    posterior = positions_from_exact(
        snapshot, Candidates(queries=queries, scores=scores, rows=rows, copies=no_copies, query_error=None), k
    )
    return Recall(
        by_query=by_query,
        variance=float(by_query.var() / by_query.size),
        posterior=posterior,
        gaps=_gaps(posterior.mean, k),
        depths=depths,
        rows=rows,
    )


def estimate_recall(snapshot: Snapshot, fetch: FetchCandidates, nq: int, k: int) -> Recall:
    """Estimate recall k@k by draws of the true scores.

    Parameters
    ----------
    snapshot : Snapshot
    fetch : callable
        Returns the candidates of the first so many queries, so many for each.
    nq : int
        Queries that there are.
    k : int
    """
    for m in _FETCHED:
        candidates = fetch(min(nq, _HEAP // m), max(m, 4 * k))
        posterior = posterior_positions(snapshot, candidates, k)
        if posterior.complete:
            break
    return simulate_recall(posterior, k, 1.0, snapshot.codec.seed, DRAWS)._replace(rows=candidates.rows)


def simulate_recall(posterior: Posterior, k: int, factor: float, seed: int, draws: int) -> Recall:
    """Simulate recall k@k of codes whose errors are `factor` times those of the index.

    True positions are drawn `draws` times, alike for every factor. Where rows are in the order of the index' own
    estimates, and the factor is 1, that order counts; otherwise estimates are drawn too. A result that ties with the
    true k-th best counts as a hit.
    """
    rng = generator(seed, "diagnosis: recall")
    nq, m = posterior.mean.shape
    overlaps, depths = np.empty((draws, nq)), np.zeros(m + 1, np.int64)
    for draw in range(draws):
        truth = posterior.draw_truth(rng)
        kth = -np.partition(-truth, k - 1, axis=1)[:, k - 1 : k]
        estimates = posterior.draw_estimates(truth, factor, rng)
        results = truth
        if not posterior.ordered or factor != 1:
            results = np.take_along_axis(truth, np.argsort(-estimates, axis=1), axis=1)
        overlaps[draw] = np.mean(results[:, :k] >= kth - STEP * m, axis=1)
        depths += np.bincount(np.nonzero(results >= kth)[1], minlength=m + 1)
    return Recall(
        by_query=overlaps.mean(axis=0),
        variance=float(overlaps.var(axis=1).mean() / nq),
        posterior=posterior,
        gaps=_gaps(truth, k),
        depths=depths,
        rows=np.empty((nq, 0), np.int64),
    )


def shift_logit(value: float, base: float, anchor: float) -> float:
    """Move a simulated recall on the scale of log odds by as far as takes the simulated `base` to the true `anchor`."""
    least = 1e-6
    odds = [np.log(p / (1 - p)) for p in np.clip([value, base, anchor], least, 1 - least)]
    return float(1 / (1 + np.exp(odds[1] - odds[0] - odds[2])))


def _gaps(positions: Doubles, k: int) -> Doubles:
    """Return differences between the k-th largest and the next, (nq,); infinity where there is none."""
    if positions.shape[1] <= k:
        return np.full(positions.shape[0], np.inf)
    top = -np.partition(-positions, [k - 1, k], axis=1)
    return top[:, k - 1] - top[:, k]
