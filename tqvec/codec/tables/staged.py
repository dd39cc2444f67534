"""The tables of the staged search: estimates of levels from a few bits of a code, and their errors.

The README of kernels/staged has the derivation. `windows`, as in `QuantizerTables`, is 0 for the scalar codebook and
positive for a trellis.
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
    """Return the mean centroid of each prefix of `planes` bits, and e_p, their expected squared length.

    Both are for a unit vector. The means are (2**planes,) float64.
    """
    c = scalar.centroids(d, nbits).reshape(2**planes, -1)
    p = scalar.probabilities(d, nbits).reshape(2**planes, -1)
    mass = p.sum(axis=1)
    means = np.where(mass > 0, (p * c).sum(axis=1) / np.where(mass > 0, mass, 1), c.mean(axis=1))
    return means, float(d * np.sum(mass * means * means))


def plane_order(windows: int) -> NDArray[np.int64]:
    """Return the index of `QuantizerTables` that each of the 128 indices of the staged kernels stands for.

    State windows of the staged kernels are bits of the path plane in their order, the oldest one lowest.
    """
    index = np.arange(128)
    window = sum((index >> k & 1) << (windows - 1 - k) for k in range(windows))
    return index >> windows << windows | window


def level_bytes(levels: NDArray[np.uint32], nbits: int, windows: int) -> NDArray[np.uint8]:
    """Return the row of `StageTables.level_bytes` of a band with integer levels (256,)."""
    words = levels.astype(np.uint16)
    if windows > 0:
        words = words[plane_order(windows)]
    narrow = windows == 0 and nbits <= 4
    entries = words[:32].view(np.uint8) if narrow else np.concatenate([words & 255, words >> 8])
    table = np.zeros(TABLE_BYTES, np.uint8)
    table[: entries.size] = entries
    return table


@lru_cache(maxsize=64)
def full_energy(d: int, nbits: int, windows: int) -> float:
    """Return e_b = 1 − D, the expected squared length of the levels; for a trellis in the limit of large d."""
    if windows == 0:
        return 1.0 - scalar.distortion(d, nbits)
    return float(d * np.sum(trellis.probabilities(nbits) * trellis.table(d, nbits) ** 2))


class PrefixPlane(NamedTuple):
    """One bit of all codes of a band, as part of a prefix: a plane of the row, or a parity of one.

    Attributes
    ----------
    band : int
    start, size : int
        First bit in a row, and bits, of the plane.
    mask : int
        0, or the bits of a state window, the newest lowest, whose parity is the bit.
    """

    band: int
    start: int
    size: int
    mask: int


def prefix_planes(bands: tuple[Band, ...], windows: NDArray[np.int64], counts: Sequence[int]) -> list[PrefixPlane]:
    """Return the planes of the first `counts` bits of each band, two at most."""
    planes = []
    start = 0
    for b, band in enumerate(bands):
        size = band.stop - band.start
        masks = trellis.parity_masks(band.nbits) if windows[b] > 0 else ()
        for bit in range(counts[b]):
            mask = masks[bit] & (2 ** int(windows[b]) - 1) if masks else 0
            at = band.nbits - 1 if mask else bit  # parities are of the path plane, the last
            planes.append(PrefixPlane(b, start + at * size, size, mask))
        start += size * band.nbits
    return planes


class BitStatistics(NamedTuple):
    """Estimates of levels from the first bits of codes, for a unit vector and bands that all have its d coordinates.

    Attributes
    ----------
    weights : list of list of float
        For none, one and two bits: the weight of each, as ±1, in the estimate of a level, times e_b / e_p.
    unknown : list of float
        For none, one and two bits: d times the variance of scores that they leave open.
    """

    weights: list[list[float]]
    unknown: list[float]


@lru_cache(maxsize=64)
def bit_statistics(d: int, nbits: int, windows: int) -> BitStatistics:
    """Compute `BitStatistics` of a width and a codebook."""
    full = full_energy(d, nbits, windows)
    means = trellis.prefix_means if windows > 0 else prefix_means
    signs, energy = means(d, nbits, 1)
    weights = [[], [float(signs[1]) * full / energy]]
    energies = [energy]
    if windows > 0 or nbits > 1:
        twos, energy = means(d, nbits, 2)
        # Means of two bits are -b, -a, a, b: the sign has weight (a + b) / 2, and the second bit, as ±1, (b - a) / 2.
        weights.append([float(twos[-1] + other) / 2 * full / energy for other in (twos[-2], -twos[-2])])
        energies.append(energy)
    unknown = [full, *(full * full * max(0.0, 1 / energy - 1 / full) for energy in energies)]
    return BitStatistics(weights, unknown)


_NS_PER_BYTE = 0.036  # to read a byte of the prefix and look it up
_NS_PER_ROW = 90.0  # for a full score
_RESULT = 5.0  # standard deviations of a result above the mean score: neighbours stand out more than normal tails


def prefix_counts(
    d: int, bands: tuple[Band, ...], windows: NDArray[np.int64], spreads: NDArray[np.float32]
) -> tuple[int, ...]:
    """Choose how many first bits of each band go into the prefix: those that take the least time, by estimate.

    Bits are added where they explain most of a score. More bits take more time to read, but leave fewer rows. The share
    of rows that remains is estimated for rows distributed like queries, normal scores, and results `_RESULT` standard
    deviations above their mean. A codec of one band has its signs alone: second bits are then a stage of their own.
    """
    if len(bands) == 1:
        return (1,)
    sizes = np.array([band.stop - band.start for band in bands])
    variance = np.square(spreads, dtype=np.float64) / d
    energy = sizes * variance / np.sum(sizes * variance)  # of queries
    unknown = np.full((len(bands), 4), np.inf)  # by band and number of bits
    for b, (band, w) in enumerate(zip(bands, windows, strict=True)):
        left = bit_statistics(d, band.nbits, int(w)).unknown
        unknown[b, : len(left)] = np.array(left) * energy[b] * variance[b]
    counts = np.zeros(len(bands), np.int64)
    rows = np.arange(len(bands))
    best, chosen = math.inf, counts
    while np.isfinite(unknown[rows, counts + 1]).any():
        counts = counts.copy()
        counts[np.argmax((unknown[rows, counts] - unknown[rows, counts + 1]) / sizes)] += 1
        remain = _remaining(energy, unknown[:, 0], unknown[rows, counts], counts > 0)
        cost = float(np.sum(counts * sizes)) / 8 * _NS_PER_BYTE + remain * _NS_PER_ROW
        if cost < best:
            best, chosen = cost, counts
    return tuple(chosen.tolist())


def _remaining(
    energy: NDArray[np.float64], scores: NDArray[np.float64], unknown: NDArray[np.float64], seen: NDArray[np.bool_]
) -> float:
    """Return the share of rows that a prefix lets through; the README of kernels/staged has the variances.

    All arguments are (n_bands,): the share of a query's squared length in a band, the variance of scores there, the
    part of it that the prefix leaves open, and whether it has bits of the band. The factor for skipped bands is left
    out.
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
    """Make the tables of a codec; every plane of its prefix is filled up to whole bytes.

    `levels` (n_bands, 256) are the integer levels of the full scan, `counts` the result of `prefix_counts`.
    """
    statistics = [bit_statistics(d, band.nbits, int(w)) for band, w in zip(bands, windows, strict=True)]
    planes = prefix_planes(bands, windows, counts)
    weights = [x * float(spreads[b]) for b, of_band in enumerate(statistics) for x in of_band.weights[counts[b]]]
    starts = np.cumsum([0, *(-(-plane.size // 8) * 8 for plane in planes)])
    source = np.zeros(starts[-1] + -starts[-1] % 32, np.int64)
    level = np.zeros(source.size, np.float32)
    for plane, weight, at in zip(planes, weights, starts, strict=False):
        source[at : at + plane.size] = np.arange(bands[plane.band].start, bands[plane.band].stop)
        level[at : at + plane.size] = weight
    per_score = np.square(spreads, dtype=np.float64) / d
    unknown = [of_band.unknown[count] for of_band, count in zip(statistics, counts, strict=True)]
    sign_share, second_level, second_mask, second_slack = _second_stage(d, bands, windows, float(spreads[0]))
    return StageTables(
        layout=layout(bands, windows),
        level_bytes=np.array([level_bytes(levels[b], band.nbits, int(windows[b])) for b, band in enumerate(bands)]),
        prefix_source=source,
        prefix_level=level,
        scores=np.array([of_band.unknown[0] for of_band in statistics]) * per_score,
        unknown=np.array(unknown) * per_score,
        skipped=np.array(counts) == 0,
        sign_share=sign_share,
        second_level=second_level,
        second_mask=second_mask,
        second_slack=second_slack,
    )


def layout(bands: tuple[Band, ...], windows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return `StageTables.layout`."""
    rows = []
    start = entry = 0
    for band, w in zip(bands, windows, strict=True):
        size = band.stop - band.start
        words = -(-size // 64)
        rows.append((start, size, band.nbits, int(w), entry, words))
        start += size * band.nbits
        entry += 64 * words
    return np.array(rows, np.int64)


def _second_stage(
    d: int, bands: tuple[Band, ...], windows: NDArray[np.int64], spread: float
) -> tuple[float, float, int, float]:
    """Return the last four fields of `StageTables`; all are 0 unless there is one band, with a second bit to read."""
    statistics = bit_statistics(d, bands[0].nbits, int(windows[0]))
    if len(bands) > 1 or len(statistics.weights) == 2:
        return 0.0, 0.0, 0, 0.0
    sign, second = statistics.weights[2]
    # Rounding of the tables: d/4 entries in steps of 1/31 of the largest sum of four, taken as 8/√d; of the query: its
    # largest entry is taken as 5/√d. The integers of the last stage are too fine to matter.
    rounding = (8 / TABLE_STEPS * sign) ** 2 / 48 + (5 / BYTE_STEPS * second) ** 2 / 12
    slack = Z * spread * math.sqrt(statistics.unknown[2] / d + rounding)
    mask = prefix_planes(bands, windows, (2,))[1].mask
    return sign / statistics.weights[1][0], second * spread, mask, slack
