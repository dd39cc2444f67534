"""What the leading planes of a code tell about its centroid: the tables of the staged search.

The derivation is in kernels/staged/README.md.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec.codec import codebook
from tqvec.codec.bands import QUERY_LENGTH, integer_queries, integer_steps
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.simd.amx import tile_config
from tqvec.kernels.tables import BatchTables, StagedQuery, StageTables

Z = 3.2  # standard errors that an estimate may fall short before a true result is lost
BYTE_STEPS = 127  # of a query entry on either side of 0
TABLE_STEPS = 31  # of a table entry on either side of 0: four entries fit a byte (staged/README.md)
_SIGNS = 1 - 2 * (1 - (np.arange(16)[:, None] >> np.arange(4) & 1))  # (16, 4): ±1, bit i of the nibble set: +1


def prefix_means(d: int, nbits: int, planes: int) -> tuple[NDArray[np.float64], float]:
    """Mean centroid of each prefix of `planes` bits, and e_p, their expected squared length for a unit vector."""
    c = codebook.centroids(d, nbits).reshape(2**planes, -1)
    p = codebook.probabilities(d, nbits).reshape(2**planes, -1)
    mass = p.sum(axis=1)
    means = np.where(mass > 0, (p * c).sum(axis=1) / np.where(mass > 0, mass, 1), c.mean(axis=1))
    return means, float(d * np.sum(mass * means * means))


class ByteLevels(NamedTuple):
    """Prefixes of codes as bytes.

    Attributes
    ----------
    levels : (2**planes,) int64
        Conditional means, from -steps to steps.
    zero : int
        Added to make them unsigned.
    unit : float
        What a step is worth: the estimates of all rows are right on average.
    slack : float
        z σ_p e_b for a query of length 1 and scale 1, rounding included.
    """

    levels: NDArray[np.int64]
    zero: int
    unit: float
    slack: float

    @property
    def table(self) -> NDArray[np.uint8]:
        """The unsigned levels of 16 codes, four times over: a register."""
        table = np.zeros(16, np.uint8)
        table[: self.levels.size] = self.levels + self.zero
        return np.tile(table, 4)


def byte_levels(d: int, nbits: int, planes: int, level_steps: int, query_steps: int) -> ByteLevels:
    """Levels of the first `planes` planes for products of bytes; levels and queries have some steps on either side."""
    full = 1.0 - codebook.distortion(d, nbits)
    means, _ = prefix_means(d, nbits, planes)
    mass = codebook.probabilities(d, nbits).reshape(2**planes, -1).sum(axis=1)
    levels = np.rint(means / np.max(np.abs(means)) * level_steps).astype(np.int64)
    # Rounding the few levels may make them larger or smaller on the whole: the unit makes up for that.
    unit = full / float(d * np.sum(mass * means * levels))
    energy = full**2 / float(d * np.sum(mass * levels**2) * unit**2)
    # Rounding of the query, whose largest entry is taken as 5/√d.
    sigma = _sigma(d, energy, full, (5 / query_steps) ** 2 / 12 / d)
    return ByteLevels(levels, level_steps + 1, unit, Z * full * sigma)


def _sigma(d: int, energy: float, full: float, rounding: float) -> float:
    """Standard error of estimates from planes of some energy, for a query and a row of length 1."""
    return math.sqrt(max(0.0, 1 / energy - 1 / full) / d + rounding)


def stage_tables(d: int, nbits: int) -> StageTables:
    """Tables for one band of `nbits` bits: signs, then two planes, then four."""
    full = 1.0 - codebook.distortion(d, nbits)
    signs, sign_energy = prefix_means(d, nbits, 1)
    twos, two_energy = prefix_means(d, nbits, min(nbits, 2))
    fours, four_energy = prefix_means(d, nbits, min(nbits, 4))
    sign_level = float(signs[1] * full / sign_energy)
    # Means of two planes: -b, -a, a, b. The sign is worth (a + b) / 2; the second bit, as ±1, (b - a) / 2.
    both = float(twos[-1] + twos[-2]) / 2 * full / two_energy
    second = float(twos[-1] - twos[-2]) / 2 * full / two_energy
    # Rounding of the tables: d/4 entries in steps of 1/31 of the largest sum of four, taken as 8/√d; of the query:
    # its largest entry is taken as 5/√d. The integers of the later stage are too fine to matter.
    of_table = (8 / TABLE_STEPS) ** 2 / 12 / 4
    of_query = (5 / BYTE_STEPS) ** 2 / 12
    sigmas = (
        _sigma(d, sign_energy, full, of_table * sign_level**2),
        _sigma(d, two_energy, full, of_table * both**2 + of_query * second**2),
        _sigma(d, four_energy, full, 0.0),
    )
    steps = integer_steps(d, float(np.max(np.abs(fours))))
    words = np.zeros(32, np.int16)
    words[: fours.size] = np.rint(fours * steps)
    return StageTables(
        sign_level,
        both / sign_level,
        second,
        words,
        full / four_energy / steps / QUERY_LENGTH,
        np.array([Z * full * sigma for sigma in sigmas], np.float32),
    )


def _bytes(padded: NDArray[np.float32], steps: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Each row in `steps` steps up to its largest entry, and the step, of shape (…, 1)."""
    unit = np.maximum(np.abs(padded).max(axis=-1, keepdims=True), np.float32(1e-30)) / np.float32(steps)
    return np.rint(padded / unit).astype(np.int8), unit


