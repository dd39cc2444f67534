"""The tables by which the AVX2 kernels of attention read the codes of a row, up to 128 coordinates at a time.

The README of kernels/attend has the instructions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec.codec.bands import Band
from tqvec.kernels.attend.tables import STRIP_FIELDS

_COLUMNS = 16  # of eight coordinates: 16 bytes of each plane
_MOST = 640  # coordinates of a row: the steps of int16 queries would be too coarse for more


class Strip(NamedTuple):
    """Up to 128 coordinates that lie side by side in one band.

    Attributes
    ----------
    fields : (STRIP_FIELDS,) int32
        As in `AttentionTables.strips`.
    coordinates : (128,) int64
        As in `AttentionTables.strip_coordinates`.
    entries : (2, 256) int64
        The band, and the index in its codebook, of each index; they repeat after ``2**bits``.
    """

    fields: NDArray[np.int32]
    coordinates: NDArray[np.int64]
    entries: NDArray[np.int64]


def strips_of(bands: tuple[Band, ...], windows: NDArray[np.int64]) -> list[Strip]:
    """Return the strips of a row; none if it is too long, or if a trellis band isn't whole bytes."""
    strips: list[Strip] = []
    if bands[-1].stop > _MOST:
        return strips
    bit = 0
    for b, band in enumerate(bands):
        n = band.stop - band.start
        if windows[b] > 0 and (bit | n) % 8:
            return []
        strips += [_strip(band, b, int(windows[b]), bit, first) for first in range(0, n, 8 * _COLUMNS)]
        bit += n * band.nbits
    return strips


def _strip(band: Band, number: int, windows: int, bit: int, first: int) -> Strip:
    """The strip from coordinate `first` of a band on, whose codes begin at `bit` of a row."""
    n = band.stop - band.start
    planes = [bit + plane * n + first for plane in reversed(range(band.nbits))]  # the last one has the lowest bits
    bits, before = band.nbits, 0
    if windows > 0:  # the path is tail-biting: the first byte follows the last
        bits, before = windows + band.nbits - 1, (bit + (band.nbits - 1) * n + (first - 8) % n) // 8
    fields = np.zeros(STRIP_FIELDS, np.int32)
    fields[:3] = bits, windows, before
    fields[3 : 3 + band.nbits] = planes
    column, k = np.arange(_COLUMNS), np.arange(8)[:, None]
    coordinates = (first + 8 * column + k).ravel()
    coordinates = np.where(coordinates < n, band.start + coordinates, -1)
    entries = np.array([np.full(256, number), np.arange(256) % 2**bits])
    return Strip(fields=fields, coordinates=coordinates, entries=entries)
