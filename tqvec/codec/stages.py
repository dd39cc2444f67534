"""What a few bits of a code tell about its level: the tables of the staged search.

The derivation is in kernels/staged/README.md. `windows`, as in `QuantizerTables`, tells the codebook: 0 is the scalar
one, any other number a trellis.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec.codec import codebook, trellis
from tqvec.codec.bands import integer_steps
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.scan.queries import QUERY_LENGTH
from tqvec.kernels.simd.amx import tile_config
from tqvec.kernels.tables import BYTE_STEPS, TABLE_STEPS, BatchTables, StageTables

Z = 3.2  # standard errors that an estimate may fall short before a true result is lost


def prefix_means(d: int, nbits: int, planes: int) -> tuple[NDArray[np.float64], float]:
    """Mean centroid of each prefix of `planes` bits, and e_p, their expected squared length for a unit vector."""
    c = codebook.centroids(d, nbits).reshape(2**planes, -1)
    p = codebook.probabilities(d, nbits).reshape(2**planes, -1)
    mass = p.sum(axis=1)
    means = np.where(mass > 0, (p * c).sum(axis=1) / np.where(mass > 0, mass, 1), c.mean(axis=1))
    return means, float(d * np.sum(mass * means * means))


def plane_order(windows: int) -> NDArray[np.int64]:
    """Which index of `QuantizerTables` each of the 128 indices of the staged kernels is.

    They have windows as the path plane has them, with the oldest bit lowest.
    """
    index = np.arange(128)
    window = sum((index >> k & 1) << (windows - 1 - k) for k in range(windows))
    return index >> windows << windows | window


def level_bytes(levels: NDArray[np.uint32], windows: int) -> NDArray[np.uint8]:
    """Integer levels of a band, (256,), as `StageTables` has them."""
    words = levels.astype(np.uint16)
    if windows == 0:
        return words[:32].view(np.uint8)
    words = words[plane_order(windows)]
    return np.concatenate([words, words >> 8]).astype(np.uint8)


class ByteLevels(NamedTuple):
    """Levels as bytes.

    Attributes
    ----------
    planes : int
        Planes that they depend on: at most 4 of a scalar code, all of a trellis.
    levels : (2**planes,) or (128,) int64
        From -steps to steps, by prefix or by the kernels' index.
    zero : int
        Added to make them unsigned.
    unit : float
        What a step is worth, so that estimates have no bias.
    variance : float
        Of an estimate, for a query of length 1 and a row of length 1, and an exact query.
    energy : float
        Times the variance of a rounded query's entries: what that adds.
    """

    planes: int
    levels: NDArray[np.int64]
    zero: int
    unit: float
    variance: float
    energy: float

    @property
    def table(self) -> NDArray[np.uint8]:
        """The unsigned levels of 128 indices; those of at most 16 codes eight times over."""
        table = np.zeros(max(16, self.levels.size), np.uint8)
        table[: self.levels.size] = self.levels + self.zero
        return np.tile(table, 128 // table.size)


@lru_cache(maxsize=64)
def byte_levels(d: int, nbits: int, windows: int, steps: int) -> ByteLevels:
    """Levels for products of bytes, in `steps` steps on either side of 0."""
    if windows > 0:
        planes = nbits
        c, p = trellis.table(d, nbits).ravel()[plane_order(windows)], trellis.probabilities(nbits).ravel()
        means, p = c, p[plane_order(windows)]
    else:
        planes = min(nbits, 4)
        c, p = codebook.centroids(d, nbits), codebook.probabilities(d, nbits)
        means, _ = prefix_means(d, nbits, planes)
    levels = np.rint(means / np.max(np.abs(means)) * steps).astype(np.int64)
    spread = np.repeat(levels, c.size // levels.size)
    full = full_energy(d, nbits, windows)
    overlap = float(d * np.sum(p * c * spread))  # E<c, levels>, and E|levels|² below: exact, their rounding included
    energy = float(d * np.sum(p * spread * spread)) / overlap**2
    return ByteLevels(planes, levels, steps + 1, full / overlap, max(0.0, energy - 1 / full) / d, energy)


@lru_cache(maxsize=64)
def full_energy(d: int, nbits: int, windows: int) -> float:
    """e_b, the expected squared length of the levels: 1 − D; of a trellis for large d, like its `probabilities`."""
    if windows == 0:
        return 1.0 - codebook.distortion(d, nbits)
    return float(d * np.sum(trellis.probabilities(nbits) * trellis.table(d, nbits) ** 2))


def _sigma(d: int, energy: float, full: float, rounding: float) -> float:
    """Standard error of estimates from planes of some energy, for a query and a row of length 1."""
    return math.sqrt(max(0.0, 1 / energy - 1 / full) / d + rounding)


def stage_tables(d: int, nbits: int, windows: int, levels: NDArray[np.uint32]) -> StageTables:
    """Tables for one band of `nbits` bits: signs, then two bits, then four.

    `levels` (256,) are the integer levels of the full scan.
    """
    full = full_energy(d, nbits, windows)
    means = trellis.prefix_means if windows > 0 else prefix_means
    signs, sign_energy = means(d, nbits, 1)
    sign_level = float(signs[1] * full / sign_energy)
    # Rounding of the tables: d/4 entries in steps of 1/31 of the largest sum of four, taken as 8/√d; of the query:
    # its largest entry is taken as 5/√d. The integers of the later stages are too fine to matter.
    of_table = (8 / TABLE_STEPS) ** 2 / 12 / 4
    of_query = (5 / BYTE_STEPS) ** 2 / 12
    sigmas = [_sigma(d, sign_energy, full, of_table * sign_level**2), 0.0, 0.0]
    both = second = 0.0
    if windows > 0 or nbits > 1:
        twos, energy = means(d, nbits, 2)
        # Means of two planes: -b, -a, a, b. The sign is worth (a + b) / 2; the second bit, as ±1, (b - a) / 2.
        both = float(twos[-1] + twos[-2]) / 2 * full / energy
        second = float(twos[-1] - twos[-2]) / 2 * full / energy
        sigmas[1] = _sigma(d, energy, full, of_table * both**2 + of_query * second**2)
    words = np.zeros(32, np.int16)
    unit = 0.0
    if nbits > 4 and windows == 0:
        fours, energy = prefix_means(d, nbits, 4)
        steps = integer_steps(d, float(np.max(np.abs(fours))))
        words[: fours.size] = np.rint(fours * steps)
        unit = full / energy / steps / QUERY_LENGTH
        sigmas[2] = _sigma(d, energy, full, 0.0)
    return StageTables(
        windows,
        sign_level,
        both / sign_level,
        second,
        trellis.parity_masks(nbits)[1] if windows > 0 and nbits <= 2 else 0,
        words,
        unit,
        level_bytes(levels, windows),
        np.array([Z * full * sigma for sigma in sigmas], np.float32),
    )


def _bytes(padded: NDArray[np.float32], steps: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Each row in `steps` steps up to its largest entry, and the step, of shape (…, 1)."""
    unit = np.maximum(np.abs(padded).max(axis=-1, keepdims=True), np.float32(1e-30)) / np.float32(steps)
    return np.rint(padded / unit).astype(np.int8), unit


