"""Reranking: a shortlist ordered by exact scores of its vectors, which are read from where the user keeps them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tqvec import _validate
from tqvec._types import Doubles, Floats, Ids
from tqvec.errors import InputError
from tqvec.exact import scores_of_query
from tqvec.index.errors.shortlist import search_shortlist
from tqvec.index.metrics import Metric
from tqvec.index.snapshot import Results, Snapshot


def search_reranked(snapshot: Snapshot, queries: Floats, k: int, confidence: float, vectors: ArrayLike) -> Results:
    """Return the `k` best rows of a shortlist by their exact scores, whose errors are 0.

    Parameters
    ----------
    snapshot : Snapshot
    queries : (nq, d) float32
        Checked.
    k : int
        At most the rows of the snapshot.
    confidence : float
        Of the shortlist.
    vectors : (n, d) array
        The vectors of all rows that were not removed, in order. Only rows of a shortlist are read.

    Raises
    ------
    InputError
        `vectors` has another shape or type, or NaN or infinity in a row that is read.
    """
    live = snapshot.live_rows()
    source = _validate.floating(vectors, snapshot.codec.d, "rerank")
    if source.shape[0] != live.size:
        raise InputError(f"rerank must have the {live.size} vectors that were added, got {source.shape[0]} rows")
    rows = search_shortlist(snapshot, queries, k, confidence).rows
    results = rerank(source, snapshot.metric, queries, np.where(rows < 0, -1, np.searchsorted(live, rows)), k)
    return results._replace(rows=live[results.rows])


def rerank(vectors: NDArray, metric: Metric, queries: Floats, candidates: Ids, k: int) -> Results:
    """Return the `k` best candidates for each query by exact scores; of equal scores the smaller row comes first.

    Parameters
    ----------
    vectors : (n, d) array
    metric : Metric
    queries : (nq, d) float32
        Checked.
    candidates : (nq, m) int64
        Rows of `vectors` for each query, -1 for nothing.
    k : int
        At most the candidates of any query.

    Raises
    ------
    InputError
        A row that is read holds NaN or infinity.
    """
    nq = candidates.shape[0]
    scores, best = np.empty((nq, k), np.float32), np.empty((nq, k), np.int64)
    for q in range(nq):
        chosen = np.sort(candidates[q][candidates[q] >= 0])  # in the order of the file
        exact = scores_of_query(metric, queries[q].astype(np.float64), _read(vectors, chosen))
        order = np.argsort(-exact, kind="stable")[:k]
        scores[q], best[q] = metric.sign * exact[order], chosen[order]
    return Results(scores, best, np.zeros_like(scores))


def _read(vectors: NDArray, chosen: Ids) -> Doubles:
    """Some rows, checked."""
    with np.errstate(over="ignore", invalid="ignore"):
        rows = vectors[chosen].astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if bad.size:
        raise _validate.bad_row(vectors, int(chosen[bad[0]]), "rerank")
    return rows.astype(np.float64)
