"""How far off a score may be: docs/explanation/errors.md has the derivations."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec.codec.calibration import errors
from tqvec.codec.quantizer import TurboQuant
from tqvec.codec.tangents import unpacked
from tqvec.index.rows import Rows
from tqvec.index.scan import squared_lengths

Array = NDArray[np.float64]
Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


class Expected(NamedTuple):
    """What a codec's tables say of the error of a decoded direction.

    Attributes
    ----------
    squares : (n_bands + 1,) float64
        Expected squared error of a coordinate of each band, and of those after the last one.
    tangent : float
        Root of their sum over all coordinates: the expected tan θ.
    growth : float
        Expected ‖ũ‖² over expected ⟨u, ũ⟩: 1 without a calibration.
    """

    squares: Array
    tangent: float
    growth: float


def expected(codec: TurboQuant) -> Expected:
    """Moments of the error e = ũ/⟨u, ũ⟩ − u from the codebooks' D and the bands' shares of ‖u‖²."""
    d = codec.d
    table = errors(d, codec.codebook)
    counts = np.array([band.stop - band.start for band in codec.bands])
    kept = np.array([1 - table[band.nbits] for band in codec.bands])
    if codec.calibration is None:
        shares, factors = counts / d, np.ones(counts.size)
    else:
        shares, factors = codec.calibration.shares(table), 1 / kept
    dot = np.sum(shares * kept * factors)
    energy = shares * kept * factors**2
    squares = (energy / dot**2 - 2 * shares * kept * factors / dot + shares) / counts
    rest = d - counts.sum()
    missing = max(1 - shares.sum(), 0.0) / rest if rest else 0.0
    tangent = np.sqrt(np.sum(squares * counts) + missing * rest)
    growth = energy.sum() / dot * (1.0 if codec.calibration is None else kept.min())
    return Expected(np.append(squares, missing), float(tangent), float(growth))


def standard_errors(codec: TurboQuant, metric: str, rows: Rows, queries: Floats, scores: Floats, ids: Ids) -> Array:
    """Standard deviation of each score around the true one, before it is known that it is among the best.

    Parameters
    ----------
    codec : TurboQuant
    metric : str
    rows : dict of arrays
        Of the index.
    queries : (nq, d) float32
        Checked.
    scores : (nq, k) float32
        As `Index.search` returns them.
    ids : (nq, k) int64
        Row numbers, -1 for nothing.

    Returns
    -------
    (nq, k) float64
        Infinity where there is nothing.
    """
    model = expected(codec)
    if metric == "l2":
        queries = queries - codec.centre
    length = np.sqrt(squared_lengths(queries))
    spread = _spread(codec, model, queries)
    if metric == "cosine":
        spread = np.divide(spread, length, out=np.zeros_like(spread), where=length > 0)
        offset = np.divide(codec.offset(queries), length, out=np.zeros_like(length), where=length > 0)
        length = np.ones_like(length)
    else:
        offset = codec.offset(queries)
    chosen = np.maximum(ids, 0)
    tangent = unpacked(rows["scale"][chosen])
    tangent = np.where(np.isnan(tangent), model.tangent, tangent)
    size: Array = np.abs(rows["scale"][chosen].astype(np.float64)) * model.growth / (1 + tangent**2)
    if metric == "l2":
        squares = rows["squared_norm"][chosen].astype(np.float64)
        size = np.sqrt(squares).astype(np.float64)
        product = (length[:, None] ** 2 + squares - scores) / 2
    else:
        if metric == "cosine" and codec.calibration is None:
            size = (size > 0).astype(np.float64)
        product = scores - offset[:, None]
    whole = length[:, None] * size
    cosine = np.clip(np.divide(product, whole, out=np.zeros_like(whole), where=whole > 0), -1, 1)
    error = spread[:, None] * size * tangent * np.sqrt(1 - cosine**2)
    if metric == "l2":
        error *= 2
    return np.where(ids < 0, np.inf, error)


def _spread(codec: TurboQuant, model: Expected, queries: Floats) -> Array:
    """What a query makes of a direction's error, (nq,): √(Σ ‖q_b‖² v_b/tan²θ) d/(d−1); one band: ‖q‖/√(d−1)."""
    d = codec.d
    if len(codec.bands) == 1 and codec.calibration is None:
        return np.sqrt(squared_lengths(queries) / max(1, d - 1))
    factors = np.append(codec.axis_factors(), 1.0)
    edges = [0, *(band.stop for band in codec.bands), d]
    energies = np.square(codec.rotate(queries).astype(np.float64))
    by_band = np.stack([energies[:, a:b].sum(axis=1) for a, b in pairwise(edges)], axis=1)
    return np.sqrt(by_band / factors @ model.squares * (d / max(1, d - 1))) / model.tangent


def tail_rates(scores: Floats) -> Array:
    """Rate λ of the exponential that the density of a query's scores falls like, (nq,), from its best `m` (nq, m).

    Scores are as `Index.search` returns them, best first, each row without empty entries. The estimate of Hill (1975)
    for exponential spacings: (m − 1)/Σ |s_i − s_m|.
    """
    gaps = np.abs(scores.astype(np.float64) - scores[:, -1:])
    total = gaps.sum(axis=1)
    return np.divide(scores.shape[1] - 1, total, out=np.zeros_like(total), where=total > 0)
