"""Exact scores and best rows: the one place that says how vectors themselves are compared.

Larger is better for every metric here, so squared distances are negated.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqvec._types import Doubles, Floats, Ids
from tqvec._vectors import Vectors

_BLOCK = 2048  # rows multiplied at a time


def squared_norms(rows: Floats) -> Doubles:
    """Return the squared Euclidean length of each row, summed in float64."""
    return np.einsum("ij,ij->i", rows, rows, dtype=np.float64)


def normalize(rows: NDArray) -> NDArray:
    """Divide rows by their lengths, in their own dtype; zero rows stay."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)


def scores(metric: str, queries: Floats, rows: Floats, dtype: DTypeLike = np.float64) -> NDArray:
    """Return inner products, cosines or negated squared distances of all pairs.

    Parameters
    ----------
    metric : {"ip", "cosine", "l2"}
    queries : (nq, d) float32
    rows : (n, d) float32
    dtype : dtype
        Of the arithmetic and the result.

    Returns
    -------
    (nq, n) array
    """
    y, x = queries.astype(dtype, copy=False), rows.astype(dtype, copy=False)
    if metric == "cosine":
        y, x = normalize(y), normalize(x)
    products: NDArray = y @ x.T
    if metric == "l2":
        return 2 * products - np.sum(y * y, axis=1)[:, None] - np.sum(x * x, axis=1)
    return products


def scores_of_query(metric: str, query: Doubles, rows: Doubles) -> Doubles:
    """Return the scores of one query, row by row, so that equal rows have equal scores wherever they are.

    Parameters
    ----------
    metric : {"ip", "cosine", "l2"}
    query : (d,) float64
    rows : (n, d) float64

    Returns
    -------
    (n,) float64
    """
    if metric == "l2":
        return -np.square(rows - query).sum(axis=1)
    products: Doubles = np.einsum("ij,j->i", rows, query)
    if metric == "ip":
        return products
    length = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
    return np.divide(products, length, out=np.zeros_like(products), where=length > 0)


def best(
    metric: str,
    queries: Floats,
    rows: Floats | Vectors,
    m: int,
    own: Ids | None = None,
    dtype: DTypeLike = np.float64,
) -> tuple[NDArray, Ids]:
    """Return the `m` best rows for each query, best first; of equal scores the smaller row number comes first.

    Parameters
    ----------
    metric : {"ip", "cosine", "l2"}
    queries : (nq, d) float32
    rows : (n, d) float32, or Vectors
        Vectors are read part by part.
    m : int
        At most n, or n − 1 with `own`.
    own : (nq,) int64, optional
        A row for each query that doesn't count.
    dtype : dtype
        Of the arithmetic and the scores.

    Returns
    -------
    scores : (nq, m) array
    rows : (nq, m) int64
    """
    top, ids = np.empty((queries.shape[0], 0), dtype), np.empty((queries.shape[0], 0), np.int64)
    vectors, first = rows if isinstance(rows, Vectors) else Vectors(rows, queries.shape[1], "rows"), 0
    for block in vectors.parts(most=_BLOCK):
        part = scores(metric, queries, block.float32(), dtype)
        if own is not None:
            here = np.flatnonzero((own >= first) & (own < first + part.shape[1]))
            part[here, own[here] - first] = -np.inf
        top = np.concatenate([top, part], axis=1)
        ids = np.concatenate([ids, np.broadcast_to(np.arange(first, first + part.shape[1]), part.shape)], axis=1)
        if top.shape[1] > m:
            kept = np.argpartition(-top, m - 1, axis=1)[:, :m]
            top, ids = np.take_along_axis(top, kept, axis=1), np.take_along_axis(ids, kept, axis=1)
        first += part.shape[1]
    order = np.lexsort((ids, -top), axis=1)
    return np.take_along_axis(top, order, axis=1), np.take_along_axis(ids, order, axis=1)
