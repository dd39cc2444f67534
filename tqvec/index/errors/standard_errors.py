"""How far off a score may be. docs/explanation/errors.md has the derivations, and what was measured.

`standard_errors` is about any score; `judged` about results, which are the largest of many and so lean upwards.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from tqvec._types import Doubles, Floats, Ids
from tqvec.codec.bands import integer_steps
from tqvec.codec.calibration import distortions
from tqvec.codec.error_byte import read_error_byte
from tqvec.codec.turboquant import TurboQuant
from tqvec.index.rows import Rows
from tqvec.index.scanner import squared_lengths
from tqvec.index.snapshot import Results, Snapshot, centre_scores

_WINDOW = 20  # best scores at least, from which the density near a result is estimated


class Expected(NamedTuple):
    """What a codec's tables say of the error e = ũ/⟨u, ũ⟩ − u of a direction u.

    Attributes
    ----------
    squares : (n_bands + 1,) float64
        Expected e² of a coordinate of each band, and of those after the last one.
    tangent : float
        Root of their sum over all coordinates: the expected tan θ.
    growth : float
        Expected ‖ũ‖² over expected ⟨u, ũ⟩: 1 without a calibration.
    """

    squares: Doubles
    tangent: float
    growth: float


def expected(codec: TurboQuant) -> Expected:
    """Moments from the distortion D of each width and the share of ‖u‖² in each band.

    Levels c of a Lloyd-Max codebook have E c² = E uc = (1 − D) E u²; those of a calibration are divided by 1 − D.
    """
    d, table = codec.d, distortions(codec.d, codec.codebook)
    counts = np.array([band.stop - band.start for band in codec.bands])
    kept = np.array([1 - table[band.nbits] for band in codec.bands])
    if codec.calibration is None:
        shares, factors, unit = counts / d, np.ones(counts.size), 1.0
    else:
        shares, factors, unit = codec.calibration.shares(table), 1 / kept, kept.min()
    products, energies = shares * kept * factors, shares * kept * factors**2
    dot = products.sum()
    squares = (energies / dot**2 - 2 * products / dot + shares) / counts
    rest = d - counts.sum()
    missing = max(1 - shares.sum(), 0.0) / rest if rest else 0.0
    tangent = np.sqrt(squares @ counts + missing * rest)
    return Expected(np.append(squares, missing), float(tangent), float(energies.sum() / dot * unit))


class Angles(NamedTuple):
    """What the error of an estimate hangs on, (nq, k) float64 each.

    Attributes
    ----------
    size : array
        Length of the query times that of the residual; of l2, twice that: what a cosine is multiplied by in a score.
    cosine : array
        Of the query and the residual, as estimated.
    turn : array
        Root of κ: the estimate of a cosine s has variance κ (1 − s²).
    rounding : float
        Standard deviation of a cosine that is due to arithmetic.
    """

    size: Doubles
    cosine: Doubles
    turn: Doubles
    rounding: float

    def deviation(self, lean: Doubles | float = 0.0) -> Doubles:
        """Standard deviation of scores that are too good by `lean`.

        Of an estimate v of 1 − s² with variance 4κ(1 − s²), and no other knowledge, |v| + 4κ is the mean of 1 − s².
        """
        excess = np.divide(lean, self.size, out=np.zeros_like(self.size), where=self.size > 0)
        unexplained = np.minimum(np.abs(1 - np.square(self.cosine - excess)) + 4 * self.turn**2, 1.0)
        return self.size * np.sqrt(self.turn**2 * unexplained + self.rounding**2)


def angles(codec: TurboQuant, metric: str, stored: Rows, queries: Floats, scores: Floats) -> Angles:
    """Arguments as in `standard_errors`."""
    model = expected(codec)
    if metric == "l2":
        queries = queries - codec.centre
    length = np.sqrt(squared_lengths(queries))
    scale = stored["scale"]
    tangent = read_error_byte(scale)
    tangent = np.where(np.isnan(tangent), model.tangent, tangent)
    turn = _turns(codec, model, queries, length)[:, None] * tangent
    if metric == "l2":
        squares = stored["squared_norm"].astype(np.float64)
        size = 2 * length[:, None] * np.sqrt(squares)
        products = length[:, None] ** 2 + squares - scores
    else:
        residual = np.abs(scale) * (model.growth / (1 + tangent**2))
        if metric == "cosine" and codec.calibration is None:
            residual = (residual > 0).astype(np.float64)
        size = residual if metric == "cosine" else length[:, None] * residual
        products = scores - centre_scores(codec, metric, queries)[:, None]
    cosine = np.divide(products, size, out=np.zeros_like(size), where=size > 0)
    return Angles(size, np.clip(cosine, -1, 1), turn, _rounding(codec))


def _rounding(codec: TurboQuant) -> float:
    """Of levels and queries to integers (kernels/scan/README.md) and of scales by up to 2⁻¹⁶, for lengths of 1: a
    uniform error has a twelfth of its squared range as variance."""
    steps = integer_steps(codec.d, float(np.abs(codec.quantizer.centroids).max()))
    return float(np.sqrt((steps**-2 + 2 * 2.0**-30) / 12))


def _turns(codec: TurboQuant, model: Expected, queries: Floats, length: Doubles) -> Doubles:
    """√κ for tan θ = 1, (nq,): √(Σ ‖q_b‖² v_b d/(d−1)) for the share v_b of a coordinate of band b in the squared
    error; 1/√(d−1) for one band."""
    spread = codec.d / max(1, codec.d - 1)
    if codec.calibration is None and len(codec.bands) == 1:
        return np.full(length.shape, np.sqrt(spread / codec.d))
    edges = [0, *(band.stop for band in codec.bands), codec.d]
    energies = np.square(codec.rotate(queries), dtype=np.float64)
    sums = np.stack([energies[:, a:b].sum(axis=1) for a, b in pairwise(edges)], axis=1)
    weights = model.squares / np.append(codec.axis_factors(), 1.0) / max(model.tangent**2, 1e-30)
    turns: Doubles = np.sqrt(spread * sums @ weights)
    return np.divide(turns, length, out=np.zeros_like(length), where=length > 0)


def standard_errors(codec: TurboQuant, metric: str, stored: Rows, queries: Floats, scores: Floats) -> Doubles:
    """Root mean square error of each score, not knowing that it is among the best.

    Parameters
    ----------
    codec : TurboQuant
    metric : str
    stored : dict of (nq, k) arrays
        Scales and, for l2, squared lengths of the rows that the scores are of.
    queries : (nq, d) float32
        Checked.
    scores : (nq, k) float32
        As `Index.search` returns them.

    Returns
    -------
    (nq, k) float64
    """
    lean, spread = near(codec)
    found: Doubles = np.hypot(lean, spread) * angles(codec, metric, stored, queries, scores).deviation()
    return found


def near(codec: TurboQuant) -> tuple[float, float]:
    """Mean and standard deviation of the errors of good scores, in units of what `Angles.deviation` says: 0 and 1 under
    a random rotation; a calibration has measured them."""
    if codec.calibration is None:
        return 0.0, 1.0
    lean, spread = codec.calibration.near.tolist()
    return lean, spread


def tail_rates(scores: Floats) -> Doubles:
    """Rate λ of the exponential that the density of a query's scores falls like, (nq,), from its best `m` (nq, m).

    Scores are as `Index.search` returns them, best first, each row without empty entries. The estimate of Hill (1975)
    for exponential spacings: (m − 1)/Σ |s_i − s_m|; very large where all are equal.
    """
    return _hill(np.abs(scores.astype(np.float64) - scores[:, :1]), np.array([scores.shape[1]]))[:, 0]


def _hill(below: Doubles, windows: Ids) -> Doubles:
    """Rates (nq, n_windows) of the best `windows` scores, of which `below` (nq, m) says how far the first is ahead."""
    last = windows - 1
    total = windows * below[:, last] - np.cumsum(below, axis=1)[:, last]
    return last / np.maximum(total, 1e-150)


def reach(k: int) -> int:
    """Results to fetch for the errors of the best `k`."""
    return 2 * k + _WINDOW


def local_rates(scores: Floats, ntotal: int) -> tuple[Doubles, Ids]:
    """Slope −d/ds log p of the density p of a query's scores at its best `m`, (nq, m), and how many tell it, (m,).

    At rank r the best 2r + 20 do, if there are as many and they are no more than half of all rows. Hill's estimate is
    of the hazard rate, which becomes the slope by the factor (1 − 2S)/(1 − S), exact for the logistic distribution,
    with S the part of all rows that is better.
    """
    rank = np.arange(scores.shape[1])
    windows = np.minimum(reach(0) + 2 * rank, min(scores.shape[1], max(6, ntotal // 2)))
    better = (rank + 0.5) / max(1, ntotal)
    slope = np.maximum(1 - 2 * better, 0) / (1 - better)
    return _hill(np.abs(scores.astype(np.float64) - scores[:, :1]), windows) * slope, windows


class Judged(NamedTuple):
    """What is known of the true scores of results, (nq, m) float64 each.

    Attributes
    ----------
    mean : array
        Expected true scores; of l2 with the sign turned, so that larger is better.
    deviation : array
        Standard deviation of true scores around it.
    error : array
        Root mean square error of the scores as they are.
    """

    mean: Doubles
    deviation: Doubles
    error: Doubles


def judge(snapshot: Snapshot, queries: Floats, scores: Floats, rows: Ids) -> Judged:
    """What `standard_errors` says, given that these are the best `m` of all scores, (nq, m).

    By Tweedie's formula a score with variance σ² is too good by σ²λ on average, with λ the slope of `local_rates`;
    but not by more than the largest of n errors is expected to be, σ √(2 ln n).
    """
    lean, spread = near(snapshot.codec)
    names = ("scale", "squared_norm") if snapshot.metric == "l2" else ("scale",)
    finite = np.nan_to_num(scores)
    found = angles(snapshot.codec, snapshot.metric, snapshot.gather(rows, names), queries, finite)
    rates, windows = local_rates(finite, snapshot.ntotal)
    limit = np.sqrt(2 * np.log(max(1, snapshot.ntotal)))
    total = np.zeros_like(rates)
    for _ in range(2):  # the second time with cosines that don't lean
        deviation = found.deviation(total)
        own = spread * deviation
        selected = own * np.minimum(own * rates, limit)
        total = lean * deviation + selected
    error = np.sqrt(own**2 + total**2 + selected**2 / windows)  # the last: of the estimated rate
    mean = finite * (-1.0 if snapshot.metric == "l2" else 1.0) - total
    return Judged(mean, own, np.where(np.isfinite(scores), error, np.inf))


def search_with_errors(snapshot: Snapshot, queries: Floats, k: int) -> Results:
    """Return the `k` best rows for each query and the standard error of each score.

    Parameters
    ----------
    snapshot : Snapshot
    queries : (nq, d) float32
        Checked.
    k : int
        At most the rows of the snapshot.
    """
    scores, rows = snapshot.best(queries, min(reach(k), snapshot.ntotal))
    error = judge(snapshot, queries, scores, rows).error[:, :k]
    return Results(scores[:, :k], rows[:, :k], error.astype(np.float32))
