"""The scalar codebook: frozen Lloyd-Max levels, their distortion and their entropy.

The numbers come from ``data/codebooks.safetensors``, written once by `tqvec.codec.offline.lloyd_max`. They are
evaluated with IEEE multiplications and additions alone. So a codebook has the same bits on every machine and for every
version of SciPy.
"""

from __future__ import annotations

import math
from functools import lru_cache
from importlib.resources import files

import numpy as np
from numpy.typing import ArrayLike

from tqvec._types import Bytes, Doubles, Floats
from tqvec.codec.bands import Band
from tqvec.codec.codebooks.codebook import Codebook
from tqvec.codec.offline.lloyd_max import SMALL_D, cells
from tqvec.kernels.tables import QuantizerTables


@lru_cache(maxsize=1)
def _frozen() -> dict[str, Doubles]:
    from safetensors.numpy import load

    return load(files("tqvec.codec").joinpath("data/codebooks.safetensors").read_bytes())


def _positive_half(d: int, nbits: int) -> Doubles:
    """Return the positive centroids in units of 1/√d."""
    part = slice(2 ** (nbits - 1) - 1, 2**nbits - 1)
    if d < SMALL_D:
        return _frozen()["small"][d, part]
    x = np.float64(2 * SMALL_D / d - 1)
    return np.asarray(np.polynomial.chebyshev.chebval(x, _frozen()["series"][:, part]), np.float64)


def centroids(d: int, nbits: int) -> Doubles:
    """Return the optimal reconstruction levels of one coordinate of a random unit vector.

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
    """Return the midpoints between neighbouring centroids, (2**nbits - 1,) float64."""
    c = centroids(d, nbits)
    return (c[1:] + c[:-1]) / 2


def _cell_probabilities(d: int, nbits: int) -> Doubles:
    """Return the probability of each positive cell; they add up to 1/2."""
    if d == 1:
        return np.array([0.0] * (2 ** (nbits - 1) - 1) + [0.5])
    return cells(_positive_half(d, nbits) / math.sqrt(d), d)[1]


def probabilities(d: int, nbits: int) -> Doubles:
    """Return the probability of each code, (2**nbits,) float64."""
    half = _cell_probabilities(d, nbits)
    return np.concatenate([half[::-1], half])


@lru_cache(maxsize=256)
def distortion(d: int, nbits: int) -> float:
    """Return the expected squared error D of a unit vector under Algorithm 1.

    At the optimum D is 1 − d Σ p c², over the levels c and their probabilities p. It lies between 4^-nbits and
    2.7207·4^-nbits for d ≥ 3 (Theorems 1 and 3 of arXiv 2504.19874).
    """
    if nbits == 0:
        return 1.0
    half = _positive_half(d, nbits)
    return 1.0 - 2.0 * float(np.sum(_cell_probabilities(d, nbits) * half * half))


def entropy(d: int, nbits: int) -> float:
    """Return the entropy of a code in bits: the bits per coordinate that an entropy coder could reach."""
    if nbits == 0:
        return 0.0
    p = _cell_probabilities(d, nbits)
    p = p[p > 0]
    return float(-2 * np.sum(p * np.log2(p)))


def _grid(edges: Floats, cells: int) -> tuple[Bytes, Floats] | None:
    """Lay a grid of `cells` cells over the thresholds; return None where two thresholds share a cell.

    The cell of a value is computed with the kernel's own float32 operations. They never decrease as the value grows,
    so a threshold in an earlier cell is smaller than the value whatever the rounding was.
    """
    if edges.size == 0:  # 0 bits
        return np.zeros(cells, np.uint8), np.zeros(2, np.float32)
    span = np.float32(max(float(edges[-1]) - float(edges[0]), float(np.finfo(np.float32).tiny)))
    scale = np.float32(cells - 2) / span if edges.size > 1 else np.float32(1)
    offset = np.float32(1) - edges[0] * scale
    cell = np.clip(edges * scale + offset, np.float32(0), np.float32(cells - 1)).astype(np.int32)
    if np.any(np.diff(cell) < 1):
        return None
    below = np.searchsorted(cell, np.arange(cells), side="left").astype(np.uint8)
    return below, np.array([scale, offset], np.float32)


def quantizer_tables(d: int, bands: tuple[Band, ...], band_std: ArrayLike = 1.0) -> QuantizerTables:
    """Return the tables with which kernels encode and decode.

    Parameters
    ----------
    d : int
    bands : tuple of Band
    band_std : float or (n_bands,) array
        Factor of the levels of each band: its standard deviation for vectors of length √d.
    """
    n = len(bands)
    factors = np.broadcast_to(np.asarray(band_std, np.float64), n)
    edges = np.full((n, 256), np.inf, np.float32)
    levels = np.zeros((n, 256), np.float32)
    for i, band in enumerate(bands):
        count = 2**band.nbits
        edges[i, : count - 1] = thresholds(d, band.nbits) * factors[i]
        levels[i, :count] = centroids(d, band.nbits) * factors[i]
    cells = 256
    while True:
        attempts = [_grid(edges[i, : 2**band.nbits - 1], cells) for i, band in enumerate(bands)]
        grids = [grid for grid in attempts if grid is not None]
        if len(grids) == n:
            break
        cells *= 2
    return QuantizerTables(
        bands=np.array(bands, np.int64),
        windows=np.zeros(n, np.int64),
        centroids=levels,
        thresholds=edges,
        grid=np.array([below for below, _ in grids]),
        grid_affine=np.array([affine for _, affine in grids]),
    )


class ScalarCodebook(Codebook):
    """Lloyd-Max levels, the same for all coordinates of a band."""

    encoder = "encode_rows"

    def __init__(self, d: int, bands: tuple[Band, ...], band_std: ArrayLike = 1.0) -> None:
        tables = quantizer_tables(d, bands, band_std)
        super().__init__(d, bands, tables=tables, encoder_tables=(tables,))

    def distortion(self, nbits: int) -> float:
        """Return `distortion` of this dimension."""
        return distortion(self.d, nbits)

    def entropy(self, nbits: int) -> float:
        """Return `entropy` of this dimension."""
        return entropy(self.d, nbits)
