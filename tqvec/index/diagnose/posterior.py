"""What the true scores of a query's best rows may be, given the estimates of all: docs/explanation/diagnose.md.

Positions are counted in standard errors, down from a query's best row, so that all rows of all queries are alike.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import scipy  # whose `special` loads when it is first used, not with tqvec
from numpy.typing import NDArray

from tqvec._types import Doubles, Flags, Floats, Ids
from tqvec.codec.error_byte import read_error_byte
from tqvec.exact import squared_norms
from tqvec.index.diagnose.error_correlation import LEAST_D, crowd
from tqvec.index.errors.standard_errors import expected_error, near_error, score_geometry
from tqvec.index.rows import encode_rows
from tqvec.index.snapshot import Snapshot, centre_scores

_WINDOW = 4.0  # standard errors below the k-th estimate that the density is fitted to
_STEPS = 8  # of the iteration between true scores and their standard errors
_CROWDS = (2, 5)  # steps at which errors of neighbours are measured anew
_ALIKE = 20  # best rows whose likeness is looked at
_MOST_SHRUNK = 0.97  # part of a difference of estimates that the fit may take for noise
STEP = 1e-6  # standard errors between columns, so that of equals the first wins
_OWN = 64  # best results among which copies of the query are looked for
_FEW = 0.1  # part of the queries whose window may be cut off
_NONE = 1e-100  # error of what has none, such as a product with zero
_FAR = 1e3  # standard errors that leave no doubt


class Neighbours(NamedTuple):
    """The best rows of some queries, (nq, m) each.

    Attributes
    ----------
    mean : array
        Expected true position.
    deviation : array
        Standard deviation of the true position around it.
    noise : array
        Standard deviation of an estimate around the true position.
    same : array of bool
        Whether a row has the codes of the one before: they err alike.
    ordered : bool
        Whether the order of rows is that of the index' own estimates.
    curvature : float
        −(log density)'' of the estimates, of the median query: the part of their differences that is noise.
    complete : bool
        Whether all rows within the window are there, for most queries.
    """

    mean: Doubles
    deviation: Doubles
    noise: Doubles
    same: Flags
    ordered: bool
    curvature: float
    complete: bool

    def truth(self, rng: np.random.Generator) -> Doubles:
        """True positions, drawn at random."""
        return self.mean + self.deviation * self._normal(rng) - STEP * np.arange(self.mean.shape[1])

    def estimates(self, truth: Doubles, factor: float, rng: np.random.Generator) -> Doubles:
        """Positions as estimated by codes whose errors are `factor` times those of the index."""
        return truth + factor * self.noise * self._normal(rng)

    def _normal(self, rng: np.random.Generator) -> Doubles:
        drawn = rng.standard_normal(self.mean.shape)
        if not self.same.any():
            return drawn
        leader = np.maximum.accumulate(np.where(self.same, 0, np.arange(drawn.shape[1])), axis=1)
        return np.take_along_axis(drawn, leader, axis=1)


class Found(NamedTuple):
    """Results that true scores are to be judged from.

    Attributes
    ----------
    queries : (nq, d) float32
        With the lengths of the true queries.
    scores : (nq, m) float64
        Unbiased, larger is better, best first.
    ids : (nq, m) int64
    own : (nq, m) bool
        Copies of a query that is a stored row.
    blur : (nq, 1) float64 or None
        For queries that are known by their codes alone: tan² of the angle between the two, by the expected one.
    """

    queries: Floats
    scores: Doubles
    ids: Ids
    own: Flags
    blur: Doubles | None


def asked(stored: Snapshot, queries: Floats, m: int, leave_out: bool) -> Found:
    """The best `m` rows for exact queries; with `leave_out`, without one row that has the codes of the query."""
    scores, ids = stored.estimates(queries, min(m + leave_out, stored.ntotal))
    if leave_out:
        rows = encode_rows(stored.codec, stored.metric, queries)
        copies = _copies(stored, ids, rows["codes"], rows["scale"])
        scores, ids = without(copies & (np.cumsum(copies, axis=1) == 1), scores, ids)
    return Found(queries, _larger(stored, scores), ids, np.zeros(ids.shape, bool), None)


def stored_rows(stored: Snapshot, rows: Ids, m: int) -> Found:
    """The best `m` rows for stored rows, known by their codes alone, each without itself."""
    codec, metric = stored.codec, stored.metric
    queries = stored.decode_unbiased(rows)
    lengths = np.sqrt(squared_norms(queries))[:, None]
    usual = expected_error(codec).tangent
    tangent = read_error_byte(stored.column(rows, "scale"))[:, None]
    squared = np.square(np.where(np.isnan(tangent), usual, tangent))
    noise = squared / (1 + squared) * squared_norms(queries - codec.centre)[:, None]
    true = np.sqrt(np.maximum(lengths**2 - noise, 0))
    found, ids = stored.estimates(queries, min(m + 1, stored.ntotal))
    scores, ids = without(ids == rows[:, None], _larger(stored, found), ids)
    if metric == "cosine":
        scores, true = scores * lengths, np.minimum(lengths, 1.0)
    elif metric == "l2":
        scores = scores + lengths**2 - true**2
    shrink = np.divide(true, lengths, out=np.zeros_like(true), where=lengths > 0)
    own = _copies(stored, ids, stored.column(rows, "codes"), stored.column(rows, "scale"))
    return Found((queries * shrink).astype(np.float32), scores, ids, own, squared / max(usual**2, 1e-30))


def _larger(stored: Snapshot, scores: Floats) -> Doubles:
    return scores.astype(np.float64) * (-1 if stored.metric == "l2" else 1)


def _copies(stored: Snapshot, ids: Ids, codes: NDArray[np.uint8], scale: Floats) -> Flags:
    """Which results have the codes and the scale of their query."""
    same = np.zeros(ids.shape, bool)
    q, column = np.nonzero(stored.column(ids[:, :_OWN], "scale") == scale[:, None])
    same[q, column] = (stored.column(ids[q, column], "codes") == codes[q]).all(axis=1)
    return same


def same_codes(stored: Snapshot, ids: Ids) -> Flags:
    """Whether a result has the codes and the scale of the one before."""
    scale = stored.column(ids, "scale")
    same = np.zeros(ids.shape, bool)
    q, column = np.nonzero(scale[:, 1:] == scale[:, :-1])
    before, after = stored.column(ids[q, column], "codes"), stored.column(ids[q, column + 1], "codes")
    same[q, column + 1] = (before == after).all(axis=1)
    return same


def without(drop: Flags, scores: NDArray, ids: Ids) -> tuple[NDArray, Ids]:
    """Results without at most one flagged in each row, and without the last one where none is."""
    order = np.argsort(drop, axis=1, kind="stable")[:, :-1]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)


class Errors(NamedTuple):
    """Standard errors of scores, as a function of the true ones.

    Attributes
    ----------
    size, turn, rounding
        As in `uncertainty.Angles`.
    offset : (nq, m) or (nq, 1) float64
        What is added to a score to make it a product of query and residual, times `size`.
    spread : float
        What the errors of near neighbours are multiplied by.
    """

    size: Doubles
    turn: Doubles
    rounding: float
    offset: Doubles
    spread: float

    def cosines(self, scores: Doubles) -> Doubles:
        """Products of the directions of query and residual; of estimates they may be above 1."""
        products = scores + self.offset
        return np.divide(products, self.size, out=np.zeros_like(products), where=self.size > 0)

    def at(self, true: Doubles) -> Doubles:
        """Standard errors at some scores, at least `_NONE`."""
        turned = self.turn**2 * np.maximum(1 - np.square(self.cosines(true)), 0) + self.rounding**2
        return np.maximum(self.spread * self.size * np.sqrt(turned), _NONE)


def errors_of(stored: Snapshot, found: Found) -> Errors:
    """What `uncertainty.standard_errors` knows, for true scores yet to be found."""
    codec, metric = stored.codec, stored.metric
    rows = stored.gather(found.ids, ("scale", "squared_norm") if metric == "l2" else ("scale",))
    known = score_geometry(codec, metric, rows, found.queries, np.zeros(found.ids.shape, np.float32))
    if metric == "l2":
        offset = squared_norms(found.queries - codec.centre)[:, None] + rows["squared_norm"]
    else:
        offset = -centre_scores(codec, metric, found.queries)[:, None]
    return Errors(
        known.magnitude.astype(np.float64), known.relative_error, known.rounding, offset, near_error(codec)[1]
    )


class Tail(NamedTuple):
    """Density of estimates near the top: exp(−rate·e − curvature·e²/2), e above `edge`; (nq, 1) each."""

    rate: Doubles
    curvature: Doubles
    edge: Doubles


@cache
def _moments() -> tuple[Doubles, Doubles, Doubles]:
    """Levels z, the mean of what a normal variable exceeds them by, and E e²/(E e)² of that excess e."""
    z = np.linspace(-12, 30, 2001)
    excess = np.exp(-np.square(z) / 2 - np.log(2 * np.pi) / 2 - scipy.special.log_ndtr(-z)) - z
    return z, excess, (1 - z * excess) / np.square(excess)


def tail(place: Doubles, k: int) -> Tail:
    """Fit by the first two moments: a normal distribution cut off, or an exponential one where it is heavier."""
    edge = np.maximum(place[:, k - 1 : k] - _WINDOW, place[:, -1:])
    inside = place >= edge
    first = np.maximum(_mean(place - edge, inside), STEP)
    ratio = _mean(np.square(place - edge), inside) / np.square(first)
    levels, excess, ratios = _moments()
    z = np.interp(ratio, ratios, levels)
    deviation = first / np.interp(z, levels, excess)
    heavy, flat = ratio >= ratios[-1], first <= STEP
    rate = np.where(flat, 0.0, np.where(heavy, 1 / first, z / deviation))
    return Tail(rate, np.where(heavy | flat, 0.0, deviation**-2), edge)


def units(scores: Doubles, errors: Doubles, k: int) -> Doubles:
    """Standard error at each score, by a straight line through those of the rows near the top; (nq, m)."""
    inside = scores >= scores[:, k - 1 : k] - _WINDOW * np.median(errors[:, :k], axis=1, keepdims=True)
    level = _mean(errors, inside)
    away = scores - _mean(scores, inside)
    spread = _mean(np.square(away), inside)
    slope = np.divide(_mean(away * errors, inside), spread, out=np.zeros_like(spread), where=spread > 0)
    return np.clip(level + slope * away, 0.2 * level, 5 * level)


def positions(scores: Doubles, unit: Doubles) -> Doubles:
    """Scores in standard errors, down from the first, which is 0."""
    steps = np.minimum(-2 * np.diff(scores, axis=1) / (unit[:, 1:] + unit[:, :-1]), _FAR)
    return -np.pad(np.cumsum(steps, axis=1), ((0, 0), (1, 0)))


def _mean(x: Doubles, inside: Flags) -> Doubles:
    """Of some columns, (nq, 1)."""
    return np.sum(x, axis=1, where=inside, keepdims=True) / inside.sum(axis=1, keepdims=True)


def likeness(stored: Snapshot, ids: Ids) -> Doubles:
    """Mean product of the decoded directions of the best rows of each query, (nq,)."""
    growth = 1 + expected_error(stored.codec).tangent ** 2
    out = np.zeros(ids.shape[0])
    for q, best in enumerate(ids[:, :_ALIKE]):
        rows = stored.decode_unbiased(best, threads=1).astype(np.float64) - stored.codec.centre
        length = np.sqrt(np.einsum("ij,ij->i", rows, rows) / growth)[:, None]
        rows = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
        total = rows.sum(axis=0)
        out[q] = (total @ total - np.sum(np.square(rows))) / max(1, best.size * (best.size - 1))
    return out


def judged(stored: Snapshot, found: Found, k: int) -> Neighbours:
    """True positions, given the estimates.

    By Tweedie's formula a true position has mean p + w²(log f)'(p) and variance w²(1 + w²(log f)''(p)), for an estimate
    p with standard error w and the density f of such estimates. Standard errors depend on the true scores, so both are
    found in turn, from above.
    """
    errors, codec = errors_of(stored, found), stored.plain()
    similar, top = likeness(stored, found.ids), min(2 * k, found.ids.shape[1])
    scores, true = found.scores, np.broadcast_to(found.scores[:, -1:], found.scores.shape)
    single, slope = np.ones((1, 1)), 1.0
    double = single if found.blur is None else 1 + found.blur * (1 + expected_error(codec).tangent ** 2)
    for step in range(_STEPS):
        if step in _CROWDS and codec.d >= LEAST_D:
            cosine = float(np.clip(np.median(errors.cosines(true)[:, :top]), 0, 0.99))
            group = crowd(codec, cosine, similar)
            single = double = group.single
            if found.blur is not None:
                double, slope = single + (group.double - single) * found.blur, group.slope
                excess = errors.cosines(found.scores) - cosine
                scores = found.scores - errors.size * (excess - (excess - group.lean) / slope)
        ratio = np.sqrt(double) / slope
        deviation = ratio * errors.at(true)
        unit = units(scores, deviation, k)
        place, weight = positions(scores, unit), deviation / unit
        fitted = tail(place, k)
        usual = _mean(np.square(weight), place >= fitted.edge)
        own = 1 / np.maximum(1 + fitted.curvature * (np.square(weight) - usual), 1 - _MOST_SHRUNK)
        shrunk = np.minimum(fitted.curvature * own * np.square(weight), _MOST_SHRUNK)
        down = np.square(weight) * fitted.rate * own + shrunk * (place - fitted.edge)
        true = (true + scores - down * unit) / 2
    inside, sure = place >= fitted.edge, found.own | (deviation <= _NONE)
    cut = np.mean(place[:, -1] >= place[:, k - 1] - _WINDOW)
    return Neighbours(
        np.where(found.own, _FAR, np.where(inside, place - down, place - _FAR)),
        np.where(sure | ~inside, 0.0, weight * np.sqrt(1 - shrunk)),
        np.where(sure, 0.0, weight * np.sqrt(single) / ratio),
        same_codes(stored, found.ids),
        found.blur is None,
        float(np.median(fitted.curvature)),
        bool(place.shape[1] >= stored.ntotal - 1 or cut <= _FEW),
    )


def known(stored: Snapshot, found: Found, k: int) -> Neighbours:
    """Positions of exact scores, for what other codes would make of them."""
    deviation = errors_of(stored, found).at(found.scores)
    unit = units(found.scores, deviation, k)
    place = positions(found.scores, unit)
    same = same_codes(stored, found.ids)
    noise = np.where(deviation <= _NONE, 0.0, deviation / unit)
    return Neighbours(place, np.zeros_like(place), noise, same, False, 0.0, True)
