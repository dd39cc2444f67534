"""Exact comparisons of vectors with many targets: products of integers, which any matrix product gives to the last bit.

A vector and a target are rounded to integers of a length below 4,096 each. By Cauchy-Schwarz no sum of some of their
products is beyond 2^24, where float32 stops to hold every integer. So float32 products are exact in any order: they
don't depend on the batch, the threads, the instruction set or the library that multiplies.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._threads import over_rows
from tqvec._types import Doubles, Floats, Ids

_EXACT = 4096.0  # squared, the first integer whose successor float32 does not hold
_ROWS = 256  # rounded at a time: as float64 they stay in the second-level cache
_COMPARED = 4096  # compared with all targets at a time
_LARGEST = 1e38  # factor that is kept: only where all targets are equal are there larger ones
TINY = 1e-30  # length of a vector that counts as 0 where directions alone are compared
NEAR = 1e-6  # of the length of the longest target: shorter vectors are as good as 0


class Points(NamedTuple):
    """Vectors as integers.

    Attributes
    ----------
    integers : (n, d) float32
    factor : (n,) float32
        The integers are the vector times this.
    """

    integers: Floats
    factor: Floats

    def take(self, rows: Ids) -> Points:
        """Return some of these vectors."""
        return Points(self.integers[rows], self.factor[rows])

    def slice(self, start: int, stop: int) -> Points:
        """Return consecutive vectors, without a copy."""
        return Points(self.integers[start:stop], self.factor[start:stop])


class Targets(NamedTuple):
    """What vectors are compared with, as integers.

    Attributes
    ----------
    integers : (k, d) float32
    bias : (k,) float32
        Subtracted from a product, times the factor of the vector: half the squared length, in the unit of the integers.
        Empty for inner products.
    reach : float
        Length of the longest target.
    unit : float
        Value of an integer of 1; 0 if all targets are 0.
    """

    integers: Floats
    bias: Floats
    reach: float
    unit: float

    def scores(self, points: Points) -> Floats:
        """Return the scores of all pairs, (n, k) float32: larger is nearer, comparable along a row alone."""
        scores: Floats = points.integers @ self.integers.T
        if self.bias.size:
            scores -= points.factor[:, None] * self.bias
        return scores

    def take(self, targets: Ids) -> Targets:
        """Return some of these targets."""
        return Targets(
            self.integers[targets], self.bias[targets] if self.bias.size else self.bias, self.reach, self.unit
        )

    def slice(self, start: int, stop: int) -> Targets:
        """Return consecutive targets, without a copy."""
        return Targets(self.integers[start:stop], self.bias[start:stop], self.reach, self.unit)


def lengths(rows: NDArray) -> Doubles:
    """Return the length of each row.

    NumPy sums consecutive float64 numbers in one order, whatever the processor.
    """
    length: Doubles = np.sqrt(np.square(rows, dtype=np.float64, order="C").sum(axis=1))
    return length


def longest(d: int) -> float:
    """Return the length of integer vectors before they are rounded."""
    return _EXACT - 1.0 - np.sqrt(d) / 2


def to_points(rows: Floats, reach: float = 0.0, threads: int = 1) -> Points:
    """Round each row to integers, by a factor of its own.

    Parameters
    ----------
    rows : (n, d) float32
    reach : float
        Length of the longest target; much shorter rows count as 0.
    threads : int
    """
    n, d = rows.shape
    out = Points(np.empty((n, d), np.float32), np.empty(n, np.float32))

    def round_rows(_: int, first: int, last: int) -> None:
        for start in range(first, last, _ROWS):
            part = slice(start, min(last, start + _ROWS))
            wide = rows[part].astype(np.float64)
            length = np.maximum(lengths(wide), NEAR * reach)
            factor = longest(d) / np.where(length > 0, length, 1)
            wide *= factor[:, None]
            np.rint(wide, out=wide)
            out.integers[part], out.factor[part] = wide, np.minimum(factor, _LARGEST)

    over_rows(round_rows, n, _ROWS, threads)
    return out


def to_targets(rows: Floats, euclidean: bool) -> Targets:
    """Round targets to integers, by a factor that all share.

    Parameters
    ----------
    rows : (k, d) float32
    euclidean : bool
        Whether the nearest target is the one at the smallest distance, or the one of the largest inner product.
    """
    length = lengths(rows)
    reach = float(length.max())
    factor = longest(rows.shape[1]) / reach if reach > 0 else 0.0
    integers = np.empty(rows.shape, np.float32)
    for start in range(0, len(rows), _ROWS):
        part = slice(start, start + _ROWS)
        integers[part] = np.rint(rows[part].astype(np.float64) * factor)
    bias = (length * length * (factor / 2)).astype(np.float32) if euclidean else np.empty(0, np.float32)
    return Targets(integers, bias, reach, unit=reach / longest(rows.shape[1]))


def nearest(points: Points, targets: Targets) -> Ids:
    """Return the nearest target of each vector, (n,) int64; of equally near ones the first."""
    best: Ids = np.empty(len(points.factor), np.int64)
    for start in range(0, best.size, _COMPARED):
        stop = start + _COMPARED
        best[start:stop] = targets.scores(points.slice(start, stop)).argmax(axis=1)
    return best
