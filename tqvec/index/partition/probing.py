"""Probing: how many of its nearest lists a query is compared with, so that a promised recall is kept on average.

Recall means the share of the flat search's results that the probed lists hold. See the "Probing" section of the notes
on partitions for the rules that were compared.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._types import Doubles, Floats

TARGETS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
_WEIGHTS = np.arange(10) / 10
_JUDGED_BY = (0.9, 0.95, 0.99)  # targets whose cost decides on the weight
_COST_QUERIES = 256  # of which the cost is measured; enough, since all weights are measured on the same
_TOLERANCE = 1.05  # a little cost, for a weight that suits queries of another distribution better
_ROUNDING = 1e-5  # by which a logarithm may differ before and after it was stored in single precision
_LEAST, _LARGEST = np.finfo(np.float32).tiny, np.finfo(np.float32).max  # stand for a gap of 0 and for an infinite one
_MARGIN = 2.0  # lists to rank, per list that the neediest calibration query probes


class Probing(NamedTuple):
    """The calibrated rule that chooses how many lists each query probes.

    A query probes its list of rank r (from 0) if gap^(1 − w) · (1 + r)^w <= t, where gap is the score of its best list
    minus the score of this one. w is the weight, and the threshold t depends on k and on the promised recall.

    Attributes
    ----------
    weight : float
        w, from 0 (the gap decides alone) to 0.9 (nearly a fixed number of lists).
    ks : (nk,) int32
        Numbers of results that were calibrated, ascending.
    targets : (nt,) float32
        Recalls that were calibrated, ascending.
    thresholds : (nk, nt) float32
        Natural logarithms of t. Infinite where the calibration queries are too few to promise the recall, or where
        the ranked lists don't hold as many results: all lists are probed.
    ranked : (nk, nt) int32
        Lists to rank. Twice as many as any calibration query probes, and at most `nlist`.
    nlist : int
        Lists of the partition.
    """

    weight: float
    ks: NDArray[np.int32]
    targets: Floats
    thresholds: Floats
    ranked: NDArray[np.int32]
    nlist: int

    def most(self, k: int, recall: float) -> int:
        """Return how many best lists a router has to rank for any query.

        Parameters
        ----------
        k : int
            Results of a query, at least 1. Beyond the calibrated numbers it takes all lists.
        recall : float
            The promise, above 0. From 1.0 down to the largest calibrated target, exclusive, it takes all lists.
        """
        above = bisect_left(self.targets.tolist(), float(np.float32(recall)))
        if k > self.ks[-1] or above == len(self.targets):
            return self.nlist
        return int(self.ranked[self._around(k), above].max())

    def limits(self, m: int, k: int, recall: float) -> Floats:
        """Return the largest gap with which a query probes its list of each rank.

        They are the same for all queries, so a caller may keep them. They fall with the rank while gaps rise: the
        lists within the limits come first. The first limit is at least 0, so the best list is always probed.

        Parameters
        ----------
        m : int
            Ranks.
        k : int
            Results of a query, at least 1. Between two calibrated numbers the larger of their thresholds serves. Beyond
            the largest number log t is extrapolated in log k.
        recall : float
            The promise, above 0. Below the least calibrated target it is that target. Between two targets t is linear
            in log(1 − recall).

        Returns
        -------
        (m,) float32
            The largest finite number where the promise takes all lists.
        """
        return _limits(self._threshold(k, recall), self.weight, m)

    def _around(self, k: int) -> slice:
        """Return the row of a calibrated k, or the two rows around another."""
        right = bisect_left(self.ks.tolist(), k)
        exact = right < len(self.ks) and self.ks[right] == k
        return slice(right if exact else max(right - 1, 0), right + 1)

    def _threshold(self, k: int, recall: float) -> float:
        """Return log t for any k and recall."""
        logs = [_between(self.targets.tolist(), row, recall) for row in self.thresholds.astype(np.float64)]
        if k <= self.ks[-1]:
            return max(logs[self._around(k)])
        if len(logs) == 1:
            return math.inf
        if math.isinf(logs[-1]):
            return logs[-1]
        slope = max(logs[-1] - logs[-2], 0.0) / math.log(self.ks[-1] / self.ks[-2])
        return logs[-1] + slope * math.log(k / self.ks[-1])


def calibrate(
    scores: Floats, lists: NDArray[np.int32], where: NDArray[np.int32], sizes: NDArray[np.int32], k_min: int = 1
) -> Probing:
    """Calibrate the rule on queries whose exact results are known.

    The thresholds are those of conformal risk control (Angelopoulos et al., 2022): for fresh queries of the same
    distribution the expected recall is at least the target, and above it by at most about 2/n. That holds for a given
    weight. The weight is the least of ten whose cost on the same queries is within 5 % of the best. That choice has no
    measurable effect on the recall.

    Parameters
    ----------
    scores : (n, m) float32
        Scores of the best m lists of each calibration query, best first and larger is better. Inner products must be
        those of queries of unit length, since a gap grows with the length. Rows that serve as queries should not
        have taken part in k-means, which draws centroids nearer to them than to queries.
    lists : (n, m) int32
        Numbers of these lists. A list that is not among them can't be found.
    where : (n, k_max) int32
        The list that holds each of the results of the flat search, best first. A row that serves as a query has left
        itself out.
    sizes : (nlist,) int32
        Rows of each list.
    k_min : int
        Smaller k take the thresholds of this one, or of k_max. 10 is for rows that serve as queries: the nearest rows
        of a row are often copies of it, which lie in the same list, and a query has no copies.

    Returns
    -------
    Probing
        Calibrated for k_min, for 1, 2, 5, 10, 20, 50 … between it and k_max, for k_max, and for `TARGETS`.
    """
    n, m = scores.shape
    ks = _calibrated_ks(k_min, where.shape[1])
    ranks = _ranks(lists, where, len(sizes))
    gaps = scores[:, :1] - scores
    of_hits = np.where(ranks < m, np.take_along_axis(gaps, np.minimum(ranks, m - 1), axis=1), np.inf)
    logs = np.stack([_log(of_hits), np.log1p(ranks)])

    def thresholds(weight: float, targets: tuple[float, ...]) -> Doubles:
        statistics = _weighted(logs, weight)
        return np.array([_controlled(statistics[:, :k], targets) for k in ks])

    some = np.linspace(0, n - 1, min(n, _COST_QUERIES)).astype(np.intp)
    rows = np.cumsum(sizes[lists[some]], axis=1, dtype=np.float64)
    costs = [_costs(gaps[some], rows, weight, thresholds(weight, _JUDGED_BY)) for weight in _WEIGHTS]
    relative = np.exp(np.mean(np.log(np.array(costs)), axis=1))
    weight = float(_WEIGHTS[np.flatnonzero(relative <= _TOLERANCE * relative.min())[0]])
    table = thresholds(weight, TARGETS) + _ROUNDING
    least = gaps.min(axis=0)
    probed = [[(least <= _limits(value, weight, m)).sum() for value in row] for row in table]
    ranked = np.minimum(np.ceil(_MARGIN * np.array(probed)), len(sizes))
    return Probing(
        weight=weight,
        ks=np.array(ks, np.int32),
        targets=np.array(TARGETS, np.float32),
        thresholds=table.astype(np.float32),
        ranked=np.where(np.isinf(table), len(sizes), ranked).astype(np.int32),
        nlist=len(sizes),
    )


def _calibrated_ks(k_min: int, k_max: int) -> list[int]:
    """Return k_min, the usual numbers between it and k_max, and k_max."""
    usual = [digit * 10**power for power in range(9) for digit in (1, 2, 5)]
    return sorted({min(k_min, k_max), k_max, *(k for k in usual if k_min < k < k_max)})


def _ranks(lists: NDArray[np.int32], where: NDArray[np.int32], nlist: int) -> NDArray[np.int64]:
    """Return the rank of the list of each result, (n, k_max), and m where it was not ranked."""
    m = lists.shape[1]
    rank_of = np.full(nlist, m, np.int64)
    ranks = np.empty(where.shape, np.int64)
    for i, ranked in enumerate(lists):
        rank_of[ranked] = np.arange(m)
        ranks[i] = rank_of[where[i]]
        rank_of[ranked] = m
    return ranks


def _log(gaps: Floats) -> Doubles:
    """Return natural logarithms; for 0 that of the least positive number, so that no threshold is minus infinity."""
    return np.log(np.maximum(gaps, _LEAST), dtype=np.float64)


def _weighted(logs: Doubles, weight: float) -> Doubles:
    """Return the logarithms of gap^(1 − w) · (1 + r)^w."""
    return (1 - weight) * logs[0] + weight * logs[1]


def _limits(threshold: float, weight: float, m: int) -> Floats:
    """Return the largest gap with which a list of each of m ranks is probed, (m,); it falls with the rank."""
    with np.errstate(over="ignore"):
        limits = np.exp((threshold - weight * np.log1p(np.arange(m))) / (1 - weight))
    return np.minimum(limits, _LARGEST).astype(np.float32)


def _controlled(statistics: Doubles, targets: tuple[float, ...]) -> Doubles:
    """Return the least threshold for each target with n · loss + 1 <= (n + 1) · (1 − target) of n queries.

    The 1 stands for the next query, which might lose all. Infinite where there are too few queries.
    """
    n = len(statistics)
    losses = 1 - np.array(targets) - np.array(targets) / n
    allowed = np.floor(losses * statistics.size + 1e-6).astype(np.int64)  # results that may be lost
    kept = statistics.size - 1 - np.maximum(allowed, 0)
    ordered = np.partition(statistics, np.unique(kept), axis=None)
    return np.where(losses < -1e-9, np.inf, ordered[kept])


def _costs(gaps: Floats, rows: Doubles, weight: float, thresholds: Doubles) -> list[float]:
    """Return the mean number of rows in the probed lists, for each threshold."""
    counts = [(gaps <= _limits(value, weight, gaps.shape[1])).sum(axis=1) for value in thresholds.ravel()]
    return [float(np.take_along_axis(rows, count[:, None] - 1, axis=1).mean()) for count in counts]


def _between(targets: Sequence[float], thresholds: Doubles, recall: float) -> float:
    """Return log t, for a t that is linear in log(1 − recall); infinite above the largest target."""
    target = float(np.float32(recall))  # as targets were stored: a calibrated one must be met exactly
    right = bisect_left(targets, target)
    if right == len(targets):
        return math.inf
    if right == 0 or targets[right] == target:
        return float(thresholds[right])
    start, here, end = (math.log1p(-each) for each in (targets[right - 1], target, targets[right]))
    share = (here - start) / (end - start)
    return float(np.logaddexp(thresholds[right - 1] + math.log1p(-share), thresholds[right] + math.log(share)))
