"""Standard errors of scores; see the "Error bars" page for the derivations.

`score_geometry` is about any score. `estimate_true_scores` is about results. They are the best of many scores, and so
overestimates on average (selection bias, the winner's curse).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from tqvec._types import Doubles, Floats, Ids
from tqvec.codec.bands import integer_steps
from tqvec.codec.error_byte import read_error_byte, tangent_table
from tqvec.codec.turboquant import TurboQuant
from tqvec.exact import squared_norms
from tqvec.index.metrics import Metric
from tqvec.index.rows import Rows
from tqvec.index.snapshot import Results, View, centre_scores
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.tables import ErrorModel

_expected: WeakKeyDictionary[TurboQuant, ExpectedError] = WeakKeyDictionary()
_models: WeakKeyDictionary[TurboQuant, ErrorModel] = WeakKeyDictionary()
_NO_SQUARES = np.zeros((0, 0), np.float32)
_MIN_WINDOW = 20  # best scores at least, from which the density near a result is estimated


class ExpectedError(NamedTuple):
    """The error e = ũ/⟨u, ũ⟩ − u of a direction u, as the tables of a codec predict it.

    Attributes
    ----------
    squares : (n_bands + 1,) float64
        Expected e² per coordinate of each band, and of the coordinates after the last band.
    tangent : float
        Root of the sum of e² over all coordinates: the expected tan θ.
    growth : float
        Expected ‖ũ‖² over expected ⟨u, ũ⟩: 1 without a calibration.
    """

    squares: Doubles
    tangent: float
    growth: float


def expected_error(codec: TurboQuant) -> ExpectedError:
    """Return the moments of a codec's error, which are computed once."""
    expected = _expected.get(codec)
    if expected is None:
        expected = _expected[codec] = _compute_expected_error(codec)
    return expected


def _compute_expected_error(codec: TurboQuant) -> ExpectedError:
    """Return the moments that follow from the distortion D of each width and the share of ‖u‖² in each band.

    Levels c of a Lloyd-Max codebook have E c² = E uc = (1 − D) E u²; those of a calibration are divided by 1 − D.
    """
    d, kept = codec.d, codec.shrinkage
    counts = np.array([band.stop - band.start for band in codec.bands])
    if codec.calibration is None:
        shares, factors, unit = counts / d, np.ones(counts.size), 1.0
    else:
        shares, factors, unit = codec.transform.shares, 1 / kept, kept.min()
    products, energies = shares * kept * factors, shares * kept * factors**2
    dot = products.sum()
    squares = (energies / dot**2 - 2 * products / dot + shares) / counts
    rest = d - counts.sum()
    missing = max(1 - shares.sum(), 0.0) / rest if rest else 0.0
    tangent = np.sqrt(squares @ counts + missing * rest)
    return ExpectedError(np.append(squares, missing), float(tangent), float(energies.sum() / dot * unit))


class ScoreGeometry(NamedTuple):
    """Lengths and angles that the error of a score depends on, (nq, k) float64 each.

    Attributes
    ----------
    magnitude : array
        Length of the query times that of the residual; for l2 twice that. A score is this times a cosine, plus a
        constant.
    cosine : array
        Cosine of the query and the residual, as estimated.
    relative_error : array
        √κ: the estimate of a cosine s has variance κ (1 − s²).
    rounding : float
        Standard deviation of a cosine that is due to arithmetic.
    """

    magnitude: Doubles
    cosine: Doubles
    relative_error: Doubles
    rounding: float

    def std(self, selection_bias: Doubles | float = 0.0) -> Doubles:
        """Return the standard deviation of scores that are too good by `selection_bias`, (nq, k).

        Of an estimate v of 1 − s² with variance 4κ(1 − s²), and no other knowledge, |v| + 4κ is the mean of 1 − s².
        """
        size = self.magnitude
        excess = np.divide(selection_bias, size, out=np.zeros_like(size), where=size > 0)
        unexplained = np.minimum(np.abs(1 - np.square(self.cosine - excess)) + 4 * self.relative_error**2, 1.0)
        return size * np.sqrt(self.relative_error**2 * unexplained + self.rounding**2)


def score_geometry(codec: TurboQuant, metric: str, stored: Rows, queries: Floats, scores: Floats) -> ScoreGeometry:
    """Return lengths and angles of queries and residuals, as codes and scores tell them.

    Parameters
    ----------
    codec : TurboQuant
    metric : {"ip", "cosine", "l2"}
    stored : dict of (nq, k) arrays
        Scales and, for l2, squared lengths of the rows that the scores are of.
    queries : (nq, d) float32
        Checked.
    scores : (nq, k) float32
        As `Index.search` returns them.
    """
    model = expected_error(codec)
    if metric == Metric.L2:
        queries = queries - codec.centre
    length = np.sqrt(squared_norms(queries))
    scale = stored["scale"]
    tangent = read_error_byte(scale)
    tangent = np.where(np.isnan(tangent), model.tangent, tangent)
    relative_error = _unit_errors(codec, model, queries, length)[:, None] * tangent
    if metric == Metric.L2:
        squares = stored["squared_norm"].astype(np.float64)
        magnitude = 2 * length[:, None] * np.sqrt(squares)
        products = length[:, None] ** 2 + squares - scores
    else:
        residual = np.abs(scale) * (model.growth / (1 + tangent**2))
        if metric == Metric.COSINE and codec.calibration is None:
            residual = (residual > 0).astype(np.float64)
        magnitude = residual if metric == Metric.COSINE else length[:, None] * residual
        products = scores - centre_scores(codec, metric, queries)[:, None]
    cosine = np.divide(products, magnitude, out=np.zeros_like(magnitude), where=magnitude > 0)
    return ScoreGeometry(magnitude, np.clip(cosine, -1, 1), relative_error, _rounding(codec))


