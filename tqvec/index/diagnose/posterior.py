"""Posterior of the true scores of a query's best rows, given the estimates of all.

Positions count standard errors, down from a query's best row, so that all rows of all queries are alike. Equations are
numbered as on the "Diagnose" page.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import scipy  # whose `special` loads when it is first used, not with tqvec

from tqvec._types import Doubles, Flags, Ids
from tqvec.exact import squared_norms
from tqvec.index.diagnose.candidates import Candidates, same_codes
from tqvec.index.diagnose.error_correlation import LEAST_D, ErrorCorrelation, measure_error_correlation
from tqvec.index.errors.standard_errors import ScoreGeometry, expected_error, near_error, score_geometry
from tqvec.index.metrics import Metric
from tqvec.index.snapshot import Snapshot, centre_scores

STEP = 1e-6  # standard errors between columns, so that of equal positions the first wins
_WINDOW = 4.0  # standard errors below the k-th estimate that the density is fitted to
_STEPS = 8  # of the fixed point: each halves the way left, so 1/256 of it remains
_CORRELATION_STEPS = (2, 5)  # when a quarter of the way is left, and three steps later; then three more settle
_SIMILAR = 20  # best rows whose cosines are averaged
_MAX_NOISE = 0.97  # share of a difference of estimates that the fit may take for noise
_MAX_CUT = 0.1  # share of the queries whose window may be cut off
_NO_ERROR = 1e-100  # standard error of a score that has none, such as a product with zero
_FAR = 1e3  # standard errors that leave no doubt


class Posterior(NamedTuple):
    """True positions of the best rows of some queries, (nq, m) each.

    Attributes
    ----------
    mean : array
        Expected true position.
    std : array
        Standard deviation of the true position around it.
    noise : array
        Standard deviation of an estimate around the true position.
    same : array of bool
        Whether a row has the codes of the one before: they err alike.
    ordered : bool
        Whether the order of rows is that of the index' own estimates.
    curvature : float
        −(log density)'' of the estimates, of the median query: the share of their differences that is noise.
    complete : bool
        Whether all rows within the window are there, for most queries.
    """

    mean: Doubles
    std: Doubles
    noise: Doubles
    same: Flags
    ordered: bool
    curvature: float
    complete: bool

    def draw_truth(self, rng: np.random.Generator) -> Doubles:
        """Draw true positions at random, (nq, m)."""
        return self.mean + self.std * self._draw_normal(rng) - STEP * np.arange(self.mean.shape[1])

    def draw_estimates(self, truth: Doubles, factor: float, rng: np.random.Generator) -> Doubles:
        """Draw estimates by codes whose errors are `factor` times those of the index, (nq, m)."""
        return truth + factor * self.noise * self._draw_normal(rng)

    def _draw_normal(self, rng: np.random.Generator) -> Doubles:
        drawn = rng.standard_normal(self.mean.shape)
        if not self.same.any():
            return drawn
        leader = np.maximum.accumulate(np.where(self.same, 0, np.arange(drawn.shape[1])), axis=1)
        return np.take_along_axis(drawn, leader, axis=1)


class ScoreErrors(NamedTuple):
    """Standard errors of scores, as a function of the true ones.

    Attributes
    ----------
    geometry : ScoreGeometry
    offset : (nq, m) or (nq, 1) float64
        Added to a score, it gives the product of query and residual, times the magnitude.
    near_std : float
        Factor of the errors of near neighbours.
    """

    geometry: ScoreGeometry
    offset: Doubles
    near_std: float

    def cosines(self, scores: Doubles) -> Doubles:
        """Return products of the directions of query and residual; of estimates they may be above 1."""
        products, magnitude = scores + self.offset, self.geometry.magnitude
        return np.divide(products, magnitude, out=np.zeros_like(products), where=magnitude > 0)

    def at(self, true: Doubles) -> Doubles:
        """Return standard errors at some true scores, at least `_NO_ERROR`."""
        magnitude, _, relative_error, rounding = self.geometry
        variance = relative_error**2 * np.maximum(1 - np.square(self.cosines(true)), 0) + rounding**2
        return np.maximum(self.near_std * magnitude * np.sqrt(variance), _NO_ERROR)


def _score_errors(snapshot: Snapshot, candidates: Candidates) -> ScoreErrors:
    codec, metric, queries = snapshot.codec, snapshot.metric, candidates.queries
    stored = snapshot.gather(candidates.rows, metric.scalars)
    geometry = score_geometry(codec, metric, stored, queries, np.zeros(candidates.rows.shape, np.float32))
    if metric is Metric.L2:
        offset = squared_norms(queries - codec.centre)[:, None] + stored["squared_norm"]
    else:
        offset = -centre_scores(codec, metric, queries)[:, None]
    return ScoreErrors(geometry, offset, near_std=near_error(codec)[1])


class TailFit(NamedTuple):
    """Density exp(−rate·e − curvature·e²/2) of estimates at a distance e above `edge`, (nq, 1) each (equation 2)."""

    rate: Doubles
    curvature: Doubles
    edge: Doubles


@cache
def _moments() -> tuple[Doubles, Doubles, Doubles]:
    """Return levels z, the mean excess e of a normal variable above each, and E e²/(E e)²."""
    z = np.linspace(-12, 30, 2001)
    excess = np.exp(-np.square(z) / 2 - np.log(2 * np.pi) / 2 - scipy.special.log_ndtr(-z)) - z
    return z, excess, (1 - z * excess) / np.square(excess)


def fit_tail(position: Doubles, k: int) -> TailFit:
    """Fit the first two moments: a truncated normal distribution, or an exponential one where the tail is heavier."""
    edge = np.maximum(position[:, k - 1 : k] - _WINDOW, position[:, -1:])
    inside = position >= edge
    first = np.maximum(_mean(position - edge, inside), STEP)
    ratio = _mean(np.square(position - edge), inside) / np.square(first)
    levels, excess, ratios = _moments()
    z = np.interp(ratio, ratios, levels)
    std = first / np.interp(z, levels, excess)
    heavy, flat = ratio >= ratios[-1], first <= STEP
    rate = np.where(flat, 0.0, np.where(heavy, 1 / first, z / std))
    return TailFit(rate, np.where(heavy | flat, 0.0, std**-2), edge)


def smooth_errors(scores: Doubles, errors: Doubles, k: int) -> Doubles:
    """Return standard errors at each score from a straight line through those of the rows near the top, (nq, m)."""
    inside = scores >= scores[:, k - 1 : k] - _WINDOW * np.median(errors[:, :k], axis=1, keepdims=True)
    level = _mean(errors, inside)
    away = scores - _mean(scores, inside)
    variance = _mean(np.square(away), inside)
    slope = np.divide(_mean(away * errors, inside), variance, out=np.zeros_like(variance), where=variance > 0)
    return np.clip(level + slope * away, 0.2 * level, 5 * level)


def positions(scores: Doubles, unit: Doubles) -> Doubles:
    """Return scores in units of their standard errors, down from the first, which is 0."""
    steps = np.minimum(-2 * np.diff(scores, axis=1) / (unit[:, 1:] + unit[:, :-1]), _FAR)
    return -np.pad(np.cumsum(steps, axis=1), ((0, 0), (1, 0)))


def _mean(x: Doubles, inside: Flags) -> Doubles:
    """Return the mean over some columns, (nq, 1)."""
    return np.sum(x, axis=1, where=inside, keepdims=True) / inside.sum(axis=1, keepdims=True)


def mean_cosine(snapshot: Snapshot, rows: Ids) -> Doubles:
    """Return the mean product of the decoded directions of the best rows of each query, (nq,)."""
    growth = 1 + expected_error(snapshot.codec).tangent ** 2
    means = np.zeros(rows.shape[0])
    for q, best in enumerate(rows[:, :_SIMILAR]):
        vectors = snapshot.decode_unbiased(best, threads=1).astype(np.float64) - snapshot.codec.centre
        length = np.sqrt(np.einsum("ij,ij->i", vectors, vectors) / growth)[:, None]
        vectors = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
        total = vectors.sum(axis=0)
        means[q] = (total @ total - np.sum(np.square(vectors))) / max(1, best.size * (best.size - 1))
    return means


class _Noise(NamedTuple):
    """How estimates scatter around true scores, in units of one row's standard error.

    Attributes
    ----------
    scores : (nq, m) float64
        Estimates, without the bias of products of two decoded rows.
    row : (nq, 1) float64
        Variance that is due to the rows.
    total : (nq, 1) float64
        Variance that is due to rows and query.
    slope : float
        Factor of differences of scores that the bias had, and so of their errors.
    """

    scores: Doubles
    row: Doubles
    total: Doubles
    slope: float

    @property
    def ratio(self) -> Doubles:
        """Standard deviation of an estimate by that of one row's independent error, (nq, 1)."""
        return np.sqrt(self.total) / self.slope


