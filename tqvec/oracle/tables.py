"""The numbers of a profile for one dimension: random bits, codebooks, constants.

Every table has the type in which it is defined, so a port may take it as it is: a float32 table is exact. Tables come
from integers and correctly rounded operations. The one exception is the factor 1 − D: the last bit of its functions may
differ between machines, so it is rounded to float32 (see "Oracle" page).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import lru_cache
from importlib.resources import files
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqvec.oracle.profiles import Profile
from tqvec.reference import codebook, rotation, splitmix, trellis

Tables = dict[str, NDArray]

PROJECTION_STREAM = 8  # of S; the rotation has those before
_CHUNK = 2**14  # numbers that are drawn at once: Python integers take some thirty bytes each


def near_normal(seed: int, number: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Draw nearly normal numbers of mean 0 and variance 1 − 2⁻³², from integers alone.

    A number is the sum of twelve 16-bit fields of three SplitMix64 words (Irwin and Hall), less 6·65535, over 65536:
    exact in float32. Kurtosis 2.9.
    """
    count = math.prod(shape)
    total = np.full(count, -6 * 65535, np.int64)
    for first in range(0, count, _CHUNK):
        last = min(first + _CHUNK, count)
        positions: Any = np.arange(3 * first + 1, 3 * last + 1, dtype=object)  # `word` takes arrays of Python integers
        words = splitmix.word(seed, number, positions)
        fields = np.asarray(words, np.uint64)[:, None] >> np.uint64(16) * np.arange(4, dtype=np.uint64)
        total[first:last] += (fields & np.uint64(0xFFFF)).reshape(-1, 12).sum(axis=1).astype(np.int64)
    return (total / 65536).astype(np.float32).reshape(shape)


def hadamard(profile: Profile, d: int) -> Tables:
    """Return permutations, signs and block sizes of the rounds ("File format" page, section 2)."""
    seed, rounds = profile.seed, range(rotation.rounds(d))
    signs = [np.sign(rotation.factors(d, seed, r, np.float64)) for r in rounds]
    return {
        "permutation": np.array([rotation.permutation(d, seed, r) for r in rounds], np.int32),
        "signs": np.array(signs, np.int8),
        "blocks": np.array(rotation.block_sizes(d), np.int32),
    }


def dense(profile: Profile, d: int) -> Tables:
    """Return the rotation of `hadamard` as a float32 matrix Π: y = Πx."""
    return {"matrix": rotation.hadamard_matrix(d, profile.seed).astype(np.float32)}


TURBO_SIGNS = (0x49F250A9A4C63BBB42F85949E46A0359, 0xBEA56562B7A5357A3F628FDC16ACEE90)
"""Signs before and after the transform of `signed_wht`, as published: bit i is 1 where sign i is −1."""