def _rounding(codec: TurboQuant) -> float:
    """Standard deviation of a cosine from rounding levels and queries to integers, and scales by up to 2⁻¹⁶.

    A uniform error has a twelfth of its squared range as variance.
    """
    steps = integer_steps(codec.d, float(np.abs(codec.quantizer.centroids).max()))
    return float(np.sqrt((steps**-2 + 2 * 2.0**-30) / 12))


def _unit_errors(codec: TurboQuant, model: ExpectedError, queries: Floats, length: Doubles) -> Doubles:
    """√κ for tan θ = 1, (nq,): √(Σ ‖q_b‖² v_b d/(d−1)) for the share v_b of a coordinate of band b in the squared
    error; 1/√(d−1) for one band."""
    errors: Doubles
    inflation = codec.d / max(1, codec.d - 1)
    if codec.calibration is None and len(codec.bands) == 1:
        errors = np.empty_like(length)
        errors.fill(math.sqrt(inflation / codec.d))
        return errors
    edges = [0, *(band.stop for band in codec.bands), codec.d]
    energies = np.square(codec.transform.rotate(queries), dtype=np.float64)
    sums = np.stack([energies[:, a:b].sum(axis=1) for a, b in pairwise(edges)], axis=1)
    weights = model.squares / np.append(codec.transform.band_factors, 1.0) / max(model.tangent**2, 1e-30)
    errors = np.sqrt(inflation * sums @ weights)
    return np.divide(errors, length, out=np.zeros_like(length), where=length > 0)


def near_error(codec: TurboQuant) -> tuple[float, float]:
    """Return mean and standard deviation of the errors of good scores, in units of `ScoreGeometry.std`.

    They are 0 and 1 under a random rotation. A calibration holds them as measured.
    """
    if codec.calibration is None:
        return 0.0, 1.0
    mean, std = codec.calibration.near_error.tolist()
    return mean, std


def candidates_for(k: int) -> int:
    """Return the number of results to fetch for the errors of the best `k`."""
    return 2 * k + _MIN_WINDOW


class TrueScores(NamedTuple):
    """The distribution of the true scores of results.

    Attributes
    ----------
    mean : (nq, m) float64
        Expected true scores, larger is better: for l2 they are negated.
    std : (nq, m) float64
        Standard deviation of the true scores around the mean.
    error : (nq, m) float64
        Root mean square error of the scores as they are.
    rate : (nq,) float64
        Rate λ of the exponential tail that each query's scores are from, by Hill's estimate (1975) for exponential
        spacings: (m − 1)/Σ |s_i − s_m|. It is very large where all scores are equal.
    """

    mean: Doubles
    std: Doubles
    error: Doubles
    rate: Doubles


def estimate_true_scores(view: View, queries: Floats, scores: Floats, rows: Ids) -> TrueScores:
    """Return the distribution of true scores, given that these results are the best `m` of all, (nq, m).

    By Tweedie's formula a score with variance σ² is too good by σ²λ on average, with λ the slope −d/ds log p of the
    density p of a query's scores. At rank r it comes from the best 2r + 20 scores, if there are as many and they are no
    more than half of all rows. Hill's estimate is of the hazard rate; it becomes the slope by the factor
    (1 − 2S)/(1 − S), exact for the logistic distribution, with S the share of all rows that are better. The correction
    is capped at the expected maximum of n errors, σ√(2 ln n).
    """
    codec, metric = view.codec, view.metric
    stored = view.scalars(rows)
    if metric is Metric.L2:
        queries = queries - codec.centre
    model = _model(codec, metric, view.ntotal)
    known = np.zeros((3, queries.shape[0]))
    length = np.sqrt(squared_norms(queries))
    known[0] = 1.0 if metric is Metric.COSINE else length
    known[1] = _unit_errors(codec, expected_error(codec), queries, length)
    if metric is not Metric.L2 and codec.calibration is not None:
        known[2] = centre_scores(codec, metric, queries)
    out, rates = np.empty((3, *scores.shape)), np.empty(scores.shape[0])
    squares = stored["squared_norm"] if metric.stores_norm else _NO_SQUARES
    kernel("true_scores")(scores, stored["scale"], squares, known, model, out, rates)
    return TrueScores(out[0], out[1], out[2], rates)


def _model(codec: TurboQuant, metric: Metric, ntotal: int) -> ErrorModel:
    """Return the numbers that error bars of any search depend on."""
    model = _models.get(codec)
    if model is None:
        expected, (mean, std) = expected_error(codec), near_error(codec)
        model = _models[codec] = ErrorModel(
            tangents=tangent_table(),
            tangent=expected.tangent,
            growth=expected.growth,
            rounding=_rounding(codec),
            near_mean=mean,
            near_std=std,
            sign=1.0,
            unit_rows=False,
            window=_MIN_WINDOW,
            ntotal=0,
        )
    unit_rows = metric is Metric.COSINE and codec.calibration is None
    return model._replace(sign=metric.sign, unit_rows=unit_rows, ntotal=ntotal)


def search_with_errors(view: View, queries: Floats, k: int) -> Results:
    """Return the `k` best rows for each query and the standard error of each score.

    Parameters
    ----------
    view : View
    queries : (nq, d) float32
        Checked.
    k : int
        At most the rows of the view.
    """
    scores, rows = view.best(queries, min(candidates_for(k), view.ntotal))
    error = estimate_true_scores(view, queries, scores, rows).error[:, :k]
    return Results(scores[:, :k], rows[:, :k], error.astype(np.float32))