class _State(NamedTuple):
    """One step of the fixed point: true scores, and the fit that they follow from, (nq, m) or (nq, 1) each."""

    true: Doubles
    error: Doubles  # standard error of each score
    unit: Doubles  # the same, smoothed: the unit of positions
    position: Doubles
    tail: TailFit
    shift: Doubles  # how far the expected true position is below the estimated one
    shrinkage: Doubles  # share of the variance of a row's estimate that the density explains


def posterior_positions(snapshot: Snapshot, candidates: Candidates, k: int) -> Posterior:
    """Return the posterior of true positions, given the estimates.

    Standard errors depend on the true scores, and these on the standard errors (equations 1 to 4). Both are found by a
    fixed point that starts where errors are largest, at each query's worst score. The correlation of neighbours' errors
    depends on them too. It changes little with them, and a measurement encodes 16,740 vectors, so two must do.
    """
    errors, codec = _score_errors(snapshot, candidates), snapshot.plain()
    cosines, top = mean_cosine(snapshot, candidates.rows), min(2 * k, candidates.rows.shape[1])
    true = np.broadcast_to(candidates.scores[:, -1:], candidates.scores.shape)
    noise = _independent_noise(candidates, expected_error(codec).tangent)
    for step in range(_STEPS):
        if step in _CORRELATION_STEPS and codec.d >= LEAST_D:
            cosine = float(np.clip(np.median(errors.cosines(true)[:, :top]), 0, 0.99))
            correlation = measure_error_correlation(codec, cosine, cosines)
            noise = _correlated_noise(candidates, errors, cosine, correlation)
        state = _one_step(true, noise, errors, k)
        true = state.true
    position, edge = state.position, state.tail.edge
    weight = state.error / state.unit
    inside, sure = position >= edge, candidates.copies | (state.error <= _NO_ERROR)
    cut = np.mean(position[:, -1] >= position[:, k - 1] - _WINDOW)
    return Posterior(
        mean=np.where(candidates.copies, _FAR, position - np.where(inside, state.shift, _FAR)),
        std=np.where(sure | ~inside, 0.0, weight * np.sqrt(1 - state.shrinkage)),
        noise=np.where(sure, 0.0, weight * np.sqrt(noise.row) / noise.ratio),
        same=same_codes(snapshot, candidates.rows),
        ordered=candidates.query_error is None,
        curvature=float(np.median(state.tail.curvature)),
        complete=bool(position.shape[1] >= snapshot.ntotal - 1 or cut <= _MAX_CUT),
    )