def batch_tables(
    bands: NDArray[np.int64],
    windows: int,
    directions: NDArray[np.float32],
    worth: NDArray[np.float64],
    unit: NDArray[np.float32],
) -> BatchTables:
    """A batch of queries, as `query_directions_portable` makes them, for one band, (1, 3)."""
    nq, d = directions.shape
    words = -(-d // 64)
    padded = np.zeros((nq + -nq % 32, words * 64), np.float32)
    padded[:nq, :d] = directions
    level_steps, query_steps = kernel("product_steps")
    rounded, byte_unit = _bytes(padded, query_steps)
    tiles = rounded.reshape(-1, 16, words, 16, 4).transpose(0, 2, 3, 1, 4).reshape(-1, words, 16, 64)
    integers = np.empty((nq, words * 64), np.int16)
    kernel("integer_queries")(directions, bands, integers)
    nbits = int(bands[0, 2])
    step = byte_levels(d, nbits, windows, level_steps)
    factor = np.zeros(padded.shape[0])
    factor[:nq] = worth
    step_worth = byte_unit[:, 0] * factor * step.unit
    sigma = np.sqrt(step.variance + step.energy * byte_unit[:, 0] ** 2 / 12)
    slack = factor * Z * full_energy(d, nbits, windows) * sigma
    return BatchTables(
        np.ascontiguousarray(tiles),
        step_worth.astype(np.float32),
        (slack - step.zero * step_worth * rounded.sum(axis=1, dtype=np.int64)).astype(np.float32),
        integers,
        unit,
        step.planes,
        step.table,
        tile_config(),
    )
