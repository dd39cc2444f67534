"""Data, indexes and true scores that tests of `Index` share."""

import numpy as np
import strategies as sts

import tqvec


def anisotropic(n, d, seed=0):
    """Rows around a common point whose variances fall as 1/j."""
    return (sts.normal(n, d, seed) / np.sqrt(np.arange(1, d + 1)) + 0.1).astype(np.float32)


def build_index(x, nbits=2, metric="ip", codebook="scalar", seed=0, train=False):
    """An index of `x`, which is trained on it if asked for."""
    index = tqvec.Index(x.shape[1], nbits=nbits, metric=metric, codebook=codebook, seed=seed)
    if train:
        assert index.train(x).accepted
    index.add(x)
    return index


def true_scores(metric, queries, x):
    """Scores of all pairs as `Index.search` has them, (nq, n) float64."""
    queries, x = queries.astype(np.float64), x.astype(np.float64)
    if metric == "l2":
        return np.square(queries[:, None] - x).sum(axis=2)
    products = queries @ x.T
    if metric == "cosine":
        products /= np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(x, axis=1)
    return products
