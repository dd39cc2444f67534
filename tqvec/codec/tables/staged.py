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

from tqvec.codec.bands import Band
from tqvec.codec.codebooks import scalar, trellis
from tqvec.kernels.tables import BYTE_STEPS, TABLE_BYTES, TABLE_STEPS, StageTables, Z


def prefix_means(d: int, nbits: int, planes: int) -> tuple[NDArray[np.float64], float]:
    """Mean centroid of each prefix of `planes` bits, and e_p, their expected squared length for a unit vector."""
    c = scalar.centroids(d, nbits).reshape(2**planes, -1)
    p = scalar.probabilities(d, nbits).reshape(2**planes, -1)
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


@lru_cache(maxsize=64)
def full_energy(d: int, nbits: int, windows: int) -> float:
    """e_b, the expected squared length of the levels: 1 − D; of a trellis for large d, like its `probabilities`."""
    if windows == 0:
        return 1.0 - scalar.distortion(d, nbits)
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
        For none, one and two bits: what each, as ±1, adds to an estimate of the level, times e_b / e_p.
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
    worth = [[], [float(signs[1]) * full / energy]]
    energies = [energy]
    if windows > 0 or nbits > 1:
        twos, energy = means(d, nbits, 2)
        # Means of two bits: -b, -a, a, b. The sign is worth (a + b) / 2; the second bit, as ±1, (b - a) / 2.
        worth.append([float(twos[-1] + other) / 2 * full / energy for other in (twos[-2], -twos[-2])])
        energies.append(energy)
    return Steps(worth, [full, *(full * full * max(0.0, 1 / energy - 1 / full) for energy in energies)])


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
    sizes = np.array([band.stop - band.start for band in bands])
    variance = np.square(spreads, dtype=np.float64) / d
    energy = sizes * variance / np.sum(sizes * variance)  # of queries
    unknown = np.full((len(bands), 4), np.inf)  # by band and number of bits
    for b, (band, w) in enumerate(zip(bands, windows, strict=True)):
        left = steps(d, band.nbits, int(w)).unknown
        unknown[b, : len(left)] = np.array(left) * energy[b] * variance[b]
    counts = np.zeros(len(bands), np.int64)
    rows = np.arange(len(bands))
    best, chosen = math.inf, counts
    while np.isfinite(unknown[rows, counts + 1]).any():
        counts = counts.copy()
        counts[np.argmax((unknown[rows, counts] - unknown[rows, counts + 1]) / sizes)] += 1
        remain = _remaining(energy, unknown[:, 0], unknown[rows, counts], counts > 0)
        cost = float(np.sum(counts * sizes)) / 8 * _NS_A_BYTE + remain * _NS_A_ROW
        if cost < best:
            best, chosen = cost, counts
    return tuple(chosen.tolist())


def _remaining(
    energy: NDArray[np.float64], scores: NDArray[np.float64], unknown: NDArray[np.float64], seen: NDArray[np.bool_]
) -> float:
    """Share of rows that a prefix lets through; README.md of kernels/staged has the variances.

    All arguments are (n_bands,): how much of a query's squared length a band has, the variance of scores there, what of
    it the prefix leaves, and whether it has bits of the band. All is told before the factor for bands it skips.
    """
    share = float(energy[seen].sum())
    error = unknown[seen].sum() + (1 - share) ** 2 * scores[seen].sum() + share**2 * scores[~seen].sum()
    least = _RESULT * math.sqrt(scores.sum()) * share - Z * math.sqrt(error)
    return math.erfc(least / math.sqrt(2 * float((scores + unknown)[seen].sum()))) / 2


def stage_tables(
    d: int,
    bands: tuple[Band, ...],
    windows: NDArray[np.int64],
    spreads: NDArray[np.float32],
    levels: NDArray[np.uint32],
    counts: Sequence[int],
) -> StageTables:
    """Tables for bands of whole bytes.

    `levels` (n_bands, 256) are the integer levels of the full scan, `counts` what `prefix_counts` gives.
    """
    tell = [steps(d, band.nbits, int(w)) for band, w in zip(bands, windows, strict=True)]
    planes = leading_planes(bands, windows, counts)
    source = np.concatenate([np.arange(bands[plane.band].start, bands[plane.band].stop) for plane in planes])
    worth = [x * float(spreads[b]) for b, one in enumerate(tell) for x in one.worth[counts[b]]]
    filling = (0, -source.size % 32)
    per_score = np.square(spreads, dtype=np.float64) / d
    return StageTables(
        layout(bands, windows),
        np.array([level_bytes(levels[b], band.nbits, int(windows[b])) for b, band in enumerate(bands)]),
        np.pad(source, filling),
        np.pad(np.repeat(worth, [8 * plane.size for plane in planes]), filling).astype(np.float32),
        np.array([one.unknown[0] for one in tell]) * per_score,
        np.array([one.unknown[count] for one, count in zip(tell, counts, strict=True)]) * per_score,
        np.array(counts) == 0,
        *_second_stage(d, bands, windows, float(spreads[0])),
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


def _second_stage(
    d: int, bands: tuple[Band, ...], windows: NDArray[np.int64], spread: float
) -> tuple[float, float, int, float]:
    """The last four fields of `StageTables`: all 0 unless there is one band, of more than one bit to judge by."""
    told = steps(d, bands[0].nbits, int(windows[0]))
    if len(bands) > 1 or len(told.worth) == 2:
        return 0.0, 0.0, 0, 0.0
    sign, second = told.worth[2]
    # Rounding of the tables: d/4 entries in steps of 1/31 of the largest sum of four, taken as 8/√d; of the query: its
    # largest entry is taken as 5/√d. The integers of the last stage are too fine to matter.
    rounding = (8 / TABLE_STEPS * sign) ** 2 / 48 + (5 / BYTE_STEPS * second) ** 2 / 12
    slack = Z * spread * math.sqrt(told.unknown[2] / d + rounding)
    mask = leading_planes(bands, windows, (2,))[1].mask
    return sign / told.worth[1][0], second * spread, mask, slack
