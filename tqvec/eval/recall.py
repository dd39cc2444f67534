"""Exact search and recall."""

from __future__ import annotations

import numpy as np

from tqvec import exact
from tqvec._types import Floats, Ids

_QUERIES = 1024  # searched at a time


def exact_search(x: Floats, queries: Floats, k: int, metric: str = "ip") -> tuple[Floats, Ids]:
    """Return the true `k` nearest rows of `x`, by float32 matrix products.

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
    scores, ids = np.empty((queries.shape[0], k), np.float32), np.empty((queries.shape[0], k), np.int64)
    for q in range(0, queries.shape[0], _QUERIES):
        part = slice(q, q + _QUERIES)
        scores[part], ids[part] = exact.best(metric, queries[part], x, k, dtype=np.float32)
    return (-scores if metric == "l2" else scores), ids


def recall(results: Ids, truth: Ids, n_true: int, n_results: int) -> float:
    """Return recall `n_true`@`n_results`: the share of the true best `n_true` among the first `n_results` results.

    Parameters
    ----------
    results : (nq, ≥ n_results) int64
        Result ids, best first; -1 counts as nothing.
    truth : (nq, ≥ n_true) int64
        Ids of the exact search, best first.
    n_true, n_results : int
        1@1 is the share of queries whose best result is the true one; 10@10 the usual overlap.

    Returns
    -------
    float
        Between 0 and 1.
    """
    wanted = truth[:, :n_true]
    return float(np.mean((wanted[:, :, None] == results[:, None, :n_results]).any(axis=2)))
