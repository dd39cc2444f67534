"""Codes as bytes, unpacked from the planes of a row, at any level."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tqvec.kernels._jit import jit
from tqvec.kernels.simd.bits import add_where_i8x64, append_bits_i8x64, funnel_shift_i64x8, xor_i64x8
from tqvec.kernels.simd.memory import (
    load_bits_i64x8,
    load_bits_u64,
    load_u64,
    store_i64x8,
    store_u64,
    zero_i8x64,
    zero_i64x8,
)
from tqvec.kernels.simd.shuffles import prepend_i64x8


class BandShape(NamedTuple):
    """Sizes of the codes of a band.

    Attributes
    ----------
    first : int
        Bit of its first byte at which the band begins, 0 … 7.
    plane_bits, planes : int
        Bits per plane, and planes that are read.
    windows : int
        As in `QuantizerTables`.
    words : int
        Words of 64 coordinates.
    """

    first: int
    plane_bits: int
    planes: int
    windows: int
    words: int


@jit
def load_bits(at):
    """Load 64 bits from an address in bits. Where a byte begins there, as in most codes, it takes no shifts."""
    if at & 7 == 0:
        return load_u64(at >> 3)
    return load_bits_u64(at >> 3, np.uint64(at & 7))


@jit
def prefix_codes(at, plane_bits, planes):
    """Unpack 64 codes from their first planes; `at` is the address of their word in the first plane, in bits."""
    codes = zero_i8x64()
    for plane in range(planes):
        codes = append_bits_i8x64(codes, load_bits(at + plane * plane_bits))
    return codes


@jit
def narrow_codes(at, plane_bits, planes):
    """`prefix_codes` of at most 4 planes, for AVX-512, which adds under a mask."""
    codes = add_where_i8x64(zero_i8x64(), load_bits(at + (planes - 1) * plane_bits), np.int8(1))
    if planes > 1:
        codes = add_where_i8x64(codes, load_bits(at + (planes - 2) * plane_bits), np.int8(2))
    if planes > 2:
        codes = add_where_i8x64(codes, load_bits(at + (planes - 3) * plane_bits), np.int8(4))
    if planes > 3:
        codes = add_where_i8x64(codes, load_bits(at + (planes - 4) * plane_bits), np.int8(8))
    return codes


@jit
def last_bits(plane, plane_bits):
    """The last 8 bits of a plane, of the address `plane` in bits, as the highest ones of a word.

    In a tail-biting path, which closes on itself, they precede the first ones. Paths have at least 16 bits; the result
    for less than 8 has no meaning.
    """
    return load_bits(plane + max(0, plane_bits - 8)) << np.uint64(56)


@jit
def last_path_bits(at, plane_bits, planes):
    """`last_bits` of the path plane, the last of `planes` from the address `at` on, in bits."""
    return last_bits(at + (planes - 1) * plane_bits, plane_bits)


@jit
def copy_plane(plane, plane_bits, out):
    """Copy a plane from an address in bits to one in bytes, a word of 64 bits at a time."""
    for at in range(0, plane_bits, 64):
        store_u64(out + at // 8, load_bits(plane + at))


@jit
def parity_plane(plane, plane_bits, mask, out):
    """Write a plane whose bit j is the parity of bits j − k of another for all k, 0 … 6, that are set in `mask`.

    `plane` is an address in bits, `out` one in bytes. At a time 65 bytes are read, 64 written.
    """
    before = last_bits(plane, plane_bits)
    for at in range(0, plane_bits, 512):
        bits = load_bits_i64x8((plane + at) >> 3, np.uint64(plane & 7))
        previous = prepend_i64x8(before, bits)
        parities = zero_i64x8()
        for k in range(7):
            if mask >> k & 1:
                parities = xor_i64x8(parities, funnel_shift_i64x8(bits, previous, k))
        store_i64x8(out + at // 8, parities)
        before = load_bits(plane + at + 448)


@jit
def path_stream(bits, before, windows):
    """Return two words of path bits, `bits` and those before it, in which state window i begins at bit i."""
    reach = np.uint64(windows - 1)
    rest = np.uint64(64) - reach
    return bits << reach | before >> rest, bits >> rest


@jit
def add_subset_bits(codes, at, plane_bits, planes):
    """Add the bits of all planes but the last to state windows: the indices of the staged search (README.md).

    `at` is the address of their word in the first plane, in bits.
    """
    if planes > 1:
        codes = add_where_i8x64(codes, load_bits(at), np.int8(64))
    if planes > 2:
        codes = add_where_i8x64(codes, load_bits(at + plane_bits), np.int8(32))
    if planes > 3:
        codes = add_where_i8x64(codes, load_bits(at + 2 * plane_bits), np.int8(16))
    if planes > 4:
        codes = add_where_i8x64(codes, load_bits(at + 3 * plane_bits), np.int8(8))
    return codes