def signed_wht(profile: Profile, d: int) -> Tables:
    """Return two rows of signs for each group, and the groups; a cache has one group, and no sign is −1."""
    if profile.family == "cache":
        return {"signs": np.ones((2, d), np.int8), "blocks": np.array([d], np.int32)}
    size = profile.group
    signs = [[-1 if bits >> i & 1 else 1 for i in range(size)] * (d // size) for bits in TURBO_SIGNS]
    return {"signs": np.array(signs, np.int8), "blocks": np.full(d // size, size, np.int32)}


ROTATIONS: dict[str, Callable[[Profile, int], Tables]] = {
    "hadamard": hadamard,
    "dense": dense,
    "signed_wht": signed_wht,
}


def gaussian_centroids(d: int, nbits: int) -> NDArray[np.float64]:
    """Return Lloyd-Max levels of N(0, 1/d): those of a coordinate of a unit vector of very many dimensions."""
    large = 2**40
    return codebook.frozen(large, nbits) * math.sqrt(large) / math.sqrt(d)


def uniform_centroids(d: int, nbits: int) -> NDArray[np.float64]:
    """Return equal steps between the outermost Lloyd-Max levels."""
    outermost = codebook.frozen(d, nbits)[-1]
    return np.linspace(-outermost, outermost, 2**nbits)


def equal_mass_centroids(d: int, nbits: int) -> NDArray[np.float64]:
    """Return the medians of cells of equal probability under N(0, 1/d)."""
    n = 2**nbits
    return np.array([NormalDist().inv_cdf((i + 0.5) / n) for i in range(n)]) / math.sqrt(d)


def trapezoid_centroids(d: int, nbits: int) -> NDArray[np.float64]:
    """Return Lloyd-Max levels of N(0, 1/d) as vLLM solves for them: less exactly, so the numbers differ.

    Lloyd's iteration from equal steps on ±3.5 σ, at most 200 times, until no level moves by 1e-10; integrals by 200
    trapezoids a cell, the outermost of which end at ±10.5 σ.
    """
    n, sigma = 2**nbits, 1 / math.sqrt(d)
    bound = 3.5 * sigma
    c = -bound + 2 * bound * (np.arange(n) + 0.5) / n
    weights = np.full(201, 1.0)
    weights[[0, -1]] = 0.5
    for _ in range(200):
        edges = np.concatenate([[-3 * bound], (c[1:] + c[:-1]) / 2, [3 * bound]])
        x = edges[:-1, None] + (edges[1:] - edges[:-1])[:, None] * np.arange(201) / 200
        mass = weights * np.exp(-x * x / (2 * sigma * sigma))
        new = (x * mass).sum(axis=1) / mass.sum(axis=1)
        if np.abs(new - c).max() < 1e-10:
            break
        c = new
    return (c - c[::-1]) / 2  # the density is even: without this, the middle threshold has the sign of rounding errors


CODEBOOKS: dict[str, Callable[[int, int], NDArray[np.float64]]] = {
    "beta": codebook.frozen,
    "trapezoid": trapezoid_centroids,
}


TURBO_LEVELS: dict[int, tuple[str, str]] = {
    2: ("0.039994 0.133462", "0.086728"),
    3: ("0.021663 0.066822 0.118786 0.190207", "0.044243 0.092804 0.154496"),
    4: (
        "0.011349 0.034299 0.058050 0.083292 0.111036 0.143016 0.182877 0.241529",
        "0.022824 0.046174 0.070671 0.097164 0.127026 0.162947 0.212203",
    ),
}
"""Positive levels and thresholds for N(0, 1/128), by width, in the digits that are published."""


def decimal_levels(nbits: int) -> Tables:
    """Return `TURBO_LEVELS`, mirrored: the nearest float32 of each decimal number."""
    positive, above = (np.array([float(digits) for digits in text.split()]) for text in TURBO_LEVELS[nbits])
    return {
        "centroids": np.concatenate([-positive[::-1], positive]).astype(np.float32),
        "thresholds": np.concatenate([-above[::-1], [0.0], above]).astype(np.float32),
    }


def levels(centroids: NDArray[np.float64]) -> Tables:
    """Return centroids and the midpoints between them, rounded once."""
    return {
        "centroids": centroids.astype(np.float32),
        "thresholds": codebook.thresholds(centroids).astype(np.float32),
    }


def scalar_levels(profile: Profile, d: int) -> Tables:
    """Return `levels` of the first stage, or the trellis's levels by in-subset bits and state window."""
    if profile.codebook == "trellis":
        return {"levels": trellis.frozen(d, profile.nbits).astype(np.float32)}
    if profile.codebook == "decimal":
        return decimal_levels(profile.nbits)
    return levels(CODEBOOKS[profile.codebook](d, profile.nbits - (profile.family == "prod")))


def distortion(profile: Profile, d: int) -> float:
    """Return D, the expected squared error of a unit vector in the first stage ("File format" page, "Vectors")."""
    if profile.codebook == "trellis":
        frozen = json.loads(files("tqvec").joinpath("codec/data/trellis.json").read_bytes())
        inverse = 1 / np.array(frozen["dims"][::-1], np.float64)
        return float(np.interp(1 / d, inverse, frozen["widths"][str(profile.nbits)]["distortion"][::-1]))
    d, nbits = profile.group or d, profile.nbits - (profile.family == "prod")
    return codebook.distortion(codebook.frozen(d, nbits), d)


def qjl_factor(d: int) -> np.float32:
    """Return √(π/2)/d (arXiv 2504.19874 Definition 1)."""
    return np.float32(math.sqrt(math.pi / 2) / d)


@lru_cache(maxsize=32)
def make_tables(profile: Profile, d: int) -> Tables:
    """Make all tables of a profile for dimension `d`; their order is fixed."""
    tables = {**ROTATIONS[profile.rotation](profile, d), **scalar_levels(profile, d)}
    if profile.shrink:
        tables["shrink"] = np.array([1 - distortion(profile, d)], np.float32)
    if profile.family == "prod":
        tables["projection"] = near_normal(profile.seed, PROJECTION_STREAM, (d, d))
        tables["qjl_factor"] = np.array([qjl_factor(d)])
    return tables
