"""A copy of the first bits of all codes, in blocks of 16 rows: the layout that the first stage of a search reads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tqvec._locks import ForkLock
from tqvec._memory import aligned
from tqvec.codec.tables.staged import PrefixPlane
from tqvec.kernels.dispatch import module

_ROWS = 64  # the kernel takes four blocks of 16 at a time


def parities(plane: NDArray[np.uint8], mask: int) -> NDArray[np.uint8]:
    """Return bit j of each row: the parity of its bits j − k, cyclically, for all k below 8 that are set in `mask`."""
    before = np.roll(plane, 1, axis=1)
    out = np.zeros_like(plane)
    for k in range(8):
        if mask >> k & 1:
            out ^= plane << k | before >> 8 - k
    return out


class PrefixBlocks:
    """Prefixes of the rows of a block, which grow with it.

    Parameters
    ----------
    planes : list of PrefixPlane
        What a prefix is made of.
    """

    def __init__(self, planes: list[PrefixPlane]):
        self._planes = planes
        self._groups = -(-sum(plane.size for plane in planes) // 4)
        self._blocks = np.zeros((0, self._groups, 64), np.uint8)
        self._rows = 0
        self._lock = ForkLock()

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks, those for rows to come included."""
        return self._blocks.nbytes

    def fresh(self) -> PrefixBlocks:
        """Return blocks of no rows for the same codec."""
        return PrefixBlocks(self._planes)

    def of(self, codes: NDArray[np.uint8], ntotal: int) -> NDArray[np.uint8]:
        """Return the blocks of the first `ntotal` rows of `codes`; only those added since the last call are read."""
        with self._lock:
            if self._rows < ntotal:
                self._extend(codes, ntotal)
            return self._blocks

    def _extend(self, codes: NDArray[np.uint8], ntotal: int) -> None:
        first = self._rows // _ROWS * _ROWS
        needed = -(-ntotal // _ROWS) * _ROWS // 16
        blocks = self._blocks
        if needed > blocks.shape[0]:
            capacity = max(needed, blocks.shape[0] * 3 // 2 // 4 * 4)
            blocks = aligned((capacity, self._groups, 64), np.uint8)
            blocks[: first // 16] = self._blocks[: first // 16]
        prefixes = np.zeros((needed * 16 - first, self._groups * 4), np.uint8)
        at = 0
        for _, start, size, mask in self._planes:
            plane = codes[first:ntotal, start : start + size]
            prefixes[: ntotal - first, at : at + size] = parities(plane, mask) if mask else plane
            at += size
        words = prefixes.reshape(-1, 16, self._groups, 4).transpose(module("prefix_totals").PREFIX_AXES)
        blocks[first // 16 : needed] = words.reshape(-1, self._groups, 64)
        self._blocks, self._rows = blocks, ntotal
