"""Correlation of the errors of similar rows, measured on synthetic neighbours that a codec encodes.

Errors of similar rows share a part. It moves all scores of a query's neighbours alike and leaves their order alone.
Only the part that differs within a neighbourhood costs recall. See the "Diagnose" page, equation 5.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tqvec._random import generator
from tqvec._types import Doubles, Floats
from tqvec.codec.turboquant import TurboQuant
from tqvec.index.errors.standard_errors import expected_error

LEAST_D = 10  # dimensions from which groups of neighbours can be drawn
_MEMBERS = 8  # rows of a group
_SKETCHED = 60  # groups for each of `_COSINES`, to find those that matter,
_GROUPS = 300  # and for each of those that do
_COSINES = 1 - np.square(1 - np.linspace(0, 1, 7)[:-1])  # of two members, once the query's direction is removed
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)  # of the neighbourhoods, for which errors are measured
_LEAST = 0.01  # lower bound of a variance, in units of that of one row's error


class ErrorCorrelation(NamedTuple):
    """The errors of rows that have one cosine with a query and resemble each other.

    Attributes
    ----------
    single : (nq, 1) float64
        Variance of the errors of scores within the neighbourhood of each query, in units of that of one row's error.
    double : (nq, 1) float64
        The same where the query too is known by its codes alone.
    slope, bias : float
        Products of two decoded rows multiply differences of cosines by `slope`, and overstate cosines by `bias`.
    """

    single: Doubles
    double: Doubles
    slope: float
    bias: float


def measure_error_correlation(codec: TurboQuant, cosine: float, decoded_cosines: Doubles) -> ErrorCorrelation:
    """Measure the errors of groups of rows that resemble each other as much as some neighbourhoods do.

    Parameters
    ----------
    codec : TurboQuant
        Of at least `LEAST_D` dimensions, without a calibration, since rows are drawn from the sphere.
    cosine : float
        Of rows and queries, 0 to 0.99.
    decoded_cosines : (nq,) float64
        Mean product of two decoded rows in each neighbourhood.
    """
    rng = generator(codec.seed, "diagnosis: error correlation")
    sketch = [_measure(codec, cosine, between, _SKETCHED, rng)[0] for between in _COSINES]
    cosines = cosine**2 + (1 - cosine**2) * _COSINES
    slope = np.interp(cosine, cosines[1:], np.diff(sketch) / np.diff(cosines))
    bias = np.interp(cosine, cosines, sketch) - cosine
    points = np.interp(np.quantile(decoded_cosines, _QUANTILES), sketch, _COSINES)
    products, single, double = np.array([_measure(codec, cosine, point, _GROUPS, rng) for point in points]).T
    return ErrorCorrelation(
        single=_fit_line(products, single, decoded_cosines)[:, None],
        double=_fit_line(products, double, decoded_cosines)[:, None],
        slope=max(1.0, float(slope)),
        bias=float(bias),
    )


def _fit_line(x: Doubles, y: Doubles, at: Doubles) -> Doubles:
    """Return the values `at` some x of a line fitted to the points (x, y), constant outside their range."""
    middle = x.mean()
    slope = np.linalg.lstsq((x - middle)[:, None], y - y.mean(), rcond=None)[0][0]
    return np.maximum(y.mean() + slope * (np.clip(at, x.min(), x.max()) - middle), _LEAST)


def _measure(
    codec: TurboQuant, cosine: float, between: float, groups: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Mean product of two decoded members of a group, and the variances `single` and `double` within groups."""
    drawn = rng.standard_normal((groups, _MEMBERS + 2, codec.d), np.float32)
    query = _normalize(drawn[:, :1])
    common = _normalize(_project_out(drawn[:, 1:2], query))
    own = _normalize(_project_out(_project_out(drawn[:, 2:], query), common))
    away = np.float32(np.sqrt(between)) * common + np.float32(np.sqrt(1 - between)) * own
    vectors = np.concatenate([query, np.float32(cosine) * query + np.float32(np.sqrt(1 - cosine**2)) * away], axis=1)
    decoded = codec.decode_unbiased(codec.encode(vectors.reshape(-1, codec.d))).reshape(vectors.shape)
    members = decoded[:, 1:]
    pairs = np.sum(np.square(members.sum(axis=1, dtype=np.float64))) - np.sum(np.square(members, dtype=np.float64))
    one_row = expected_error(codec).tangent ** 2 * (1 - cosine**2) / (codec.d - 1)
    single, double = (
        float(np.einsum("gd,gmd->gm", asking, members, dtype=np.float64).var(axis=1, ddof=1).mean()) / one_row
        for asking in (query[:, 0], decoded[:, 0])
    )
    return float(pairs) / (groups * _MEMBERS * (_MEMBERS - 1)), single, double


def _normalize(x: Floats) -> Floats:
    return x / np.linalg.norm(x, axis=2, keepdims=True)


def _project_out(x: Floats, axis: Floats) -> Floats:
    """Vectors less their part along a unit vector."""
    return x - np.sum(x * axis, axis=2, keepdims=True) * axis
