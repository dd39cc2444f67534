"""Lloyd's iterations: means of clusters in a fixed order of summation, and new members for empty clusters."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from tqvec._types import Doubles, Floats, Ids
from tqvec.index.partition.products import Points, lengths, nearest, to_targets

_SETTLED = 0.01  # share of vectors that change their cluster: fewer end the iterations


class Clusters:
    """Vectors by cluster.

    Parameters
    ----------
    labels : (n,) int
        Cluster of each vector.
    k : int

    Attributes
    ----------
    sizes : (k,) int64
    """

    def __init__(self, labels: NDArray, k: int):
        # NumPy sorts 16 bits by their digits.
        self._order = np.argsort(labels.astype(np.uint16) if k <= 1 << 16 else labels, kind="stable")
        self.sizes = np.bincount(labels, minlength=k)
        self._stop = np.cumsum(self.sizes)

    def members(self, cluster: int) -> Ids:
        """Return the numbers of the vectors of a cluster, ascending."""
        stop = self._stop[cluster]
        members: Ids = self._order[stop - self.sizes[cluster] : stop]
        return members


def update(points: Points, labels: NDArray, centroids: Floats, spherical: bool) -> Floats:
    """Return the centre of each cluster.

    Large clusters are split until none is empty, or until the vectors of every cluster are equal: then the centroids of
    empty ones stay.

    Parameters
    ----------
    points : Points
        Only their directions count if `spherical`.
    labels : (n,) int
        Cluster of each point.
    centroids : (k, d) float32
        The centres before.
    spherical : bool
        Whether centres have length 1.
    """
    clusters = Clusters(labels, len(centroids))
    updated = centroids.copy()
    for c in np.flatnonzero(clusters.sizes).tolist():
        updated[c] = _centre(_vectors(points, clusters.members(c), spherical), centroids[c], spherical)
    empty = np.flatnonzero(clusters.sizes == 0).tolist()
    if empty:
        _fill(points, clusters, updated, empty, spherical)
    return updated


def _vectors(points: Points, members: Ids, spherical: bool) -> Floats:
    """Some points as vectors, or directions of equal length."""
    integers = points.integers[members]
    return integers if spherical else integers / points.factor[members, None]


def _centre(members: Floats, before: Floats, spherical: bool) -> Doubles | Floats:
    """Mean of some vectors, or its direction; `before` if it has none."""
    mean: Doubles = np.add.reduce(members, axis=0, dtype=np.float64) / len(members)
    if not spherical:
        return mean
    length = lengths(mean[None])[0]
    return mean / length if length > 0 else before


def _fill(points: Points, clusters: Clusters, centroids: Floats, empty: list[int], spherical: bool) -> None:
    """Give each empty cluster a part of the largest one: the vectors nearer to its outermost one than to its centre."""
    heap = [(-int(clusters.sizes[c]), int(c), clusters.members(int(c))) for c in np.flatnonzero(clusters.sizes > 1)]
    heapq.heapify(heap)
    while heap and empty:
        _, c, members = heapq.heappop(heap)
        some = _vectors(points, members, spherical)
        middle = some.mean(axis=0, dtype=np.float64)
        distance = lengths(some - middle)
        outermost = some[distance.argmax()]
        far = lengths(some - outermost) < distance
        if not far.any() or far.all():
            continue
        new = empty.pop(0)
        for cluster, part in ((c, ~far), (new, far)):
            centroids[cluster] = _centre(some[part], centroids[c], spherical)
            heapq.heappush(heap, (-int(part.sum()), cluster, members[part]))


def lloyd(points: Points, k: int, rounds: int, spherical: bool, rng: np.random.Generator) -> tuple[Floats, Ids]:
    """Return `k` centroids and the nearest one of each vector, which is compared with all: for small `k`.

    Parameters
    ----------
    points : Points
        Only their directions count if `spherical`.
    k : int
        At most their number.
    rounds : int
        Updates of centroids, at most.
    spherical : bool
        Whether centroids have length 1.
    rng : numpy.random.Generator
        Draws the first centroids.

    Returns
    -------
    centroids : (k, d) float32
    labels : (n,) int64
    """
    n = len(points.factor)
    first = np.sort(rng.permutation(n)[:k])
    centroids = _vectors(points, first, spherical)
    if spherical:
        centroids = (centroids / lengths(centroids)[:, None]).astype(np.float32)
    labels = nearest(points, to_targets(centroids, not spherical))
    for _ in range(rounds):
        centroids = update(points, labels, centroids, spherical)
        before, labels = labels, nearest(points, to_targets(centroids, not spherical))
        if np.count_nonzero(before != labels) <= _SETTLED * n:
            break
    return centroids, labels
