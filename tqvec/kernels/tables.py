"""The arrays that a codec hands to its kernels, as named tuples (which Numba takes as they are)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class RotationTables(NamedTuple):
    """An orthogonal map: rounds of permutation, signs and block Hadamard transforms, then a dense matrix if any.

    Attributes
    ----------
    perm : (rounds, d) int32
        Coordinate ``j`` of a round's input is coordinate ``perm[r, j]`` of what came before.
    mult : (rounds, d) float32
        Sign times 1/sqrt(block size), applied after the permutation.
    blocks : (n_blocks, 2) int64
        Start and size (a power of two) of each Hadamard block.
    matrix : (d, d) or (0, 0) float32
        Dense matrix, applied last; (0, 0) stands for none.
    """

    perm: np.ndarray
    mult: np.ndarray
    blocks: np.ndarray
    matrix: np.ndarray


class QuantizerTables(NamedTuple):
    """Codebooks of all bands, one row a band.

    Attributes
    ----------
    bands : (n_bands, 3) int64
        First coordinate, end (exclusive) and width in bits.
    thresholds : (n_bands, 256) float32
        A code is the number of thresholds below the value; the row is filled up with +inf.
    centroids : (n_bands, 256) float32
        Value of each code, for a unit vector; the row is filled up with 0.
    grid : (n_bands, cells) uint8
        Number of thresholds in the cells before this one. A cell holds at most one threshold.
    grid_affine : (n_bands, 2) float32
        ``cell = clip(value * grid_affine[b, 0] + grid_affine[b, 1], 0, cells - 1)``, truncated.
    """

    bands: np.ndarray
    thresholds: np.ndarray
    centroids: np.ndarray
    grid: np.ndarray
    grid_affine: np.ndarray
