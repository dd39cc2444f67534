"""Exact scores of a few rows, read from where the vectors are kept."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tqvec import _validate
from tqvec._types import Doubles, Floats, Ids
from tqvec.errors import InputError
from tqvec.index.errors.shortlist import shortlist
from tqvec.index.errors.standard_errors import Find, Judge, with_errors
from tqvec.index.store import live_rows


def source(vectors: ArrayLike, ntotal: int, d: int) -> NDArray:
    """The vectors of an index, where they are; nothing is read.

    Raises
    ------
    InputError
        Not an (ntotal, d) array of floating-point numbers.
    """
    array = _validate.floating(vectors, d, "rerank")
    if array.shape[0] != ntotal:
        raise InputError(f"rerank must have the {ntotal} vectors that were added, got {array.shape[0]} rows")
    return array


def judged(
    find: Find, judge: Judge, queries: Floats, k: int, confidence: float | None, vectors: NDArray | None
) -> tuple[Floats, Ids, Floats]:
    """Results with errors: the best `k`, as many as `confidence` asks for, or the exact best `k` of these."""
    if confidence is None:
        return with_errors(find, judge, queries, k)
    results = shortlist(find, judge, queries, k, confidence)
    if vectors is None:
        return results
    live = live_rows(judge.blocks)  # their order is that of the vectors
    found = np.where(results[1] < 0, -1, np.searchsorted(live, results[1]))
    scores, best, error = reranked(vectors, judge.metric, queries, found, k)
    return scores, live[best], error


def reranked(vectors: NDArray, metric: str, queries: Floats, ids: Ids, k: int) -> tuple[Floats, Ids, Floats]:
    """The `k` best of some rows for each query, by exact scores; of equal scores the smaller id comes first.

    Parameters
    ----------
    vectors : (ntotal, d) array
    metric : str
    queries : (nq, d) float32
        Checked.
    ids : (nq, m) int64
        Rows of `vectors` for each query, -1 for nothing.
    k : int
        At most the rows of any query.

    Returns
    -------
    scores : (nq, k) float32
    ids : (nq, k) int64
    error : (nq, k) float32
        Zeros.

    Raises
    ------
    InputError
        A row that is read holds NaN or infinity.
    """
    scores, best = np.empty((ids.shape[0], k), np.float32), np.empty((ids.shape[0], k), np.int64)
    for q in range(ids.shape[0]):
        chosen = np.sort(ids[q][ids[q] >= 0])  # in the order of the file
        exact = _exact(metric, queries[q].astype(np.float64), _read(vectors, chosen))
        order = np.argsort(exact if metric == "l2" else -exact, kind="stable")[:k]
        scores[q], best[q] = exact[order], chosen[order]
    return scores, best, np.zeros_like(scores)


def _read(vectors: NDArray, chosen: Ids) -> Doubles:
    """Some rows, checked."""
    with np.errstate(over="ignore", invalid="ignore"):
        rows = vectors[chosen].astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if bad.size:
        raise _validate.bad_row(vectors, int(chosen[bad[0]]), "rerank")
    return rows.astype(np.float64)


def _exact(metric: str, query: Doubles, rows: Doubles) -> Doubles:
    """True scores of one query."""
    if metric == "l2":
        return np.square(rows - query).sum(axis=1)
    products: Doubles = np.einsum("ij,j->i", rows, query)
    if metric == "ip":
        return products
    length = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
    return np.divide(products, length, out=np.zeros_like(products), where=length > 0)
