"""Frozen Lloyd-Max codebooks, and what they are known to achieve.

The numbers come from ``data/codebooks.safetensors``, written once by
`tqvec.codec.offline.lloyd_max`. They are evaluated with
IEEE multiplications and additions alone, so a codebook has the same bits on every machine and for every version of
SciPy.
"""

from __future__ import annotations

import math
from functools import lru_cache
from importlib.resources import files

import numpy as np

from tqvec._types import Doubles
from tqvec.codec.offline.lloyd_max import SMALL_D, cells


@lru_cache(maxsize=1)
def _frozen() -> dict[str, Doubles]:
    from safetensors.numpy import load

    return load(files("tqvec.codec").joinpath("data/codebooks.safetensors").read_bytes())


def _positive_half(d: int, nbits: int) -> Doubles:
    """Positive centroids in units of 1/√d."""
    part = slice(2 ** (nbits - 1) - 1, 2**nbits - 1)
    if d < SMALL_D:
        return _frozen()["small"][d, part]
    x = np.float64(2 * SMALL_D / d - 1)
    return np.asarray(np.polynomial.chebyshev.chebval(x, _frozen()["series"][:, part]), np.float64)


def centroids(d: int, nbits: int) -> Doubles:
    """Optimal reconstruction levels of one coordinate of a random unit vector.

    Parameters
    ----------
    d : int
        Dimension, at least 1.
    nbits : int
        Width, 1 to 8, or 0: the one level 0.

    Returns
    -------
    (2**nbits,) float64
        Strictly ascending and antisymmetric. Source: arXiv 2504.19874, eq. (4).
    """
    if nbits == 0:
        return np.zeros(1)
    half = _positive_half(d, nbits) / math.sqrt(d)
    return np.concatenate([-half[::-1], half])


def thresholds(d: int, nbits: int) -> Doubles:
    """Midpoints between neighbouring centroids, (2**nbits - 1,) float64."""
    c = centroids(d, nbits)
    return (c[1:] + c[:-1]) / 2


def _cell_probabilities(d: int, nbits: int) -> Doubles:
    """Probability of each positive cell; they add up to 1/2."""
    if d == 1:
        return np.array([0.0] * (2 ** (nbits - 1) - 1) + [0.5])
    return cells(_positive_half(d, nbits) / math.sqrt(d), d)[1]


def probabilities(d: int, nbits: int) -> Doubles:
    """Probability of each code, (2**nbits,) float64."""
    half = _cell_probabilities(d, nbits)
    return np.concatenate([half[::-1], half])


@lru_cache(maxsize=256)
def distortion(d: int, nbits: int) -> float:
    """Expected squared error D of a unit vector under Algorithm 1: 1 − d Σ p c² at the optimum.

    Between 4^-nbits and 2.7207·4^-nbits for d ≥ 3 (Theorems 1 and 3 of arXiv 2504.19874).
    """
    if nbits == 0:
        return 1.0
    half = _positive_half(d, nbits)
    return 1.0 - 2.0 * float(np.sum(_cell_probabilities(d, nbits) * half * half))


def entropy(d: int, nbits: int) -> float:
    """Entropy of a code in bits: what an entropy coder could reach per coordinate."""
    if nbits == 0:
        return 0.0
    p = _cell_probabilities(d, nbits)
    p = p[p > 0]
    return float(-2 * np.sum(p * np.log2(p)))
