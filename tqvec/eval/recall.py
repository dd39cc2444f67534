"""Exact search and recall."""

from __future__ import annotations

import numpy as np

from tqvec._types import Floats, Ids

_BLOCK = 1 << 25  # scores held at a time


def exact_search(x: Floats, queries: Floats, k: int, metric: str = "ip") -> tuple[Floats, Ids]:
    """The true `k` nearest rows of `x`, by float32 matrix products.

    Parameters
    ----------
    x : (n, d) float32
    queries : (nq, d) float32
    k : int
        At most n.
    metric : {"ip", "cosine", "l2"}

    Returns
    -------
    scores : (nq, k) float32
        Inner product, cosine or squared distance, best first.
    ids : (nq, k) int64
    """
    if metric == "cosine":
        x, queries = normalized(x), normalized(queries)
    offset = -0.5 * np.einsum("ij,ij->i", x, x) if metric == "l2" else np.zeros(x.shape[0], np.float32)
    scores = np.empty((queries.shape[0], k), np.float32)
    ids = np.empty((queries.shape[0], k), np.int64)
    step = max(1, _BLOCK // max(1, x.shape[0]))
    for q in range(0, queries.shape[0], step):
        block = queries[q : q + step] @ x.T + offset
        best = np.argpartition(-block, k - 1, axis=1)[:, :k] if k < x.shape[0] else np.arange(k)[None, :]
        top = np.take_along_axis(block, np.broadcast_to(best, (block.shape[0], k)), axis=1)
        order = np.lexsort((np.broadcast_to(best, top.shape), -top), axis=1)
        scores[q : q + step] = np.take_along_axis(top, order, axis=1)
        ids[q : q + step] = np.take_along_axis(np.broadcast_to(best, top.shape), order, axis=1)
    if metric == "l2":
        scores = np.einsum("ij,ij->i", queries, queries)[:, None] - 2 * scores
    return scores, ids


def normalized(x: Floats) -> Floats:
    """Rows divided by their lengths; zero rows stay."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, length, out=np.zeros_like(x), where=length > 0)


def recall(found: Ids, truth: Ids, n_true: int, n_found: int) -> float:
    """Recall `n_true`@`n_found`: the share of the true best `n_true` that are among the first `n_found` results.

    Parameters
    ----------
    found : (nq, ≥ n_found) int64
        Result ids, best first; -1 counts as nothing.
    truth : (nq, ≥ n_true) int64
        Ids of the exact search, best first.
    n_true, n_found : int
        1@1 is the share of queries whose best result is the true one; 10@10 the usual overlap.

    Returns
    -------
    float
        Between 0 and 1.
    """
    wanted = truth[:, :n_true]
    return float(np.mean((wanted[:, :, None] == found[:, None, :n_found]).any(axis=2)))
