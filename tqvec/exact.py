"""Exact scores of many rows, larger better: what an index is compared with where the vectors are at hand."""

from __future__ import annotations

import numpy as np

from tqvec._types import Doubles, Floats, Ids

_BLOCK = 8192  # rows multiplied at a time


def scores(metric: str, queries: Floats, rows: Floats) -> Doubles:
    """Inner products, cosines or negated squared distances, (nq, n)."""
    y, x = queries.astype(np.float64), rows.astype(np.float64)
    if metric == "cosine":
        y, x = (_directions(part) for part in (y, x))
    products: Doubles = y @ x.T
    if metric == "l2":
        return 2 * products - np.sum(y * y, axis=1)[:, None] - np.sum(x * x, axis=1)
    return products


def _directions(rows: Doubles) -> Doubles:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)


def best(metric: str, queries: Floats, rows: Floats, m: int, own: Ids | None = None) -> tuple[Doubles, Ids]:
    """The `m` best rows for each query, best first; of equal scores the smaller number comes first.

    Parameters
    ----------
    metric : str
    queries : (nq, d) float32
    rows : (n, d) float32
    m : int
        At most n, or n − 1 with `own`.
    own : (nq,) int64, optional
        A row for each query that doesn't count.
    """
    found, ids = np.empty((queries.shape[0], 0)), np.empty((queries.shape[0], 0), np.int64)
    for first in range(0, rows.shape[0], _BLOCK):
        part = scores(metric, queries, rows[first : first + _BLOCK])
        if own is not None:
            here = np.flatnonzero((own >= first) & (own < first + part.shape[1]))
            part[here, own[here] - first] = -np.inf
        found = np.concatenate([found, part], axis=1)
        ids = np.concatenate([ids, np.broadcast_to(np.arange(first, first + part.shape[1]), part.shape)], axis=1)
        if found.shape[1] > m:
            kept = np.argpartition(-found, m - 1, axis=1)[:, :m]
            found, ids = np.take_along_axis(found, kept, axis=1), np.take_along_axis(ids, kept, axis=1)
    order = np.lexsort((ids, -found), axis=1)
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(ids, order, axis=1)
