"""The tables of batch searches: levels and queries rounded to bytes, and the error of that.

The README of kernels/staged has the derivation.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec.codec.codebooks import scalar, trellis
from tqvec.codec.tables.staged import full_energy, plane_order, prefix_means
from tqvec.kernels.dispatch import kernel, module
from tqvec.kernels.simd.amx import tile_config
from tqvec.kernels.tables import BatchTables, Z

MAX_PLANES = 7  # of a scalar code whose levels depend on them: tables have 128 entries


class ByteLevels(NamedTuple):
    """Levels as bytes.

    Attributes
    ----------
    planes : int
        Planes that the levels depend on: at most `MAX_PLANES` of a scalar code, all of a trellis code.
    levels : (2**planes,) or (128,) int64
        From -steps to steps, by prefix of a scalar code or by the kernels' index of a trellis code.
    zero : int
        Added to make them unsigned.
    unit : float
        Size of a step, chosen so that estimates have no bias.
    variance : float
        Variance of an estimate, for an exact query of length 1 and a row of scale 1.
    energy : float
        Expected squared length of the levels.
    """

    planes: int
    levels: NDArray[np.int64]
    zero: int
    unit: float
    variance: float
    energy: float

    @property
    def table(self) -> NDArray[np.uint8]:
        """The unsigned levels of 128 indices, (128,) uint8; those of fewer codes are repeated."""
        table = np.zeros(max(16, self.levels.size), np.uint8)
        table[: self.levels.size] = self.levels + self.zero
        return np.tile(table, 128 // table.size)


@lru_cache(maxsize=64)
def byte_levels(d: int, nbits: int, windows: int, steps: int) -> ByteLevels:
    """Round the levels of a codebook for byte products, to `steps` steps on either side of 0."""
    if windows > 0:
        planes = nbits
        c, p = trellis.table(d, nbits).ravel()[plane_order(windows)], trellis.probabilities(nbits).ravel()
        means, p = c, p[plane_order(windows)]
    else:
        planes = min(nbits, MAX_PLANES)
        c, p = scalar.centroids(d, nbits), scalar.probabilities(d, nbits)
        means, _ = prefix_means(d, nbits, planes)
    levels = np.rint(means / np.max(np.abs(means)) * steps).astype(np.int64)
    spread = np.repeat(levels, c.size // levels.size)
    full = full_energy(d, nbits, windows)
    overlap = float(d * np.sum(p * c * spread))  # E<c, levels>, and E|levels|² below: exact, their rounding included
    energy = float(d * np.sum(p * spread * spread))
    unit = full / overlap
    return ByteLevels(
        planes=planes,
        levels=levels,
        zero=steps + 1,
        unit=unit,
        variance=max(0.0, unit * unit * energy - full) / d,
        energy=energy,
    )


def _rounded(padded: NDArray[np.float32], steps: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round each row to `steps` steps up to its largest entry; return the steps' sizes too, (…, 1)."""
    unit = np.maximum(np.abs(padded).max(axis=-1, keepdims=True), np.float32(1e-30)) / np.float32(steps)
    return np.rint(padded / unit).astype(np.int8), unit


def batch_tables(
    bands: NDArray[np.int64],
    windows: NDArray[np.int64],
    spreads: NDArray[np.float32],
    directions: NDArray[np.float32],
    weight: NDArray[np.float64],
    unit: NDArray[np.float32],
) -> BatchTables:
    """Make the tables of a batch of queries.

    Parameters
    ----------
    bands, windows
        As in `QuantizerTables`.
    spreads : (n_bands,) float32
        Factor of the levels of each band.
    directions, weight, unit
        Results of `query_directions_portable`.
    """
    nq, d = directions.shape
    level_steps, query_steps = module("pair_products").PRODUCT_STEPS
    levels = [byte_levels(d, int(band[2]), int(w), level_steps) for band, w in zip(bands, windows, strict=True)]
    sizes = bands[:, 1] - bands[:, 0]
    starts = np.cumsum([0, *(-(-sizes // 64) * 64)])
    words = int(starts[-1]) // 64
    padded = np.zeros((nq + -nq % 32, words * 64), np.float32)
    variance = np.zeros(padded.shape[0])  # of estimates with exact queries
    energies = np.zeros(words * 64)  # variance per squared error of a rounded entry
    for (start, stop, _), at, spread, one in zip(bands, starts, spreads, levels, strict=False):
        part = directions[:, start:stop]
        factor = float(spread) * one.unit
        padded[:nq, at : at + stop - start] = part * np.float32(factor)
        length = np.einsum("ij,ij->i", part, part, dtype=np.float64)
        variance[:nq] += length * one.variance * float(spread) ** 2
        energies[at : at + stop - start] = one.energy / d
    rounded, byte_unit = _rounded(padded, query_steps)
    tiles = rounded.reshape(-1, 16, words, 16, 4).transpose(0, 2, 3, 1, 4).reshape(-1, words, 16, 64)
    integers = np.empty((nq, words * 64), np.int16)
    kernel("integer_queries")(directions, bands, 64, integers)
    factors = np.zeros(padded.shape[0])
    factors[:nq] = weight
    step_weight = byte_unit[:, 0] * factors
    slack = factors * Z * np.sqrt(variance + np.square(padded - rounded * byte_unit, dtype=np.float64) @ energies)
    zero = (level_steps + 1) * step_weight * rounded.sum(axis=1, dtype=np.int64)
    return BatchTables(
        packed=np.ascontiguousarray(tiles),
        weight=step_weight.astype(np.float32),
        slack=(slack - zero).astype(np.float32),
        integers=integers,
        unit=unit,
        planes=np.array([one.planes for one in levels]),
        table=np.array([one.table for one in levels]),
        config=tile_config(),
    )
