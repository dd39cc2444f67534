"""Bands: runs of rotated coordinates that share a width. A plain codec has one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec import _validate
from tqvec.errors import InputError
from tqvec.kernels.tables import QuantizerTables

MAX_D = 65536
MAX_NBITS = 8
MAX_BANDS = 8
FRACTIONAL = (2.5, 3.5)

Pairs = tuple[tuple[int, int], ...]
Width = float | Sequence[tuple[int, int]]  # what `nbits` may be; an int is a float to a type checker

_INT32_HEADROOM = 64000  # bound on the length of an integer code vector; kernels/scan/README.md has the proof


class Band(NamedTuple):
    """Coordinates ``start .. stop`` are coded with `nbits` bits each."""

    start: int
    stop: int
    nbits: int


def parse(nbits: object, d: int) -> tuple[int | float | Pairs, tuple[Band, ...]]:
    """Return `nbits` in its canonical form, and the bands of `d` coordinates that it stands for.

    Parameters
    ----------
    nbits : int, float or sequence of (coordinates, width)
        1 to 8; 2.5 or 3.5, where the first ⌊d/4⌋ coordinates get one bit more than the rest (the KV cache experiments
        of arXiv 2504.19874); or the bands themselves, at most 8, in order.
    d : int

    Raises
    ------
    InputError
        Anything else, or bands that do not add up to `d`.
    """
    if isinstance(nbits, (list, tuple)):
        pairs = check_pairs(nbits, "nbits", d)
        total = sum(count for count, _ in pairs)
        if total != d:
            raise InputError(f"nbits must have bands that add up to d={d} coordinates, got {total}")
        return pairs, _bands(pairs)
    if isinstance(nbits, float) and nbits in FRACTIONAL:
        narrow, wide = int(nbits), d // 4
        return float(nbits), _bands(((wide, narrow + 1), (d - wide, narrow)))
    try:
        width = _validate.integer(nbits, "nbits", 1, MAX_NBITS)
    except InputError:
        raise InputError(
            f"nbits must be an integer from 1 to {MAX_NBITS}, 2.5, 3.5 or a list of (coordinates, width), got {nbits!r}"
        ) from None
    return width, _bands(((d, width),))


def check_pairs(value: Sequence[object], name: str, most: int = MAX_D) -> Pairs:
    """Return pairs of coordinates, up to `most`, and widths as integers; `name` is the argument's, for messages."""
    if not 1 <= len(value) <= MAX_BANDS:
        raise InputError(f"{name} must have 1 to {MAX_BANDS} bands, got {len(value)}")
    pairs = []
    for i, pair in enumerate(value):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise InputError(f"{name}[{i}] must be a pair (coordinates, width), got {pair!r}")
        count = _validate.integer(pair[0], f"coordinates of {name}[{i}]", 1, most)
        pairs.append((count, _validate.integer(pair[1], f"width of {name}[{i}]", 1, MAX_NBITS)))
    return tuple(pairs)


def _bands(pairs: Pairs) -> tuple[Band, ...]:
    """Return consecutive bands, without those of no coordinates."""
    bands = []
    start = 0
    for count, width in pairs:
        if count:
            bands.append(Band(start, start + count, width))
        start += count
    return tuple(bands)


def mean(d: int, bands: tuple[Band, ...], values: Sequence[float]) -> float:
    """Return the mean over all `d` coordinates of a value per band; coordinates after the last band count as 0."""
    return float(sum((band.stop - band.start) / d * value for band, value in zip(bands, values, strict=True)))


def code_bytes(bands: tuple[Band, ...]) -> int:
    """Return the bytes of one vector's packed codes."""
    return (sum((b.stop - b.start) * b.nbits for b in bands) + 7) // 8


class IntegerLevels(NamedTuple):
    """The centroids as int16, for the integer scan.

    Attributes
    ----------
    levels : (n_bands, 256) uint32
        The low 16 bits are an int16.
    pairs : (n_bands, 256) uint32
        Scalar bands of at most 4 bits: levels of codes c (low half) and e, at index c + 16 e.
    unit : float
        Value of an integer level of 1.
    """

    levels: NDArray[np.uint32]
    pairs: NDArray[np.uint32]
    unit: float


def integer_steps(d: int, largest: float) -> float:
    """Return the integer steps per unit for levels up to `largest`, as many as the overflow bound allows."""
    return float(min(_INT32_HEADROOM / (np.sqrt(d) * largest), 32767 / largest))


def integer_levels(d: int, tables: QuantizerTables) -> IntegerLevels:
    """Round the centroids to int16 as finely as the overflow bound allows."""
    per_unit = integer_steps(d, float(np.max(np.abs(tables.centroids))))
    rounded = np.rint(tables.centroids.astype(np.float64) * per_unit).astype(np.int16)
    levels = rounded.view(np.uint16).astype(np.uint32)
    pairs = np.zeros_like(levels)
    for i in range(levels.shape[0]):
        if tables.bands[i, 2] <= 4 and tables.windows[i] == 0:
            pairs[i] = (levels[i, :16][None, :] | levels[i, :16][:, None] << np.uint32(16)).reshape(256)
    return IntegerLevels(levels, pairs, 1.0 / per_unit)
