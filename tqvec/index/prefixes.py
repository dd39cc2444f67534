"""What searches read of rows beside the codes: the first bits of all codes, in blocks of 16 rows, and biases."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tqvec._locks import ForkLock, cached_property
from tqvec._memory import aligned
from tqvec._types import Floats, Ids, Words
from tqvec.codec.tables.staged import PrefixPlane
from tqvec.kernels.dispatch import kernel, module

_ROWS = 64  # the kernel takes four blocks of 16 at a time


class PrefixBlocks:
    """Prefixes of the rows of a block, which grow with it.

    Parameters
    ----------
    planes : list of PrefixPlane
        What a prefix is made of.
    """

    def __init__(self, planes: list[PrefixPlane]):
        self._planes = planes
        self._groups = -(-sum(-(-plane.size // 8) for plane in planes) // 4)
        self._blocks = np.zeros((0, self._groups, 64), np.uint8)
        self._rows = 0
        self._ready = np.zeros(0, np.uint64)
        self._biases = np.zeros(0, np.float32)
        self._rows_with_bias = 0
        self._lock = ForkLock()

    @cached_property
    def planes(self) -> Ids:
        """First bit, bits and mask of each plane, (n_planes, 3) int64."""
        return np.array([(plane.start, plane.size, plane.mask) for plane in self._planes], np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks, those for rows to come included; of `some`, those that were made."""
        made = int(self._ready.sum()) if self._ready.size else self._blocks.nbytes // (256 * max(1, self._groups))
        return 256 * self._groups * made + self._ready.nbytes + self._biases.nbytes

    def fresh(self) -> PrefixBlocks:
        """Return blocks of no rows for the same codec."""
        return PrefixBlocks(self._planes)

    def of(self, codes: NDArray[np.uint8], ntotal: int) -> NDArray[np.uint8]:
        """Return the blocks of the first `ntotal` rows of `codes`; only those added since the last call are read.

        `codes` has `SPARE_ROWS` more.
        """
        with self._lock:
            if self._rows < ntotal:
                self._extend(codes, ntotal)
            return self._blocks

    def some(self, codes: NDArray[np.uint8], n: int) -> tuple[NDArray[np.uint8], Words]:
        """Return the blocks of a fixed number of rows, and a word for each 64 of them, 1 if theirs are made.

        The search makes those that it needs, so that no more of a mapped file is read.
        """
        with self._lock:
            if self._ready.size == 0:
                words = -(-n // _ROWS)
                ready = np.zeros(words, np.uint64)
                if self._rows == n:
                    ready[:] = 1
                else:
                    self._blocks = aligned((words * _ROWS // 16, self._groups, 64), np.uint8)
                self._ready = ready
            return self._blocks, self._ready

    def biases(self, norms: Floats, ntotal: int) -> Floats:
        """Return −`norms`, squared lengths, which searches add to scores; they are kept until there are more rows."""
        with self._lock:
            if self._rows_with_bias < ntotal or self._biases.size < norms.size:
                self._biases, self._rows_with_bias = -norms, ntotal
            return self._biases

    def _extend(self, codes: NDArray[np.uint8], ntotal: int) -> None:
        needed = -(-ntotal // _ROWS) * _ROWS // 16
        blocks = self._blocks
        if needed > blocks.shape[0]:
            capacity = max(needed, blocks.shape[0] * 3 // 2 // 4 * 4)
            blocks = aligned((capacity, self._groups, 64), np.uint8)
            used = -(-self._rows // 16)
            blocks[:used] = self._blocks[:used]
        kernel("prefix_rows")(codes, self.planes, module("prefix_totals").PREFIX_STRIDES, self._rows, ntotal, blocks)
        self._blocks, self._rows = blocks, ntotal
        self._ready[:] = 1
