"""The signs of an index once more, in blocks of 16 rows: the layout that the first stage of a search reads."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from tqvec.kernels.dispatch import kernel

_ROWS = 64  # the kernel takes four blocks of 16 at a time


def parities(plane: NDArray[np.uint8], mask: int) -> NDArray[np.uint8]:
    """Bit j of each row: the parity of its bits j − k, around the end, for all k below 8 that are set in `mask`."""
    before = np.roll(plane, 1, axis=1)
    out = np.zeros_like(plane)
    for k in range(8):
        if mask >> k & 1:
            out ^= plane << k | before >> 8 - k
    return out


class SignBlocks:
    """Blocks that grow with the index (kernels/staged/README.md has the layout).

    Parameters
    ----------
    d : int
        Dimension, a multiple of 8.
    mask : int
        The path bits whose parity is the sign (`trellis.sign_mask`); 0 if the first plane has the signs.
    """

    def __init__(self, d: int, mask: int = 0):
        self._mask = mask
        self._bytes = d // 8
        self._groups = -(-d // 32)
        self._blocks = np.zeros((0, self._groups, 64), np.uint8)
        self._rows = 0
        self._lock = threading.Lock()

    def of(self, codes: NDArray[np.uint8], ntotal: int) -> NDArray[np.uint8]:
        """Blocks of the first `ntotal` rows of `codes`, with those added since the last call filled in."""
        with self._lock:
            if self._rows < ntotal:
                self._extend(codes, ntotal)
            return self._blocks

    def _extend(self, codes: NDArray[np.uint8], ntotal: int) -> None:
        first = self._rows // _ROWS * _ROWS
        needed = -(-ntotal // _ROWS) * _ROWS // 16
        blocks = self._blocks
        if needed > blocks.shape[0]:
            room = max(needed, blocks.shape[0] * 3 // 2 // 4 * 4)
            blocks = np.zeros((room, self._groups, 64), np.uint8)
            blocks[: first // 16] = self._blocks[: first // 16]
        planes = np.zeros((needed * 16 - first, self._groups * 4), np.uint8)
        plane = codes[first:ntotal, : self._bytes]
        planes[: ntotal - first, : self._bytes] = parities(plane, self._mask) if self._mask else plane
        words = planes.reshape(-1, 16, self._groups, 4).transpose(kernel("sign_axes"))
        blocks[first // 16 : needed] = words.reshape(-1, self._groups, 64)
        self._blocks, self._rows = blocks, ntotal
