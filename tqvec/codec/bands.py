"""Bands: runs of rotated coordinates that share a width. A plain codec has one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec.codec import codebook
from tqvec.kernels.tables import QuantizerTables

_INT32_HEADROOM = 64000  # bound on the length of an integer code vector; kernels/scan/README.md has the proof


class Band(NamedTuple):
    """Coordinates ``start .. stop`` are coded with `nbits` bits each."""

    start: int
    stop: int
    nbits: int


def code_bytes(bands: tuple[Band, ...]) -> int:
    """Bytes of one vector's packed codes."""
    return (sum((b.stop - b.start) * b.nbits for b in bands) + 7) // 8


def _grid(edges: NDArray[np.float32], cells: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]] | None:
    """Grid of `cells` cells over the thresholds; None where two thresholds share a cell.

    The cell of a value is computed with the kernel's own float32 operations. They never decrease as the value grows,
    so a threshold in an earlier cell is smaller than the value whatever the rounding was.
    """
    span = np.float32(max(float(edges[-1]) - float(edges[0]), float(np.finfo(np.float32).tiny)))
    scale = np.float32(cells - 2) / span if edges.size > 1 else np.float32(1)
    offset = np.float32(1) - edges[0] * scale
    cell = np.clip(edges * scale + offset, np.float32(0), np.float32(cells - 1)).astype(np.int32)
    if np.any(np.diff(cell) < 1):
        return None
    below = np.searchsorted(cell, np.arange(cells), side="left").astype(np.uint8)
    return below, np.array([scale, offset], np.float32)


def quantizer_tables(d: int, bands: tuple[Band, ...]) -> QuantizerTables:
    """Tables for the encoding and decoding kernels."""
    n = len(bands)
    thresholds = np.full((n, 256), np.inf, np.float32)
    centroids = np.zeros((n, 256), np.float32)
    for i, band in enumerate(bands):
        levels = 2**band.nbits
        thresholds[i, : levels - 1] = codebook.thresholds(d, band.nbits)
        centroids[i, :levels] = codebook.centroids(d, band.nbits)
    cells = 256
    while True:
        grids = [_grid(thresholds[i, : 2**band.nbits - 1], cells) for i, band in enumerate(bands)]
        found = [g for g in grids if g is not None]
        if len(found) == n:
            break
        cells *= 2
    return QuantizerTables(
        np.array(bands, np.int64),
        thresholds,
        centroids,
        np.array([g[0] for g in found]),
        np.array([g[1] for g in found]),
    )


class IntegerLevels(NamedTuple):
    """Centroids as int16, for the integer scan.

    Attributes
    ----------
    levels : (n_bands, 256) uint32
        The low 16 bits are an int16.
    pairs : (n_bands, 256) uint32
        Bands of at most 4 bits: levels of codes c (low half) and e, at index c + 16 e.
    unit : float
        What an integer level of 1 stands for.
    """

    levels: NDArray[np.uint32]
    pairs: NDArray[np.uint32]
    unit: float


def integer_steps(d: int, largest: float) -> float:
    """Steps a unit for levels up to `largest`, as fine as the overflow bound allows."""
    return float(min(_INT32_HEADROOM / (np.sqrt(d) * largest), 32767 / largest))


def integer_levels(d: int, tables: QuantizerTables) -> IntegerLevels:
    """Round the centroids to int16 as finely as the overflow bound allows."""
    per_unit = integer_steps(d, float(np.max(np.abs(tables.centroids))))
    rounded = np.rint(tables.centroids.astype(np.float64) * per_unit).astype(np.int16)
    levels = rounded.view(np.uint16).astype(np.uint32)
    pairs = np.zeros_like(levels)
    for i in range(levels.shape[0]):
        if tables.bands[i, 2] <= 4:
            pairs[i] = (levels[i, :16][None, :] | levels[i, :16][:, None] << np.uint32(16)).reshape(256)
    return IntegerLevels(levels, pairs, 1.0 / per_unit)
