"""How alike the errors of similar rows are: measured on synthetic neighbours that a codec encodes.

Errors of rows that resemble each other have a common part, which moves all of a query's scores and leaves their order
alone: only what differs within a neighbourhood costs recall. docs/explanation/diagnose.md says how much that is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec.codec.quantizer import TurboQuant
from tqvec.index.uncertainty import expected

LEAST_D = 10  # from which there is room for a group
_MEMBERS = 8  # of a group
_GROUPS = 240  # for each likeness
_LIKENESS = 1 - np.square(1 - np.linspace(0, 1, 7)[:-1])  # cosines of members once the query's direction is removed
_ORDER = 0x63726F77  # of the generator, beside the codec's seed

Array = NDArray[np.float64]
Floats = NDArray[np.float32]


class Crowd(NamedTuple):
    """Errors within groups of rows that have one cosine with a query, by how alike the rows are, (6,) each.

    Attributes
    ----------
    cosine : array
        True cosine of two rows.
    decoded : array
        Mean product of the two once decoded, which is larger: their errors are alike too.
    single : array
        Variance of the errors of scores within a group, in units of that of one row's error.
    double : array
        The same for the query's own codes in place of the query.
    """

    cosine: Array
    decoded: Array
    single: Array
    double: Array

    def slope(self, cosine: float) -> float:
        """Derivative of `decoded` at a true cosine: what products of two decoded rows stretch differences by."""
        steps = np.diff(self.decoded) / np.diff(self.cosine)
        return float(np.interp(cosine, self.cosine[1:], np.maximum(steps, 1.0)))


def crowd(codec: TurboQuant, cosine: float) -> Crowd:
    """Measure the errors of groups of rows at a cosine with their query.

    Parameters
    ----------
    codec : TurboQuant
        Of at least `LEAST_D` dimensions, without a calibration, since rows are drawn from the sphere.
    cosine : float
        0 to .99.
    """
    rng = np.random.default_rng([codec.seed, _ORDER])
    measured = np.array([_group(codec, cosine, likeness, rng) for likeness in _LIKENESS]).T
    return Crowd(cosine**2 + (1 - cosine**2) * _LIKENESS, *measured)


def _group(codec: TurboQuant, cosine: float, likeness: float, rng: np.random.Generator) -> tuple[float, ...]:
    """Columns `decoded`, `single` and `double` of one likeness."""
    drawn = rng.standard_normal((_GROUPS, _MEMBERS + 2, codec.d), np.float32)
    query = _unit(drawn[:, :1])
    common = _unit(_without(drawn[:, 1:2], query))
    own = _unit(_without(_without(drawn[:, 2:], query), common))
    away = np.float32(np.sqrt(likeness)) * common + np.float32(np.sqrt(1 - likeness)) * own
    vectors = np.concatenate([query, np.float32(cosine) * query + np.float32(np.sqrt(1 - cosine**2)) * away], axis=1)
    found = codec.unshrunk(codec.encode(vectors.reshape(-1, codec.d))).reshape(vectors.shape)
    members = found[:, 1:]
    errors = np.einsum("gd,gmd->gm", query[:, 0], members, dtype=np.float64)
    doubled = np.einsum("gd,gmd->gm", found[:, 0], members, dtype=np.float64)
    total = members.sum(axis=1, dtype=np.float64)
    pairs = np.sum(np.square(total)) - np.sum(np.square(members, dtype=np.float64))
    one = expected(codec).tangent ** 2 * (1 - cosine**2) / (codec.d - 1)
    return (
        float(pairs) / (_GROUPS * _MEMBERS * (_MEMBERS - 1)),
        float(errors.var(axis=1, ddof=1).mean()) / one,
        float(doubled.var(axis=1, ddof=1).mean()) / one,
    )


def _unit(x: Floats) -> Floats:
    return x / np.linalg.norm(x, axis=2, keepdims=True)


def _without(x: Floats, axis: Floats) -> Floats:
    """Vectors less their part along a unit vector."""
    return x - np.sum(x * axis, axis=2, keepdims=True) * axis
