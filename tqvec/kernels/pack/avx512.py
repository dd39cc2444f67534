"""Packing of 16 vectors at a time: a mask is one bit of 16 codes, and masks are transposed to planes."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import jit
from tqvec.kernels.simd.bits import and_nonzero_i16x32
from tqvec.kernels.simd.memory import load_i16x32, splat_i16x32, store_u64

_BYTE = np.uint64(255)
_ONE = np.uint64(1)


@jit
def pack_tile_avx512(masks, bands, count, rows):
    """Pack the codes of a tile.

    Parameters
    ----------
    masks : (8, ≥ d + 64) uint16
        Bit `lane` of ``masks[p, j]`` is bit p of the code of coordinate j of that vector.
    bands : (n_bands, 3) int64
    count : int
        Vectors, at most `LANES`.
    rows : (count, code bytes) uint8
        Filled.
    """
    for lane in range(count):
        vector = splat_i16x32(np.int16(np.uint16(1 << lane)))
        held = np.uint64(0)  # the last `fill` bits, not a whole word yet
        fill = 0
        at = 0
        for b in range(bands.shape[0]):
            n = bands[b, 1] - bands[b, 0]
            for plane in range(bands[b, 2] - 1, -1, -1):
                mask = 2 * (plane * masks.shape[1] + bands[b, 0])
                for j in range(0, n, 64):
                    source = masks.ctypes.data + mask + 2 * j
                    word = and_nonzero_i16x32(load_i16x32(source), vector)
                    word |= and_nonzero_i16x32(load_i16x32(source + 64), vector) << np.uint64(32)
                    if fill == 0 and n - j >= 64:
                        store_u64(rows.ctypes.data + lane * rows.shape[1] + at, word)
                        at += 8
                        continue
                    size = min(64, n - j)
                    word &= ~np.uint64(0) >> np.uint64(64 - size)
                    held |= word << np.uint64(fill)
                    fill += size
                    if fill >= 64:
                        store_u64(rows.ctypes.data + lane * rows.shape[1] + at, held)
                        at += 8
                        fill -= 64
                        held = word >> _ONE >> np.uint64(size - fill - 1)  # in two steps: a shift by 64 is undefined
        while fill > 0:
            rows[lane, at] = held & _BYTE
            held >>= np.uint64(8)
            at += 1
            fill -= 8
