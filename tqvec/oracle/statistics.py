"""What the exact tables say of a whole codec: its mean error, and its bias. Bounds from one side only prove nothing.

Source: docs/explanation/codebook.md for D, arXiv 2504.19874 Theorem 2 and its leading term for two stages.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tqvec.oracle import tables
from tqvec.oracle.ports import Port
from tqvec.oracle.setup import Setup
from tqvec.oracle.tables import near_normal

SEED = 10_502
LARGEST_D = 256
COORDINATES = 2**18
TOLERANCE = {1: 0.023, 2: 0.028, 3: 0.036, 4: 0.048}
"""Relative, of the mean of D over `COORDINATES` coordinates, by width (seven standard deviations)."""


def unit_rows(d: int) -> NDArray[np.float32]:
    """`COORDINATES` numbers as unit vectors of uniform direction, nearly."""
    x = near_normal(SEED, 0, (COORDINATES // d, d)).astype(np.float64)
    return (x / np.sqrt((x * x).sum(axis=1, keepdims=True))).astype(np.float32)


def expected_error(s: Setup) -> float:
    """E‖u − x̃‖² of unit vectors: D, or γ²(π/2 − 1/d) for two stages, with E γ² = D of the first."""
    found = tables.distortion(s.profile, s.d)
    return found * (math.pi / 2 - 1 / s.d) if s.profile.family == "prod" else found


def fault(port: Port, s: Setup) -> str:
    """What is wrong with the error or the bias of a round trip; empty if nothing is."""
    u = unit_rows(s.d)
    try:
        decoded = port(s, "decode", port(s, "encode", (u,)))[0].astype(np.float64)
    except Exception as error:  # a port may fail in any way
        return f"raised {type(error).__name__}: {error}"
    if decoded.shape != u.shape:
        return f"decoded: shape {decoded.shape}, not {u.shape}"
    squared = float(np.mean(((u - decoded) ** 2).sum(axis=1)))
    expected = expected_error(s)
    tolerance = TOLERANCE[s.profile.nbits] + (0.05 if s.profile.family == "prod" else 0.0)
    if not abs(squared / expected - 1) <= tolerance:
        return f"mean squared error {squared:.6g} of unit vectors, not {expected:.6g} ± {100 * tolerance:.1f} %"
    along = (u * decoded).sum(axis=1)
    right = 1.0 if s.profile.family == "prod" else 1 - tables.distortion(s.profile, s.d)
    allowance = 7 * float(along.std()) / math.sqrt(len(u)) + tolerance * tables.distortion(s.profile, s.d)
    if not abs(float(along.mean()) - right) <= allowance:
        return f"⟨u, decoded⟩ is {along.mean():.6g} on average, not {right:.6g} ± {allowance:.2g}: a bias"
    return ""
