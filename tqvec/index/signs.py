"""The sign planes of an index once more, in blocks of 16 rows: the layout that the first stage of a search reads."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from tqvec.kernels.dispatch import kernel

_ROWS = 64  # the kernel takes four blocks of 16 at a time


class SignBlocks:
    """Blocks that grow with the index (kernels/staged/README.md has the layout).

    Parameters
    ----------
    d : int
        Dimension, a multiple of 8.
    """

    def __init__(self, d: int):
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
        planes[: ntotal - first, : self._bytes] = codes[first:ntotal, : self._bytes]
        words = planes.reshape(-1, 16, self._groups, 4).transpose(kernel("sign_axes"))
        blocks[first // 16 : needed] = words.reshape(-1, self._groups, 64)
        self._blocks, self._rows = blocks, ntotal