def batch_tables(
    d: int, nbits: int, directions: NDArray[np.float32], length: NDArray[np.float64], unit: NDArray[np.float32]
) -> BatchTables:
    """A batch of rotated queries of length 1; `length` and `unit` are as in `staged_query`."""
    nq = directions.shape[0]
    words = -(-d // 64)
    padded = np.zeros((nq + -nq % 32, words * 64), np.float32)
    padded[:nq, :d] = directions
    level_steps, query_steps = kernel("product_steps")
    rounded, byte_unit = _bytes(padded, query_steps)
    tiles = rounded.reshape(-1, 16, words, 16, 4).transpose(0, 2, 3, 1, 4).reshape(-1, words, 16, 64)
    planes = min(nbits, 4)
    step = byte_levels(d, nbits, planes, level_steps, query_steps)
    lengths = np.zeros(padded.shape[0])
    lengths[:nq] = length
    worth = byte_unit[:, 0] * lengths * step.unit
    return BatchTables(
        np.ascontiguousarray(tiles),
        worth.astype(np.float32),
        (lengths * step.slack - step.zero * worth * rounded.sum(axis=1, dtype=np.int64)).astype(np.float32),
        integer_queries(padded[:nq]),
        unit,
        planes,
        step.table,
        tile_config(),
    )


def staged_query(direction: NDArray[np.float32], length: float, unit: np.float32) -> StagedQuery:
    """A rotated query of length 1 in the forms that the stages take; `unit` is that of its integer dot products."""
    d = direction.shape[0]
    padded = np.zeros(-(-d // 64) * 64, np.float32)
    padded[:d] = direction
    groups = -(-d // 32)
    sums = padded[: groups * 32].reshape(-1, 4) @ _SIGNS.T  # (nibbles, 16)
    step = max(float(np.abs(sums).max()), 1e-30) / TABLE_STEPS
    table = (np.rint(sums / step) + (TABLE_STEPS + 1)).astype(np.uint8)
    table = np.ascontiguousarray(table.reshape(groups, 4, 2, 16).transpose(0, 2, 1, 3)).reshape(groups, 128)
    rounded, byte_unit = _bytes(padded, BYTE_STEPS)
    return StagedQuery(
        length,
        table,
        step,
        (TABLE_STEPS + 1) * step * groups * 8,
        rounded,
        float(byte_unit[0]),
        int(rounded.sum(dtype=np.int64)),
        integer_queries(padded),
        unit,
    )
