"""Statistics of a whole codec: its mean error and its bias, compared on both sides with the exact tables.

Sources: the "Codebook" page for D; arXiv 2504.19874 Theorem 2 and its leading term for two stages.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from tqvec._types import Floats
from tqvec.oracle import tables
from tqvec.oracle.instance import Instance
from tqvec.oracle.ports import Port, PortError

SEED = 10_502
LARGEST_D = 256
COORDINATES = 2**18
TOLERANCE = {1: 0.023, 2: 0.028, 3: 0.036, 4: 0.048}
"""Relative, of the mean of D over `COORDINATES` coordinates, by width (seven standard deviations)."""


@lru_cache(maxsize=4)
def unit_rows(d: int) -> Floats:
    """Return `COORDINATES` numbers as unit vectors of uniform direction, nearly."""
    x = tables.near_normal(SEED, 0, (COORDINATES // d, d)).astype(np.float64)
    return (x / np.sqrt((x * x).sum(axis=1, keepdims=True))).astype(np.float32)


def expected_error(codec: Instance) -> float:
    """Return E‖u − x̃‖² of unit vectors.

    D; for two stages γ²(π/2 − 1/d) with E γ² = D of the first; with the length restored 2 − 2 cos θ, cos²θ = 1 − D.
    """
    distortion = tables.distortion(codec.profile, codec.d)
    if codec.profile.scale == "corrected":
        return 2 - 2 * math.sqrt(1 - distortion)
    return distortion * (math.pi / 2 - 1 / codec.d) if codec.profile.family == "prod" else distortion


def find_fault(port: Port, codec: Instance) -> str:
    """Return a sentence on a wrong error or a bias of the round trip; empty if there is none."""
    u = unit_rows(codec.d)
    try:
        decoded = port(codec, "decode", port(codec, "encode", (u,)))[0].astype(np.float64)
    except PortError as error:
        return str(error)
    if decoded.shape != u.shape:
        return f"decoded: shape {decoded.shape}, not {u.shape}"
    two_stages = codec.profile.family == "prod"
    squared = float(np.mean(((u - decoded) ** 2).sum(axis=1)))
    expected = expected_error(codec)
    tolerance = TOLERANCE[codec.profile.nbits] + (0.05 if two_stages else 0.0)
    if not abs(squared / expected - 1) <= tolerance:
        return f"mean squared error {squared:.6g} of unit vectors, not {expected:.6g} ± {100 * tolerance:.1f} %"
    distortion = tables.distortion(codec.profile, codec.d)
    products = (u * decoded).sum(axis=1)
    right = 1.0 if two_stages else 1 - distortion
    if codec.profile.scale == "corrected":
        right = math.sqrt(right)
    allowance = 7 * float(products.std()) / math.sqrt(len(u)) + tolerance * distortion
    if not abs(float(products.mean()) - right) <= allowance:
        return f"⟨u, decoded⟩ is {products.mean():.6g} on average, not {right:.6g} ± {allowance:.2g}: a bias"
    return ""
