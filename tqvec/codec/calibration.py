"""Calibration: the centre, the principal axes and the widths of bands that a codec learns from a sample.

The "Calibration" page has the derivations, and the measurements behind each choice.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._present import brief
from tqvec._types import Bytes, Doubles, Floats, Ids
from tqvec.codec.axes import Axes
from tqvec.codec.bands import MAX_BANDS, MAX_NBITS, Band, code_bytes
from tqvec.codec.codebooks import scalar, trellis
from tqvec.codec.codebooks.codebook import Codebook
from tqvec.codec.served import score_rows
from tqvec.codec.transforms import Transform, dense, hadamard, rotate, spread, weigh
from tqvec.errors import InputError
from tqvec.kernels import plain
from tqvec.kernels.background import ready
from tqvec.kernels.dispatch import kernel

MAX_D = 8192  # the matrix is dense
LEAST_GROUPS = {"scalar": (8,), "trellis": (trellis.MIN_COORDINATES, 32)}  # axes of the smallest group, to choose from
_WEIGHT = 1.5  # power of an axis' share: 1 would give the least squared error of vectors, 2 of random scores
_DROPPED = 1.75  # cost of an axis without bits, in place of D = 1: what a score loses by it is not random
_LEAST_DISTORTION = 0.005  # of codecs whose vectors are rounded to bytes: that adds 0.0001, and noise to error bars
_FIRST_ROUND = 8  # of the rotations inside bands; those before belong to the codec's own rotation and projection


class Calibration(NamedTuple):
    """A centre, axes and bands to replace the rotation and the bands of a codec that knows nothing of the data.

    Attributes
    ----------
    centre : (d,) float32
        Subtracted from every vector before it is coded.
    matrix : (d, d) float32 or int8
        Principal axes, rotated at random inside each band; those of a band are multiplied by √(g / largest g), where
        g = 1/(1 − D) undoes the shrinkage of its codebook. In bytes it stands for ``row_steps[:, None] * matrix``, and
        for what follows `tqvec.codec.transforms.spread`; vectors are then rounded to bytes too.
    bands : tuple of Band
        In the order of variance. Coordinates after the last band are not stored.
    band_std : (n_bands,) float32
        Factor of the levels of each band: its standard deviation for residuals of length √d, times that of `matrix`.
    near_error : (2,) float32
        Mean and standard deviation of the errors of near neighbours' scores, in units of the standard deviation that
        follows from the codebooks (see the "Error bars" page). Codes don't depend on it.
    row_steps : (d,) or (0,) float32
        Step of the bytes of each row of `matrix`; none if it is float32.
    """

    centre: Floats
    matrix: NDArray[Any]
    bands: tuple[Band, ...]
    band_std: Floats
    near_error: Floats = np.array([0, 1], np.float32)
    row_steps: Floats = np.zeros(0, np.float32)

    @property
    def in_bytes(self) -> bool:
        """Whether the matrix is one of bytes."""
        return self.matrix.dtype == np.int8

    def owned(self) -> Calibration:
        """Return a copy in arrays of its own, of the types above."""
        try:
            names = ("centre", "band_std", "near_error", "row_steps")
            arrays: dict[str, Any] = {name: np.array(getattr(self, name), np.float32) for name in names}
            matrix = np.asarray(self.matrix)
            arrays["matrix"] = np.array(matrix, np.int8 if matrix.dtype == np.int8 else np.float32)
            return self._replace(bands=tuple(Band(*map(operator.index, band)) for band in self.bands), **arrays)
        except (TypeError, ValueError) as error:
            raise InputError(f"calibration must have arrays of numbers, and bands of integers: {error}") from error

    def __repr__(self) -> str:
        return brief(self)

    def check(self, d: int) -> None:
        """Refuse a calibration that no codec of dimension `d` can use.

        Raises
        ------
        InputError
            Wrong shapes, numbers that are not finite, or bands that do not follow each other from 0.
        """
        n = len(self.bands)
        shapes = (self.centre.shape, self.matrix.shape, self.band_std.shape)
        if shapes != ((d,), (d, d), (n,)):
            raise InputError(f"calibration must have arrays of shapes ({d},), ({d}, {d}), ({n},), got {shapes}")
        if not (np.isfinite(self.centre).all() and np.isfinite(self.matrix).all()):
            raise InputError("calibration holds NaN or Inf")
        if self.row_steps.shape != ((d,) if self.in_bytes else (0,)) or not np.isfinite(self.row_steps).all():
            raise InputError(f"row_steps of a calibration must be {d} numbers for a matrix of bytes, and else none")
        if not (np.all(self.band_std > 0) and np.isfinite(self.band_std).all()):
            raise InputError("band_std of a calibration must be positive")
        if self.near_error.shape != (2,) or not np.isfinite(self.near_error).all() or self.near_error[1] < 0:
            raise InputError(
                f"near_error of a calibration must be a mean and a standard deviation, got {self.near_error}"
            )
        starts = [0, *(band.stop for band in self.bands)]
        if not 1 <= n <= MAX_BANDS or starts[-1] > d:
            raise InputError(f"calibration must have 1 to {MAX_BANDS} bands within {d} coordinates, got {self.bands}")
        for start, band in zip(starts, self.bands, strict=False):
            if band.start != start or band.stop <= start or not 1 <= band.nbits <= MAX_NBITS:
                raise InputError(f"calibration has a band out of place or range: {band}")


class CalibratedTransform(Transform):
    """The map of vectors to their coordinates on the axes of a calibration, from its centre."""

    def __init__(self, calibration: Calibration, codebook: Codebook) -> None:
        matrix, steps = calibration.matrix, calibration.row_steps
        tables = weigh(matrix, steps) if calibration.in_bytes else dense(matrix)
        super().__init__("calibrated", tables, codebook, calibration.centre, calibration.band_std)

    @property
    def learned(self) -> tuple[NDArray[Any], ...]:
        """The centre, and the matrix if it is one of bytes."""
        d, tables = self._codebook.d, self._tables
        return (self._centre, *((tables.weights[:d, :d], tables.weight_steps[:d]) if tables.weights.size else ()))

    def centre_products(self, queries: Floats) -> Doubles:
        """Return the product of each query with the centre, (nq,): the part of a score that no code holds."""
        return np.einsum("ij,j->i", queries, self._centre, dtype=np.float64)

    def subtract_centre(self, rows: Floats, unit: bool) -> Floats:
        """Return rows, or their directions if `unit`, less the centre; beyond float32 they are infinite or NaN."""
        if unit:
            directions = np.empty_like(rows)
            if ready("train"):
                kernel("unit_rows")(rows, 0, rows.shape[0], directions)
            else:
                plain.unit_rows(rows, directions)
            rows = directions
        with np.errstate(over="ignore", invalid="ignore"):
            residuals: Floats = rows - self._centre
        return residuals

    def code_lengths(self, lengths: Doubles, unit: bool) -> Doubles:
        """Return the lengths of the residuals."""
        return lengths

    def decoded_energy(self, data: Bytes, energy: Doubles, threads: int) -> Doubles:
        """Return the squared lengths of the vectors that codes stand for, given the sums of their squared levels.

        The axes of a band and its levels c are multiplied by f. Decoded vectors have f²c on an axis, so of the energy
        f²c² only f⁴c² counts: the difference, which is small, is taken off.
        """
        tables = self._codebook.tables._replace(centroids=np.square(self._codebook.tables.centroids))
        excess = np.repeat(1 - self.band_factors, [band.stop - band.start for band in self._codebook.bands])
        query = np.zeros((1, self._codebook.d), np.float32)
        query[0, : excess.size] = excess
        n = data.shape[0]
        if data.dtype != np.uint8 or data.shape != (n, code_bytes(self._codebook.bands)):
            raise InputError(f"data must be packed codes of this codec, got {data.dtype} of shape {data.shape}")
        return energy - score_rows(data, np.ones(n, np.float32), tables, query, threads)[0]

    @property
    def shares(self) -> Doubles:
        """Part of the squared length of the sample's residuals that lies in each band, (n_bands,)."""
        counts = np.array([band.stop - band.start for band in self._codebook.bands])
        shrinkage = self._codebook.shrinkage
        return counts / self._codebook.d * np.square(self._band_std, dtype=np.float64) * shrinkage / shrinkage.min()

    @property
    def band_factors(self) -> Doubles:
        """Squared length of the rows of the matrix that belong to each band, (n_bands,)."""
        shrinkage = self._codebook.shrinkage
        return shrinkage.min() / shrinkage

    @property
    def distortion(self) -> float:
        """Expected squared error of a decoded vector whose squared distance to the centre is 1."""
        return float(1 - np.sum(self.shares * self._codebook.shrinkage))

    def decode_factors(self) -> tuple[np.float32, Floats]:
        """Return the factors that turn unbiased vectors into least-squares ones: of the scales, and (n_bands, 1)."""
        return np.float32(self.shares.sum()), self._codebook.shrinkage[:, None].astype(np.float32)


