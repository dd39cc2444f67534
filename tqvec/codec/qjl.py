"""QJL, the second stage of Algorithm 2 (arXiv 2504.19874): one bit a coordinate for what the first stage left over.

The residual r is kept as γ = ‖x‖‖r‖ and z = sign(S r), and comes back as factor · γ · Sᵀz. S is drawn for the rotated
basis, from random streams of its own: it must be independent of the rotation, or the correction recovers only a part.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tqvec.codec import transforms
from tqvec.codec.bands import Band, quantizer_tables
from tqvec.codec.codebooks import scalar
from tqvec.codec.splitmix import stream
from tqvec.errors import InputError
from tqvec.kernels.tables import QuantizerTables, RotationTables

MAX_GAUSSIAN_D = 8192  # 256 MiB of float32
FIRST_ROUND = 4  # of the structured S; the rotation's own rounds come before
STREAM = 2 * FIRST_ROUND  # of random words that no rotation draws from


class Projection(NamedTuple):
    """S, and what is known about its estimate of a residual.

    Attributes
    ----------
    tables : RotationTables
        S, up to a positive factor.
    factor : float
        ``factor · ‖r‖ · Sᵀ sign(S r)`` with this S is r on average.
    error : float
        Expected squared error of that for ‖r‖ = 1.
    """

    tables: RotationTables
    factor: float
    error: float


def gaussian(d: int, seed: int) -> Projection:
    """S of independent N(0, 1), as in the paper; its bits depend on NumPy's generator.

    The factor is √(π/2)/d (Definition 1). The estimate has length² π/(2d²)·‖Sᵀz‖², and E‖Sᵀz‖² = (d−1)·d across r
    plus E(Σ|⟨s_i, r⟩|)² = d + d(d−1)·2/π along it: π/2 + 1 − 1/d in all. Its product with r is 1 on average, so the
    squared error is π/2 − 1/d.

    Raises
    ------
    InputError
        `d` is above `MAX_GAUSSIAN_D`.
    """
    if d > MAX_GAUSSIAN_D:
        raise InputError(f"d must be at most {MAX_GAUSSIAN_D} with qjl='gaussian', got {d}; use qjl='hadamard'")
    matrix = np.random.default_rng(stream(seed, STREAM, 4)).standard_normal((d, d), np.float32)
    return Projection(transforms.dense(matrix), math.sqrt(math.pi / 2) / d, math.pi / 2 - 1 / d)


def hadamard(d: int, seed: int) -> Projection:
    """S = √d times a structured rotation O; the tables hold O, and the factor is for it.

    For a Haar rotation each row o of O is uniform on the sphere, so on average sign⟨o, r⟩·o is m·r for ‖r‖ = 1, where
    m = E|t| for a coordinate t of a random unit vector. All d rows: E Oᵀz = d·m·r, so the factor is 1/(d·m). m is the
    positive level of the codebook of 1 bit, Γ(d/2)/(√π Γ((d+1)/2)) = √(2/(πd))·(1 + 1/(4d) + …). For √d·O the factor
    is therefore √(π/2)/d·(1 − 1/(4d) + …), a little below the Gaussian one. ‖Oᵀz‖² = d exactly, so the squared error
    is 1/(d·m²) − 1 (→ π/2 − 1), about a third of the Gaussian one.
    """
    level = float(scalar.centroids(d, 1)[1])
    tables = transforms.hadamard(d, seed, FIRST_ROUND)
    return Projection(tables, 1 / (d * level), 1 / (d * level * level) - 1)


PROJECTIONS: dict[str, Callable[[int, int], Projection]] = {"gaussian": gaussian, "hadamard": hadamard}


class SecondStage(NamedTuple):
    """What a codec of two stages needs beside the rotation and the tables that read its codes.

    Attributes
    ----------
    encoder : QuantizerTables
        First stage, each band one bit narrower than the codes.
    projection : Projection
    both : RotationTables
        The rotation, then S.
    signs : QuantizerTables
        z of each code.
    """

    encoder: QuantizerTables
    projection: Projection
    both: RotationTables
    signs: QuantizerTables


def stages(
    d: int, bands: tuple[Band, ...], basis: RotationTables, projection: Projection
) -> tuple[QuantizerTables, SecondStage]:
    """First-stage centroids of codes with their QJL bit, and the second stage."""
    encoder = quantizer_tables(d, tuple(band._replace(nbits=band.nbits - 1) for band in bands))
    whole = encoder._replace(bands=np.array(bands, np.int64))
    first = whole._replace(centroids=np.repeat(encoder.centroids[:, :128], 2, axis=1))
    signs = whole._replace(centroids=np.tile(np.array([-1, 1], np.float32), (len(bands), 128)))
    return first, SecondStage(encoder, projection, transforms.compose(basis, projection.tables), signs)
