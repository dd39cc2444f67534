"""Prefixes of rows, copied from their codes into blocks of 16 rows (README.md), at any level."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.staged.unpack import last_bits, load_bits


@jit
def _parities(bits, before, mask):
    """Parity of bits j − k for all k, 0 … 6, that are set in `mask`; `before` is the word of bits before `bits`."""
    parities = bits if mask & 1 else np.uint64(0)
    for k in range(1, 7):
        if mask >> k & 1:
            parities ^= bits << np.uint64(k) | before >> np.uint64(64 - k)
    return parities


@jit
def prefix_rows(codes, planes, strides, start, stop, blocks):
    """Write the prefixes of rows ``start .. stop`` into their blocks.

    Parameters
    ----------
    codes : (n, code bytes) uint8
        At least 9 bytes follow the last row.
    planes : (n_planes, 3) int64
        Of each plane of a prefix: first bit in a row, bits, and the mask of `PrefixPlane`. Each begins a new byte.
    strides : (int, int)
        Bytes from one row to the next, and from one byte of a word of 32 bits to the next, in 64 bytes of a block.
    start, stop : int
    blocks : (n_blocks, groups, 64) uint8
    """
    row_stride, byte_stride = strides
    flat = blocks.reshape(-1)
    for i in range(start, stop):
        row = 8 * (codes.ctypes.data + i * codes.shape[1])
        block = i // LANES * blocks.shape[1] * 64 + i % LANES * row_stride
        byte = 0
        for p in range(planes.shape[0]):
            at, size, mask = row + planes[p, 0], planes[p, 1], planes[p, 2]
            before = last_bits(at, size) if mask else np.uint64(0)
            for first in range(0, size, 64):
                bits = load_bits(at + first)
                word = bits
                if mask:
                    word = _parities(bits, before, mask)
                    before = bits
                rest = size - first
                if rest < 64:
                    word &= (np.uint64(1) << np.uint64(rest)) - np.uint64(1)
                for _ in range((min(rest, 64) + 7) // 8):
                    flat[block + byte // 4 * 64 + byte % 4 * byte_stride] = word & np.uint64(255)
                    word >>= np.uint64(8)
                    byte += 1
