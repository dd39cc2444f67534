"""Clustering: the centroids of the lists of a partitioned index, by k-means on a sample of its vectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tqvec._config import num_threads
from tqvec._types import Floats, Ids
from tqvec.errors import InputError
from tqvec.index.metrics import Metric
from tqvec.index.partition.lloyd import lloyd, update
from tqvec.index.partition.products import Points, lengths, nearest, to_points, to_targets
from tqvec.index.partition.router import Router

_SEED = 0x636C7573
_ROUNDS = 5  # of each part of the first clustering, and
_REFINING = 6  # of all lists together, at most
_PROBES = 3  # groups of lists that a vector is compared with there, but for the last round: centroids move anyway
_SETTLED = 0.02  # share of rows that change their list: fewer end the iterations
_ENOUGH = 256  # vectors of each group tell where it lies
_FLAT = 64  # lists that are clustered at once

Progress = Callable[[int, int], None]


def cluster(
    vectors: Floats, nlist: int, *, spherical: bool, threads: int | None = None, progress: Progress | None = None
) -> Floats:
    """Return centroids of a sample.

    The sample is clustered to about √nlist groups, and each of these to lists in proportion to its rows. Then a few
    rounds of k-means refine all lists together; there vectors are assigned as `Router.nearest` does, and in all rounds
    but the last in the three nearest groups of lists only. The result depends on the sample alone.

    Parameters
    ----------
    vectors : (n, d) float32
        The sample. Zero vectors have no direction: they don't count if `spherical`.
    nlist : int
        At most n. If fewer vectors are distinct, some centroids are equal, and all but one of these get no vectors.
    spherical : bool
        Whether nearness is the inner product of directions: centroids have length 1. Otherwise it is distance.
    threads : int, optional
        Default: ``TQVEC_NUM_THREADS``, or all CPUs.
    progress : callable, optional
        Called with the number of steps that are done and of all.

    Returns
    -------
    (nlist, d) float32

    Raises
    ------
    InputError
        `nlist` is below 1 or beyond the number of vectors.
    """
    n, d = vectors.shape
    if not 1 <= nlist <= n:
        raise InputError(f"nlist must be an integer from 1 to {n}, the number of vectors in the sample, got {nlist}")
    workers = num_threads(threads)
    if spherical:
        points = to_points(vectors, threads=workers)
        moving = points.integers.any(axis=1)
        if not moving.all():
            points = points.take(np.flatnonzero(moving))
        if points.factor.size == 0:  # no vector has a direction, so any will do
            points = to_points(np.eye(1, d, dtype=np.float32))
        return _clustered(points, nlist, True, workers, progress)
    centre = (np.add.reduce(vectors, axis=0, dtype=np.float64) / n).astype(np.float32)
    shifted = vectors - centre
    points = to_points(shifted, float(lengths(shifted).max()), workers)
    return _clustered(points, nlist, False, workers, progress) + centre


def _clustered(points: Points, nlist: int, spherical: bool, threads: int, progress: Progress | None) -> Floats:
    report = progress or (lambda done, total: None)
    steps, n = 1 + _REFINING, points.factor.size
    centroids = _first(points, nlist, spherical)
    report(1, steps)
    metric, centre = (Metric.COSINE, None) if spherical else (Metric.L2, np.zeros(centroids.shape[1], np.float32))
    before = np.full(n, -1, np.int32)
    for step in range(2, steps + 1):
        router = Router.of(centroids, metric, centre, threads)
        labels = router.nearest_of(points, _PROBES) if step < steps else router.nearest_of(points)
        if np.count_nonzero(labels != before) <= _SETTLED * n:
            break
        centroids, before = update(points, labels, centroids, spherical), labels
        report(step, steps)
    report(steps, steps)
    return centroids


def _first(points: Points, nlist: int, spherical: bool) -> Floats:
    """Return centroids by clusterings of groups of vectors."""
    rng, n = np.random.default_rng(_SEED), points.factor.size
    k = min(n, nlist if nlist <= _FLAT else round(np.sqrt(nlist)))
    if k < min(n, nlist):
        drawn = np.sort(rng.permutation(n)[: _ENOUGH * k])
        centres, _ = lloyd(points.take(drawn), k, _ROUNDS, spherical, rng)
        labels = nearest(points, to_targets(centres, not spherical))
        sizes = np.bincount(labels, minlength=k)
        counts, order = _share(sizes, min(n, nlist)), np.argsort(labels, kind="stable")
        groups = zip(np.split(order, np.cumsum(sizes)[:-1]), counts.tolist(), strict=True)
        parts = [lloyd(points.take(group), count, _ROUNDS, spherical, rng)[0] for group, count in groups if count]
        centroids = np.concatenate(parts)
    else:
        centroids, _ = lloyd(points, k, _ROUNDS, spherical, rng)
    return centroids[np.arange(nlist) % len(centroids)]


def _share(sizes: Ids, nlist: int) -> Ids:
    """Share lists among groups of vectors, in proportion: from one for each that has any to one for each vector.

    `nlist` is at least the number of groups, and at most that of vectors.
    """
    counts = np.minimum(np.maximum(sizes > 0, sizes * nlist // sizes.sum()), sizes)
    while (missing := nlist - int(counts.sum())) > 0:
        short = np.argsort(counts / np.maximum(sizes, 1), kind="stable")
        short = short[counts[short] < sizes[short]][:missing]
        counts[short] += 1
    while counts.sum() > nlist:
        counts[counts.argmax()] -= 1
    return counts
