"""What the leading planes of a code tell about its centroid: the tables of the staged search.

The derivation is in kernels/staged/README.md.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tqvec.codec import codebook
from tqvec.kernels.tables import StagedQuery, StageTables

Z = 3.2  # standard errors that an estimate may fall short before a true result is lost
_SIGNS = 1 - 2 * (1 - (np.arange(16)[:, None] >> np.arange(4) & 1))  # (16, 4): ±1, bit i of the nibble set: +1


def prefix_means(d: int, nbits: int, planes: int) -> tuple[NDArray[np.float64], float]:
    """Mean centroid of each prefix of `planes` bits, and e_p, their expected squared length for a unit vector."""
    c = codebook.centroids(d, nbits).reshape(2**planes, -1)
    p = codebook.probabilities(d, nbits).reshape(2**planes, -1)
    mass = p.sum(axis=1)
    means = np.where(mass > 0, (p * c).sum(axis=1) / np.where(mass > 0, mass, 1), c.mean(axis=1))
    return means, float(d * np.sum(mass * means * means))


def stage_tables(d: int, nbits: int) -> StageTables:
    """Tables for one band of `nbits` bits: signs, then two planes, then up to four."""
    planes = sorted({2, min(nbits, 4)} & set(range(2, nbits + 1)))
    full = 1.0 - codebook.distortion(d, nbits)
    signs, sign_energy = prefix_means(d, nbits, 1)
    levels = np.zeros((len(planes), 64), np.uint8)
    units = []
    sign_level = float(signs[1] * full / sign_energy)
    # Rounding of the tables: d/4 entries in 255 steps over ± the largest sum of four, taken as 8/√d.
    table_rounding = (16 / 255) ** 2 / 12 / 4 * sign_level**2
    slack = [Z * full * math.sqrt(max(0.0, 1 / sign_energy - 1 / full) / d + table_rounding)]
    for row, p in enumerate(planes):
        means, energy = prefix_means(d, nbits, p)
        step = float(np.max(np.abs(means))) / 127
        levels[row, : 2**p] = np.rint(means / step) + 128
        units.append(step * full / energy)
        # Rounding: levels to `step`, and the query, whose largest entry is taken as 5/√d, to 1/127 of that.
        rounding = (step**2 + (5 / 127) ** 2 / d) / 12
        slack.append(Z * full * math.sqrt(max(0.0, 1 / energy - 1 / full) / d + rounding))
    return StageTables(
        sign_level,
        np.array(planes, np.int64),
        levels,
        np.array(units, np.float32),
        np.array(slack, np.float32),
    )


def staged_query(direction: NDArray[np.float32], length: float, unit: np.float32) -> StagedQuery:
    """A rotated query of length 1 in the forms that the stages take; `unit` is that of its integer dot products."""
    d = direction.shape[0]
    padded = np.zeros(-(-d // 64) * 64, np.float64)
    padded[:d] = direction
    groups = -(-d // 32)
    sums = padded[: groups * 32].reshape(-1, 4) @ _SIGNS.T  # (nibbles, 16)
    largest = max(float(np.abs(sums).max()), 1e-30)
    table = np.rint((sums + largest) * (255 / (2 * largest))).astype(np.uint8)
    table = np.ascontiguousarray(table.reshape(groups, 4, 2, 16).transpose(0, 2, 1, 3)).reshape(groups, 128)
    byte_unit = max(float(np.abs(padded).max()), 1e-30) / 127
    rounded = np.rint(padded / byte_unit).astype(np.int8)
    return StagedQuery(
        length,
        table,
        2 * largest / 255,
        groups * 8 * largest,
        rounded,
        byte_unit,
        int(rounded.sum(dtype=np.int64)),
        np.rint(padded.astype(np.float32) * np.float32(32767)).astype(np.int16),
        unit,
    )
