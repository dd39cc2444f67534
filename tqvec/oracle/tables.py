"""The numbers of a profile for one dimension: random bits, codebooks, constants.

Everything is published in the type it is defined in, so a port may take it as it is: a float32 table is exact, not a
rounding of something better. All of it comes from integers and correctly rounded operations; only the factor 1 − D is
computed with functions whose last bit may differ between machines, and then rounded to float32 (docs/oracle.md).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import lru_cache
from importlib.resources import files
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from tqvec.codec.splitmix import stream
from tqvec.oracle.profiles import Profile
from tqvec.reference import codebook, rotation, trellis

Tables = dict[str, NDArray]

PROJECTION_STREAM = 8  # of S; the rotation has those before


def near_normal(seed: int, number: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Numbers of mean 0 and variance 1 − 2⁻³² that are nearly normal, from integers alone.

    Each is the sum of twelve 16-bit fields of three SplitMix64 words (Irwin and Hall), less 6·65535, over 65536: exact
    in float32. Kurtosis 2.9.
    """
    count = math.prod(shape)
    words = stream(seed, number, 3 * count).reshape(count, 3)
    total = np.full(count, -6 * 65535, np.int64)
    for shift in (0, 16, 32, 48):
        total += (words >> np.uint64(shift) & np.uint64(0xFFFF)).sum(axis=1).astype(np.int64)
    return (total / 65536).astype(np.float32).reshape(shape)


def hadamard(profile: Profile, d: int) -> Tables:
    """Permutations, signs and block sizes of the rounds (docs/format.md section 2)."""
    seed, rounds = profile.seed, range(rotation.rounds(d))
    signs = [np.sign(rotation.factors(d, seed, r, np.float64)) for r in rounds]
    return {
        "permutation": np.array([rotation.permutation(d, seed, r) for r in rounds], np.int32),
        "signs": np.array(signs, np.int8),
        "blocks": np.array(rotation.block_sizes(d), np.int32),
    }


def dense(profile: Profile, d: int) -> Tables:
    """The rotation of `hadamard` as a float32 matrix Π: y = Πx."""
    return {"matrix": rotation.hadamard_matrix(d, profile.seed).astype(np.float32)}


ROTATIONS: dict[str, Callable[[Profile, int], Tables]] = {"hadamard": hadamard, "dense": dense}


def gaussian_centroids(d: int, nbits: int) -> NDArray[np.float64]:
    """Lloyd-Max levels of N(0, 1/d): those of a coordinate of a unit vector of very many dimensions."""
    large = 2**40
    return codebook.frozen(large, nbits) * math.sqrt(large) / math.sqrt(d)


def uniform_centroids(d: int, nbits: int) -> NDArray[np.float64]:
    """Equal steps between the outermost Lloyd-Max levels."""
    outermost = codebook.frozen(d, nbits)[-1]
    return np.linspace(-outermost, outermost, 2**nbits)


def equal_mass_centroids(d: int, nbits: int) -> NDArray[np.float64]:
    """Medians of cells of equal probability under N(0, 1/d)."""
    n = 2**nbits
    return np.array([NormalDist().inv_cdf((i + 0.5) / n) for i in range(n)]) / math.sqrt(d)


CODEBOOKS: dict[str, Callable[[int, int], NDArray[np.float64]]] = {
    "beta": codebook.frozen,
    "gaussian": gaussian_centroids,
}


def levels(centroids: NDArray[np.float64]) -> Tables:
    """Centroids and the midpoints between them, rounded once."""
    return {
        "centroids": centroids.astype(np.float32),
        "thresholds": codebook.thresholds(centroids).astype(np.float32),
    }


def scalar_levels(profile: Profile, d: int) -> Tables:
    """`levels` of the first stage, or the trellis's levels by in-subset bits and window."""
    if profile.codebook == "trellis":
        return {"levels": trellis.frozen(d, profile.nbits).astype(np.float32)}
    return levels(CODEBOOKS[profile.codebook](d, profile.nbits - (profile.family == "prod")))


def distortion(profile: Profile, d: int) -> float:
    """D, the expected squared error of a unit vector as coded by the first stage (docs/format.md, "Vectors")."""
    if profile.codebook == "trellis":
        frozen = json.loads(files("tqvec").joinpath("codec/data/trellis.json").read_bytes())
        inverse = 1 / np.array(frozen["dims"][::-1], np.float64)
        return float(np.interp(1 / d, inverse, frozen["widths"][str(profile.nbits)]["distortion"][::-1]))
    nbits = profile.nbits - (profile.family == "prod")
    return codebook.distortion(codebook.frozen(d, nbits), d)


def qjl_factor(d: int) -> np.float32:
    """√(π/2)/d (arXiv 2504.19874 Definition 1)."""
    return np.float32(math.sqrt(math.pi / 2) / d)


@lru_cache(maxsize=32)
def tables(profile: Profile, d: int) -> Tables:
    """All tables of a profile for dimension `d`; their order is fixed."""
    found = {**ROTATIONS[profile.rotation](profile, d), **scalar_levels(profile, d)}
    if profile.shrink:
        found["shrink"] = np.array([1 - distortion(profile, d)], np.float32)
    if profile.family == "prod":
        found["projection"] = near_normal(profile.seed, PROJECTION_STREAM, (d, d))
        found["qjl_factor"] = np.array([qjl_factor(d)])
    return found
