"""Reranking: exact scores of a shortlist, computed from vectors of which no other row is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from tqvec._types import Doubles, Floats, Ids
from tqvec._vectors import Vectors
from tqvec.errors import InputError
from tqvec.exact import scores_of_query
from tqvec.index.errors.shortlist import search_shortlist
from tqvec.index.metrics import Metric
from tqvec.index.snapshot import Results, Snapshot

_FAR = 6.0  # standard errors; a score is off by more in one of 10⁹ cases if errors are as predicted,
_SHARE = 0.1  # so at most this share of the scores is, even where predictions are rough
_MIN_D = 16  # in fewer dimensions they are far from normal
_ROUNDING = 1e-4  # of the largest score: that of vectors kept in 16 bits

Read: TypeAlias = Callable[[Ids], Floats]  # the vectors of rows of a snapshot, which are in order
Fetch: TypeAlias = Callable[[Ids], ArrayLike]  # a user's: the vectors of ids


def search_reranked(
    snapshot: Snapshot, queries: Floats, k: int, confidence: float, vectors: ArrayLike | Fetch
) -> Results:
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
    vectors : (n, d) array or callable
        The vectors of all rows that were not removed, in order; or a function that returns those of ids. Only rows of
        a shortlist are read.

    Raises
    ------
    InputError
        `vectors` has another shape or type, or NaN or infinity in a row that is read, or belongs to other rows.
    """
    read = _reader(snapshot, vectors)
    shortlist = search_shortlist(snapshot, queries, k, confidence)
    exact = [
        _exact_scores(snapshot.metric, query, rows, read) for query, rows in zip(queries, shortlist.rows, strict=True)
    ]
    if snapshot.codec.d >= _MIN_D:
        _check_rows(shortlist, np.array(exact).reshape(shortlist.rows.shape), callable(vectors))
    scores, best = np.empty((len(exact), k), np.float32), np.empty((len(exact), k), np.int64)
    for q, values in enumerate(exact):
        order = np.lexsort((shortlist.rows[q], -snapshot.metric.sign * values))[:k]
        scores[q], best[q] = values[order], shortlist.rows[q][order]
    return Results(scores, best, np.zeros_like(scores))


def _reader(snapshot: Snapshot, vectors: ArrayLike | Fetch) -> Read:
    """Return a function that reads the vectors of rows of the snapshot, and checks them."""
    d = snapshot.codec.d
    if callable(vectors):
        fetch = vectors

        def read_by_id(rows: Ids) -> Floats:
            found = Vectors(fetch(snapshot.ids_of(rows)), d, "rerank")
            if len(found) != rows.size:
                raise InputError(f"rerank must return the vectors of {rows.size} ids, got {len(found)} rows")
            return found.checked()

        return read_by_id
    live, source = snapshot.live_rows(), Vectors(vectors, d, "rerank")
    if len(source) != live.size:
        raise InputError(f"rerank must have the {live.size} vectors that were added, got {len(source)} rows")
    return lambda rows: source.take(np.searchsorted(live, rows))


def _exact_scores(metric: Metric, query: Floats, candidates: Ids, read: Read) -> Doubles:
    """Return the exact score of each candidate, the worst one for -1."""
    exact = np.full(candidates.size, metric.worst)
    there = np.flatnonzero(candidates >= 0)
    order = there[np.argsort(candidates[there])]  # as in a file
    if order.size:
        rows = read(candidates[order]).astype(np.float64)
        exact[order] = metric.sign * scores_of_query(metric, query.astype(np.float64), rows)
    return exact


def _check_rows(shortlist: Results, exact: Doubles, by_id: bool) -> None:
    """Refuse vectors whose scores are off by more than the errors of codes explain: they are those of other rows."""
    if shortlist.error is None or not (shortlist.rows >= 0).any():
        return
    there = shortlist.rows >= 0
    off, error = np.abs(exact[there] - shortlist.scores[there]), shortlist.error[there]
    far = off > _FAR * error + _ROUNDING * np.abs(exact[there]).max()
    if far.mean() > _SHARE:
        remedy = (
            "return the vectors of the ids in their order"
            if by_id
            else (
                "rows are in the order of index.ids, which updates and removals change: hand over x[index.ids] "
                "where ids are row numbers of x, or a function of ids"
            )
        )
        raise InputError(
            f"rerank does not belong to these codes: {far.sum()} of {far.size} exact scores are more than "
            f"{_FAR:.0f} standard errors from those of the codes; {remedy}"
        )