def _independent_noise(candidates: Candidates, tangent: float) -> _Noise:
    """Return the noise of rows whose errors are independent; a query known by its codes adds its own."""
    row = np.ones((1, 1))
    query_error = candidates.query_error
    total = row if query_error is None else 1 + query_error * (1 + tangent**2)
    return _Noise(candidates.scores, row, total, slope=1.0)


def _correlated_noise(
    candidates: Candidates, errors: ScoreErrors, cosine: float, correlation: ErrorCorrelation
) -> _Noise:
    """Return the noise of rows that have a cosine with their query and resemble each other (equation 5)."""
    row, query_error = correlation.single, candidates.query_error
    if query_error is None:
        return _Noise(candidates.scores, row, row, slope=1.0)
    slope = correlation.slope
    excess = errors.cosines(candidates.scores) - cosine
    scores = candidates.scores - errors.geometry.magnitude * (excess - (excess - correlation.bias) / slope)
    return _Noise(scores, row, row + (correlation.double - row) * query_error, slope)


def _one_step(true: Doubles, noise: _Noise, errors: ScoreErrors, k: int) -> _State:
    """Return the state that follows from some true scores, with the numbers of the equations.

    The new true scores are the mean of the old ones and of those of equation 3. Without this damping some queries swing
    for ever between two fits, since the window moves with the standard errors.
    """
    error = noise.ratio * errors.at(true)  # 1
    unit = smooth_errors(noise.scores, error, k)
    position, variance = positions(noise.scores, unit), np.square(error / unit)
    tail = fit_tail(position, k)  # 2
    excess = variance - _mean(variance, position >= tail.edge)
    own = 1 / np.maximum(1 + tail.curvature * excess, 1 - _MAX_NOISE)
    shrinkage = np.minimum(tail.curvature * own * variance, _MAX_NOISE)  # 3
    shift = variance * tail.rate * own + shrinkage * (position - tail.edge)  # 3
    return _State(
        true=(true + noise.scores - shift * unit) / 2,  # 4
        error=error,
        unit=unit,
        position=position,
        tail=tail,
        shift=shift,
        shrinkage=shrinkage,
    )


def positions_from_exact(snapshot: Snapshot, candidates: Candidates, k: int) -> Posterior:
    """Return the positions of exact scores, to simulate the estimates that other codes would make of them."""
    errors = _score_errors(snapshot, candidates).at(candidates.scores)
    unit = smooth_errors(candidates.scores, errors, k)
    mean = positions(candidates.scores, unit)
    return Posterior(
        mean=mean,
        std=np.zeros_like(mean),
        noise=np.where(errors <= _NO_ERROR, 0.0, errors / unit),
        same=same_codes(snapshot, candidates.rows),
        ordered=False,
        curvature=0.0,
        complete=True,
    )
