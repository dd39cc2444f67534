"""What a few bits of a code tell about its level: the tables of the staged search.

The derivation is in kernels/staged/README.md. `windows`, as in `QuantizerTables`, tells the codebook: 0 is the scalar
one, any other number a trellis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec.codec import codebook, trellis
from tqvec.codec.bands import Band
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.simd.amx import tile_config
from tqvec.kernels.tables import BYTE_STEPS, TABLE_BYTES, TABLE_STEPS, BatchTables, StageTables, Z


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


def level_bytes(levels: NDArray[np.uint32], nbits: int, windows: int) -> NDArray[np.uint8]:
    """Integer levels of a band, (256,), as `StageTables` has them."""
    words = levels.astype(np.uint16)
    if windows > 0:
        words = words[plane_order(windows)]
    found = words[:32].view(np.uint8) if windows == 0 and nbits <= 4 else np.concatenate([words & 255, words >> 8])
    table = np.zeros(TABLE_BYTES, np.uint8)
    table[: found.size] = found
    return table


class ByteLevels(NamedTuple):
    """Levels as bytes.

    Attributes
    ----------
    planes : int
        Planes that they depend on: at most 7 of a scalar code, all of a trellis.
    levels : (2**planes,) or (128,) int64
        From -steps to steps, by prefix or by the kernels' index.
    zero : int
        Added to make them unsigned.
    unit : float
        What a step is worth, so that estimates have no bias.
    variance : float
        Of an estimate, for a query of length 1 and a row of scale 1, and an exact query.
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
        """The unsigned levels of 128 indices; those of fewer codes over and over."""
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
        planes = min(nbits, 7)
        c, p = codebook.centroids(d, nbits), codebook.probabilities(d, nbits)
        means, _ = prefix_means(d, nbits, planes)
    levels = np.rint(means / np.max(np.abs(means)) * steps).astype(np.int64)
    spread = np.repeat(levels, c.size // levels.size)
    full = full_energy(d, nbits, windows)
    overlap = float(d * np.sum(p * c * spread))  # E<c, levels>, and E|levels|² below: exact, their rounding included
    energy = float(d * np.sum(p * spread * spread))
    unit = full / overlap
    return ByteLevels(planes, levels, steps + 1, unit, max(0.0, unit * unit * energy - full) / d, energy)


@lru_cache(maxsize=64)
def full_energy(d: int, nbits: int, windows: int) -> float:
    """e_b, the expected squared length of the levels: 1 − D; of a trellis for large d, like its `probabilities`."""
    if windows == 0:
        return 1.0 - codebook.distortion(d, nbits)
    return float(d * np.sum(trellis.probabilities(nbits) * trellis.table(d, nbits) ** 2))


class Planes(NamedTuple):
    """The first bits of a band's codes: planes of a row, or parities of one.

    Attributes
    ----------
    band : int
    start, size : int
        The plane's bytes in a row.
    mask : int
        0, or the bits of a window, the newest lowest, whose parity is the bit that is meant.
    """

    band: int
    start: int
    size: int
    mask: int


def leading_planes(bands: tuple[Band, ...], windows: NDArray[np.int64], counts: Sequence[int]) -> list[Planes]:
    """Where the first `counts` bits of each band are, two at most."""
    found = []
    start = 0
    for b, band in enumerate(bands):
        size = (band.stop - band.start) // 8
        masks = trellis.parity_masks(band.nbits) if windows[b] > 0 else ()
        for bit in range(counts[b]):
            mask = masks[bit] & (2 ** int(windows[b]) - 1) if masks else 0
            at = band.nbits - 1 if mask else bit  # parities are of the path plane, the last
            found.append(Planes(b, start + at * size, size, mask))
        start += size * band.nbits
    return found


class Steps(NamedTuple):
    """What the first bits of a band's codes tell, for a vector of length 1 that spreads over all coordinates alike.

    Attributes
    ----------
    worth : list of list of float
        For one and for two bits: what each, as ±1, adds to an estimate of the level, times e_b / e_p.
    unknown : list of float
        d times the variance of scores that none, one and two bits leave.
    """

    worth: list[list[float]]
    unknown: list[float]


@lru_cache(maxsize=64)
def steps(d: int, nbits: int, windows: int) -> Steps:
    """What one bit and two tell; README.md of kernels/staged has the derivation."""
    full = full_energy(d, nbits, windows)
    means = trellis.prefix_means if windows > 0 else prefix_means
    signs, energy = means(d, nbits, 1)
    found = Steps([[float(signs[1] * full / energy)]], [full, full * full * max(0.0, 1 / energy - 1 / full)])
    if windows > 0 or nbits > 1:
        twos, energy = means(d, nbits, 2)
        # Means of two bits: -b, -a, a, b. The sign is worth (a + b) / 2; the second bit, as ±1, (b - a) / 2.
        share = full / energy / 2
        found.worth.append([float(twos[-1] + twos[-2]) * share, float(twos[-1] - twos[-2]) * share])
        found.unknown.append(full * full * max(0.0, 1 / energy - 1 / full))
    return found


_NS_A_BYTE = 0.036  # to read a byte of the prefix and look it up
_NS_A_ROW = 90.0  # for a full score
_RESULT = 5.0  # standard deviations of a result above the mean score: neighbours stand out more than normal tails


def prefix_counts(
    d: int, bands: tuple[Band, ...], windows: NDArray[np.int64], spreads: NDArray[np.float32]
) -> tuple[int, ...]:
    """How many first bits of each band's codes all rows are judged by: what costs the least time, by estimate.

    Bits are taken where they tell most of a score. With more of them there is more to read, but fewer rows remain. How
    many do is estimated for queries and rows alike, normal scores, and results `_RESULT` standard deviations above
    their mean. One band has signs alone, since second bits are then a stage of their own.
    """
    if len(bands) == 1:
        return (1,)
    tell = [steps(d, band.nbits, int(w)) for band, w in zip(bands, windows, strict=True)]
    sizes = np.array([band.stop - band.start for band in bands])
    variance = np.square(spreads, dtype=np.float64) / d
    energy = sizes * variance / np.sum(sizes * variance)  # of queries
    unknown = np.full((len(bands), 4), np.inf)  # by band and number of bits
    for b, one in enumerate(tell):
        unknown[b, : len(one.unknown)] = one.unknown
    unknown *= (energy * variance)[:, None]
    scores = unknown[:, 0]
    counts = np.zeros(len(bands), np.int64)
    rows = np.arange(len(bands))
    best, chosen = math.inf, counts
    while np.isfinite(unknown[rows, counts + 1]).any():
        counts = counts.copy()
        counts[np.argmax((unknown[rows, counts] - unknown[rows, counts + 1]) / sizes)] += 1
        left = unknown[rows, counts]
        least = _RESULT * math.sqrt(scores.sum()) * float(energy[counts > 0].sum())
        short = Z * math.sqrt(left.sum())
        remain = math.erfc((least - short) / math.sqrt(2 * float((scores + left)[counts > 0].sum()))) / 2
        cost = float(np.sum(counts * sizes)) / 8 * _NS_A_BYTE + remain * _NS_A_ROW
        if cost < best:
            best, chosen = cost, counts
    return tuple(chosen.tolist())


def stage_tables(
    d: int,
    bands: tuple[Band, ...],
    windows: NDArray[np.int64],
    spreads: NDArray[np.float32],
    levels: NDArray[np.uint32],
) -> StageTables:
    """Tables for bands of whole bytes; `levels` (n_bands, 256) are the integer levels of the full scan."""
    counts = prefix_counts(d, bands, windows, spreads)
    tell = [steps(d, band.nbits, int(w)) for band, w in zip(bands, windows, strict=True)]
    source, level = [np.zeros(0, np.int64)], [np.zeros(0)]
    for b, (band, count) in enumerate(zip(bands, counts, strict=True)):
        for bit in range(count):
            source.append(np.arange(band.start, band.stop))
            level.append(np.full(band.stop - band.start, tell[b].worth[count - 1][bit] * spreads[b]))
    bits = np.concatenate(source), np.concatenate(level)
    filling = -bits[0].size % 32
    unknown = [one.unknown[count] / d for one, count in zip(tell, counts, strict=True)]
    share = second = slack = 0.0
    mask = 0
    if len(bands) == 1 and len(tell[0].worth) > 1:
        sign, second = tell[0].worth[1]
        share = sign / tell[0].worth[0][0]
        # Rounding of the tables: d/4 entries in steps of 1/31 of the largest sum of four, taken as 8/√d; of the query:
        # its largest entry is taken as 5/√d. The integers of the last stage are too fine to matter.
        rounding = (8 / TABLE_STEPS * sign) ** 2 / 48 + (5 / BYTE_STEPS * second) ** 2 / 12
        slack = Z * math.sqrt(tell[0].unknown[2] / d + rounding)
        mask = leading_planes(bands, windows, (2,))[1].mask
    tables = [level_bytes(levels[b], band.nbits, int(windows[b])) for b, band in enumerate(bands)]
    return StageTables(
        layout(bands, windows),
        np.array(tables),
        np.pad(bits[0], (0, filling)),
        np.pad(bits[1], (0, filling)).astype(np.float32),
        np.array(unknown) * np.square(spreads, dtype=np.float64),
        np.array(counts) == 0,
        share,
        second,
        mask,
        slack,
    )


def layout(bands: tuple[Band, ...], windows: NDArray[np.int64]) -> NDArray[np.int64]:
    """`StageTables.layout`."""
    rows = []
    start = entry = 0
    for band, w in zip(bands, windows, strict=True):
        size = (band.stop - band.start) // 8
        words = -(-size // 8)
        rows.append((start, size, band.nbits, int(w), entry, words))
        start += size * band.nbits
        entry += 64 * words
    return np.array(rows, np.int64)


def _bytes(padded: NDArray[np.float32], steps: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Each row in `steps` steps up to its largest entry, and the step, of shape (…, 1)."""
    unit = np.maximum(np.abs(padded).max(axis=-1, keepdims=True), np.float32(1e-30)) / np.float32(steps)
    return np.rint(padded / unit).astype(np.int8), unit


def batch_tables(
    bands: NDArray[np.int64],
    windows: NDArray[np.int64],
    spreads: NDArray[np.float32],
    directions: NDArray[np.float32],
    worth: NDArray[np.float64],
    unit: NDArray[np.float32],
) -> BatchTables:
    """A batch of queries, as `query_directions_portable` makes them."""
    nq, d = directions.shape
    level_steps, query_steps = kernel("product_steps")
    levels = [byte_levels(d, int(band[2]), int(w), level_steps) for band, w in zip(bands, windows, strict=True)]
    sizes = bands[:, 1] - bands[:, 0]
    starts = np.cumsum([0, *(-(-sizes // 64) * 64)])
    words = int(starts[-1]) // 64
    padded = np.zeros((nq + -nq % 32, words * 64), np.float32)
    variance = np.zeros(padded.shape[0])  # of estimates with exact queries
    energy = 0.0  # times the variance of rounded entries: what that adds
    for (start, stop, _), at, spread, one in zip(bands, starts, spreads, levels, strict=False):
        part = directions[:, start:stop]
        factor = float(spread) * one.unit
        padded[:nq, at : at + stop - start] = part * np.float32(factor)
        length = np.einsum("ij,ij->i", part, part, dtype=np.float64)
        variance[:nq] += length * one.variance * float(spread) ** 2
        energy += (stop - start) / d * one.energy
    rounded, byte_unit = _bytes(padded, query_steps)
    tiles = rounded.reshape(-1, 16, words, 16, 4).transpose(0, 2, 3, 1, 4).reshape(-1, words, 16, 64)
    integers = np.empty((nq, words * 64), np.int16)
    kernel("integer_queries")(directions, bands, 64, integers)
    factors = np.zeros(padded.shape[0])
    factors[:nq] = worth
    step_worth = byte_unit[:, 0] * factors
    slack = factors * Z * np.sqrt(variance + energy * byte_unit[:, 0].astype(np.float64) ** 2 / 12)
    return BatchTables(
        np.ascontiguousarray(tiles),
        step_worth.astype(np.float32),
        (slack - (level_steps + 1) * step_worth * rounded.sum(axis=1, dtype=np.int64)).astype(np.float32),
        integers,
        unit,
        np.array([one.planes for one in levels]),
        np.array([one.table for one in levels]),
        tile_config(),
    )