class Budget(NamedTuple):
    """The bits that a calibration may spend, and on which codebook.

    Attributes
    ----------
    bits : int
        Bits of all codes of a vector.
    codebook : {"scalar", "trellis"}
    seed : int
        Seed of the rotations inside bands.
    """

    bits: int
    codebook: str
    seed: int


def distortions(d: int, codebook: str) -> list[float]:
    """Return the expected squared error D of each width, from 0 bits on."""
    if codebook == "trellis":
        return [1.0, *(trellis.distortion(d, nbits) for nbits in range(1, trellis.MAX_NBITS + 1))]
    return [scalar.distortion(d, nbits) for nbits in range(MAX_NBITS + 1)]


def group_edges(d: int, least: int) -> Ids:
    """Return the starts of the groups of axes that share a width, and d.

    All groups have one size but the last, which takes the rest too. The size is the largest of 64, 32, 16 and 8 that
    makes twelve groups, but not below `least`. Kernels are fastest on bands of whole words.
    """
    size = next((size for size in (64, 32, 16, 8) if size <= d // 12), 8)
    size = max(size, least)
    return np.array([*range(0, d - size + 1, size), d] if d >= 2 * size else [0, d])


def allocate(weights: Doubles, edges: Ids, budget: Budget, table: list[float]) -> list[Band]:
    """Choose widths by reverse water-filling: the next bit goes where it lowers the weighted error most per bit.

    Parameters
    ----------
    weights : (d,) float64
        Cost of an error D = 1 on each axis.
    edges : (n_groups + 1,) int64
    budget : Budget
    table : list of float
        D of each width, from 0 bits on.

    Returns
    -------
    list of Band
        At most 8, with falling widths; axes without bits have no band.
    """
    sizes = np.diff(edges)
    means = np.add.reduceat(weights, edges[:-1]) / sizes
    widths = np.zeros(sizes.size, np.int64)
    gains = -np.diff(np.array([*table, table[-1]]))  # of one bit more; the widest gains nothing
    left = budget.bits
    while True:
        gain = np.where(sizes <= left, means * gains[widths], 0.0)
        best = int(np.argmax(gain))
        if gain[best] <= 0:
            break
        widths[best] += 1
        left -= int(sizes[best])
    cuts = [0, *(np.flatnonzero(np.diff(widths)) + 1), widths.size]
    bands = [Band(int(edges[a]), int(edges[b]), int(widths[a])) for a, b in pairwise(cuts)]
    return [band for band in bands if band.nbits]


def choose_bands(weights: Doubles, budget: Budget) -> list[Band]:
    """Choose bands, with the least group size whose expected cost is least.

    Short bands of a trellis have a larger error, because of tail-biting (see the "Trellis codebook" page). `allocate`
    doesn't know that while it makes them, so there are groups of two sizes to choose from.
    """
    d = weights.size
    table = [_DROPPED, *distortions(d, budget.codebook)[1:]]

    def cost(bands: list[Band]) -> float:
        total = _DROPPED * float(weights[bands[-1].stop :].sum())
        for band in bands:
            own = distortions(band.stop - band.start, "trellis") if budget.codebook == "trellis" else table
            total += own[band.nbits] * float(weights[band.start : band.stop].sum())
        return total

    least = LEAST_GROUPS[budget.codebook]
    return min((allocate(weights, group_edges(d, size), budget, table) for size in least), key=cost)


def _rotate_axes(axes: Floats, first_round: int, seed: int) -> Floats:
    """Rotate the axes (columns) of one band among themselves; return an axis per row, float32."""
    rows = np.ascontiguousarray(axes, np.float32)
    return rotate(rows, hadamard(rows.shape[1], seed, first_round)).T


def calibrate(sample: Axes, budget: Budget, bands: Sequence[Band] | None = None) -> Calibration:
    """Make a calibration of the axes of a sample.

    Parameters
    ----------
    sample : Axes
    budget : Budget
    bands : sequence of Band, optional
        Bands to use, of another calibration. Default: those of `choose_bands` for the sample.

    Returns
    -------
    Calibration
    """
    centre, axes, shares = sample
    d = centre.size
    table = distortions(d, budget.codebook)
    if bands is None:
        bands = choose_bands(shares**_WEIGHT, budget)
    gain = np.sqrt([1 / (1 - table[band.nbits]) for band in bands])
    gain /= gain.max()
    matrix = np.ascontiguousarray(axes.T, np.float32)
    error = 1.0
    band_std = np.empty(len(bands), np.float32)
    for i, band in enumerate(bands):
        part = slice(band.start, band.stop)
        matrix[part] = _rotate_axes(axes[:, part], _FIRST_ROUND + 4 * i, budget.seed) * np.float32(gain[i])
        band_std[i] = gain[i] * np.sqrt(d * shares[part].mean())
        error -= float(shares[part].sum()) * (1 - table[band.nbits])
    calibration = Calibration(centre=centre, matrix=matrix, bands=tuple(bands), band_std=band_std)
    return _round_matrix(calibration) if error >= _LEAST_DISTORTION else calibration


def _round_matrix(calibration: Calibration) -> Calibration:
    """Return a calibration with its matrix in bytes."""
    rows = rotate(calibration.matrix, spread(calibration.matrix.shape[0]))
    steps = np.abs(rows).max(axis=1) / np.float32(127)
    return calibration._replace(matrix=np.rint(rows / steps[:, None]).astype(np.int8), row_steps=steps)
