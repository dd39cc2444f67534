"""How alike the errors of similar rows are: measured on synthetic neighbours that a codec encodes.

Errors of rows that resemble each other have a common part, which moves all of a query's scores and leaves their order
alone: only what differs within a neighbourhood costs recall. docs/explanation/diagnose.md says how much that is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tqvec._types import Doubles, Floats
from tqvec.codec.turboquant import TurboQuant
from tqvec.index.errors.standard_errors import expected_error

LEAST_D = 10  # from which there is room for a group
_MEMBERS = 8  # of a group
_SKETCHED = 60  # groups for each of some likenesses, to find those that matter,
_GROUPS = 300  # and for each of those
_LIKENESS = 1 - np.square(1 - np.linspace(0, 1, 7)[:-1])  # cosines of members once the query's direction is removed
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)  # of the queries, for which errors are measured
_LEAST = 0.01  # part of one row's error that is left
_ORDER = 0x63726F77  # of the generator, beside the codec's seed


class Crowd(NamedTuple):
    """Errors of rows that have one cosine with a query and resemble each other.

    Attributes
    ----------
    single : (nq, 1) float64
        Variance of the errors of scores within the neighbourhood of each query, in units of that of one row's error.
    double : (nq, 1) float64
        The same for the query's own codes in place of the query.
    slope, lean : float
        What products of two decoded rows stretch differences of cosines by, and how much too large they are.
    """

    single: Doubles
    double: Doubles
    slope: float
    lean: float


def crowd(codec: TurboQuant, cosine: float, decoded: Doubles) -> Crowd:
    """Measure the errors of groups of rows that are as alike as some neighbourhoods are.

    Parameters
    ----------
    codec : TurboQuant
        Of at least `LEAST_D` dimensions, without a calibration, since rows are drawn from the sphere.
    cosine : float
        Of rows and queries, 0 to .99.
    decoded : (nq,) float64
        Mean product of two decoded rows in each neighbourhood.
    """
    rng = np.random.default_rng([codec.seed, _ORDER])
    sketch = [_measured(codec, cosine, likeness, _SKETCHED, rng)[0] for likeness in _LIKENESS]
    cosines = cosine**2 + (1 - cosine**2) * _LIKENESS
    slope = np.interp(cosine, cosines[1:], np.diff(sketch) / np.diff(cosines))
    lean = np.interp(cosine, cosines, sketch) - cosine
    points = np.interp(np.quantile(decoded, _QUANTILES), sketch, _LIKENESS)
    measured = np.array([_measured(codec, cosine, point, _GROUPS, rng) for point in points])
    single, double = (_line(measured[:, 0], measured[:, i], decoded) for i in (1, 2))
    return Crowd(single[:, None], double[:, None], max(1.0, float(slope)), float(lean))


def _line(x: Doubles, y: Doubles, at: Doubles) -> Doubles:
    """A straight line through some points, within their range."""
    middle = x.mean()
    slope = np.linalg.lstsq((x - middle)[:, None], y - y.mean(), rcond=None)[0][0]
    return np.maximum(y.mean() + slope * (np.clip(at, x.min(), x.max()) - middle), _LEAST)


def _measured(
    codec: TurboQuant, cosine: float, likeness: float, groups: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Mean product of two decoded members of a group, and the variances of errors as `Crowd` has them."""
    drawn = rng.standard_normal((groups, _MEMBERS + 2, codec.d), np.float32)
    query = _unit(drawn[:, :1])
    common = _unit(_without(drawn[:, 1:2], query))
    own = _unit(_without(_without(drawn[:, 2:], query), common))
    away = np.float32(np.sqrt(likeness)) * common + np.float32(np.sqrt(1 - likeness)) * own
    vectors = np.concatenate([query, np.float32(cosine) * query + np.float32(np.sqrt(1 - cosine**2)) * away], axis=1)
    found = codec.decode_unbiased(codec.encode(vectors.reshape(-1, codec.d))).reshape(vectors.shape)
    members = found[:, 1:]
    single = np.einsum("gd,gmd->gm", query[:, 0], members, dtype=np.float64)
    double = np.einsum("gd,gmd->gm", found[:, 0], members, dtype=np.float64)
    pairs = np.sum(np.square(members.sum(axis=1, dtype=np.float64))) - np.sum(np.square(members, dtype=np.float64))
    one = expected_error(codec).tangent ** 2 * (1 - cosine**2) / (codec.d - 1)
    alone, both = (float(errors.var(axis=1, ddof=1).mean()) / one for errors in (single, double))
    return float(pairs) / (groups * _MEMBERS * (_MEMBERS - 1)), alone, both


def _unit(x: Floats) -> Floats:
    return x / np.linalg.norm(x, axis=2, keepdims=True)


def _without(x: Floats, axis: Floats) -> Floats:
    """Vectors less their part along a unit vector."""
    return x - np.sum(x * axis, axis=2, keepdims=True) * axis
