"""Codes as bytes, unpacked from the planes of a row, at any level."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tqvec.kernels._jit import jit
from tqvec.kernels.simd.bits import add_where_i8x64, append_bits_i8x64, funnel_shift_i64x8, xor_i64x8
from tqvec.kernels.simd.memory import load_i64x8, load_u8, load_u64, store_i64x8, zero_i8x64, zero_i64x8
from tqvec.kernels.simd.shuffles import prepend_i64x8


class BandShape(NamedTuple):
    """Sizes of the codes of a band.

    Attributes
    ----------
    plane_bytes, planes : int
        Bytes per plane, and planes that are read.
    windows : int
        As in `QuantizerTables`.
    words : int
        Words of 64 coordinates.
    """

    plane_bytes: int
    planes: int
    windows: int
    words: int


@jit
def prefix_codes(at, plane_bytes, planes):
    """Unpack 64 codes from their first planes; `at` is the address of their word in the first plane."""
    codes = zero_i8x64()
    for plane in range(planes):
        codes = append_bits_i8x64(codes, load_u64(at + plane * plane_bytes))
    return codes


@jit
def last_path_bits(row, plane_bytes, planes):
    """The last 8 bits of the path plane, the last of `planes`, as the highest bits of a word: they precede the first.

    The path is tail-biting: it closes on itself.
    """
    return load_u8(row + planes * plane_bytes - 1) << np.uint64(56)


@jit
def parity_plane(row, plane_bytes, planes, mask, out):
    """Write a plane whose bit j is the parity of the path bits j − k for all k, 0 … 6, that are set in `mask`.

    `row` and `out` are addresses; 64 bytes are read and written at a time.
    """
    path = row + (planes - 1) * plane_bytes
    before = last_path_bits(row, plane_bytes, planes)
    for at in range(0, plane_bytes, 64):
        bits = load_i64x8(path + at)
        previous = prepend_i64x8(before, bits)
        parities = zero_i64x8()
        for k in range(7):
            if mask >> k & 1:
                parities = xor_i64x8(parities, funnel_shift_i64x8(bits, previous, k))
        store_i64x8(out + at, parities)
        before = load_u64(path + at + 56)


@jit
def path_stream(bits, before, windows):
    """Return two words of path bits, `bits` and those before it, in which state window i begins at bit i."""
    reach = np.uint64(windows - 1)
    rest = np.uint64(64) - reach
    return bits << reach | before >> rest, bits >> rest


@jit
def add_subset_bits(codes, at, plane_bytes, planes):
    """Add the bits of all planes but the last to state windows: the indices of the staged search (README.md)."""
    if planes > 1:
        codes = add_where_i8x64(codes, load_u64(at), np.int8(64))
    if planes > 2:
        codes = add_where_i8x64(codes, load_u64(at + plane_bytes), np.int8(32))
    if planes > 3:
        codes = add_where_i8x64(codes, load_u64(at + 2 * plane_bytes), np.int8(16))
    if planes > 4:
        codes = add_where_i8x64(codes, load_u64(at + 3 * plane_bytes), np.int8(8))
    return codes
