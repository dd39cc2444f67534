"""Codes as bytes, from the planes of a row, at any level."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import jit
from tqvec.kernels.simd.base import add_where_i8x64, append_bits_i8x64, load_u8, load_u64, zero_i8x64


@jit
def prefix_codes(at, plane_bytes, planes):
    """Codes of 64 coordinates from their first planes; `at` is the address of their word in the first of them."""
    codes = zero_i8x64()
    for plane in range(planes):
        codes = append_bits_i8x64(codes, load_u64(at + plane * plane_bytes))
    return codes


@jit
def bits_at_seam(row, plane_bytes, planes):
    """What comes before the first word of the path plane, the last of `planes`: its last 8 bits, as the highest."""
    return load_u8(row + planes * plane_bytes - 1) << np.uint64(56)


@jit
def parity_plane(row, plane_bytes, planes, mask, out):
    """Bit j of `out`, uint64 for a plane: the parity of path bits j − k for all k, 0 … 6, that are set in `mask`."""
    path = row + (planes - 1) * plane_bytes
    before = bits_at_seam(row, plane_bytes, planes)
    for w in range((plane_bytes + 7) // 8):
        bits = load_u64(path + 8 * w)
        parity = np.uint64(0)
        for k in range(7):
            one = np.uint64(mask >> k & 1)
            parity ^= (bits << np.uint64(k) | before >> np.uint64(1) >> np.uint64(63 - k)) & (np.uint64(0) - one)
        out[w] = parity
        before = bits


@jit
def path_stream(bits, before, windows):
    """Two words of path bits, `bits` and those before it, so that window i begins at bit i."""
    reach = np.uint64(windows - 1)
    rest = np.uint64(64) - reach
    return bits << reach | before >> rest, bits >> rest


@jit
def add_subset_bits(codes, at, plane_bytes, planes):
    """Windows plus the bits of all planes but the last: the indices of the staged search (README.md)."""
    if planes > 1:
        codes = add_where_i8x64(codes, load_u64(at), np.int8(64))
    if planes > 2:
        codes = add_where_i8x64(codes, load_u64(at + plane_bytes), np.int8(32))
    if planes > 3:
        codes = add_where_i8x64(codes, load_u64(at + 2 * plane_bytes), np.int8(16))
    if planes > 4:
        codes = add_where_i8x64(codes, load_u64(at + 3 * plane_bytes), np.int8(8))
    return codes
