"""Packing of 16 vectors at a time: one bit of 16 codes each is a mask, and masks are transposed to planes."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import jit
from tqvec.kernels.simd.base import bits_set_i16x32, load_i16x32, splat_i16x32, store_u64

_BYTE = np.uint64(255)


@jit
def whole_bytes(bands):
    """Whether each plane of each band is a number of whole bytes, which `pack_tile_avx512` needs."""
    return np.all((bands[:, 1] - bands[:, 0]) & 7 == 0)


@jit
def pack_tile_avx512(masks, bands, count, rows):
    """Pack the codes of a tile.

    Parameters
    ----------
    masks : (8, ≥ d + 64) uint16
        Bit `lane` of ``masks[p, j]`` is bit p of the code of coordinate j of that vector.
    bands : (n_bands, 3) int64
        As `whole_bytes` asks.
    count : int
        Vectors, at most `LANES`.
    rows : (count, code bytes) uint8
        Filled.
    """
    for lane in range(count):
        vector = splat_i16x32(np.int16(np.uint16(1 << lane)))
        first = 0  # byte of the row where the plane begins
        for b in range(bands.shape[0]):
            n = bands[b, 1] - bands[b, 0]
            for plane in range(bands[b, 2] - 1, -1, -1):
                mask = 2 * (plane * masks.shape[1] + bands[b, 0])
                for j in range(0, n, 64):
                    at = masks.ctypes.data + mask + 2 * j
                    word = bits_set_i16x32(load_i16x32(at), vector)
                    word |= bits_set_i16x32(load_i16x32(at + 64), vector) << np.uint64(32)
                    if n - j >= 64:
                        store_u64(rows.ctypes.data + lane * rows.shape[1] + first + j // 8, word)
                    else:
                        for k in range((n - j) // 8):
                            rows[lane, first + j // 8 + k] = word & _BYTE
                            word >>= np.uint64(8)
                first += n // 8
