"""Probing: how many of its nearest lists a query is compared with, so that a promised recall is kept on average.

Recall means the share of the flat search's results that the probed lists hold. See the "Probing" section of the notes
on partitions for the rules that were compared.
"""

from __future__ import annotations

import math
from bisect import bisect_right
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
_LARGEST = float(np.finfo(np.float32).max)
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
            Results of a query, at least 1.
        recall : float
            The promise, above 0. From 1.0 down to the largest calibrated target, exclusive, it takes all lists.
        """
        if _interpolate(self, self.thresholds, k, recall) == math.inf:
            return self.nlist
        ranked = math.exp(_interpolate(self, np.log(self.ranked), k, recall))
        return min(math.ceil(ranked * (1 - 1e-9)), self.nlist)

    def counts(self, scores: Floats, k: int, recall: float) -> NDArray[np.int32]:
        """Return how many of its ranked lists each query probes, at least 1.

        Parameters
        ----------
        scores : (nq, m) float32
            Scores of the best m >= 1 lists of each query, best first and larger is better, as in calibration. Minus
            infinity where a query has fewer lists; these are not counted.
        k : int
            Results of a query, at least 1. Beyond the calibrated numbers the rule is extrapolated.
        recall : float
            The promise, above 0. Below the least calibrated target it is that target.

        Returns
        -------
        (nq,) int32
            At most m. All m where the promise takes all lists.
        """
        limits = self.limits(scores.shape[1], k, recall)
        return (scores[:, :1] - scores <= limits).sum(axis=1, dtype=np.int32)

    def limits(self, m: int, k: int, recall: float) -> Floats:
        """Return the largest gap with which a query probes its list of each rank.

        They are the same for all queries, so a caller may keep them. They fall with the rank while gaps rise: the
        lists within the limits come first.

        Parameters
        ----------
        m : int
            Ranks.
        k, recall
            As in `counts`.

        Returns
        -------
        (m,) float32
        """
        return _limits(_interpolate(self, self.thresholds, k, recall), self.weight, m)


def calibrate(
    scores: Floats, lists: NDArray[np.int32], where: NDArray[np.int32], sizes: NDArray[np.int32], k_min: int = 1
) -> Probing:
    """Calibrate the rule on queries whose exact results are known.

    The thresholds are those of conformal risk control (Angelopoulos et al., 2022): for fresh queries of the same
    distribution the expected recall is at least the target, and above it by at most about 2/n. That holds for a given
    weight. The weight is the one that costs least on the same queries, of ten, which has no measurable effect.

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
        Calibrated for k_min, for the powers of ten between it and k_max, for k_max, and for `TARGETS`.
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
    """Return k_min, the powers of ten between it and k_max, and k_max."""
    powers = [10**power for power in range(9)]
    return sorted({min(k_min, k_max), k_max, *(k for k in powers if k_min < k < k_max)})


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
    """Return natural logarithms, minus infinity of 0."""
    with np.errstate(divide="ignore"):
        return np.log(gaps.astype(np.float64))


def _weighted(logs: Doubles, weight: float) -> Doubles:
    """Return the logarithms of gap^(1 − w) · (1 + r)^w, minus infinity for the best list."""
    return (1 - weight) * logs[0] + weight * logs[1]


def _limits(threshold: float, weight: float, m: int) -> Floats:
    """Return the largest gap with which a list of each of m ranks is probed, (m,); it falls with the rank."""
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


def _interpolate(probing: Probing, table: NDArray[np.floating], k: int, recall: float) -> float:
    """Return a value of a table, linear in log k and in log(1 − recall); infinite above the largest target."""
    targets = probing.targets.tolist()
    target = max(float(np.float32(recall)), targets[0])  # as targets were stored: a calibrated one must be met exactly
    if target > targets[-1]:
        return math.inf
    t, right = _position([-math.log1p(-each) for each in targets], -math.log1p(-target))
    i, below = _position([math.log(each) for each in probing.ks.tolist()], math.log(k))
    rows = [_mix(row[t : t + 2].tolist(), right) for row in table[i : i + 2]]
    return _mix(rows, below)


def _position(grid: Sequence[float], value: float) -> tuple[int, float]:
    """Return the interval of a grid that holds a value, and the position in it: 0 before the grid, above 1 beyond."""
    i = max(min(bisect_right(grid, value) - 1, len(grid) - 2), 0)
    return (i, max((value - grid[i]) / (grid[i + 1] - grid[i]), 0.0)) if len(grid) > 1 else (0, 0.0)


def _mix(values: Sequence[float], position: float) -> float:
    """Return the linear function through two values at 0 and 1; the greater value where either is infinite."""
    if position in (0, 1):
        return values[int(position)]
    left, right = values
    return left + position * (right - left) if math.isfinite(left + right) else max(left, right)
