"""The parts of a staged search that depend on the level, with AVX2 (README.md)."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import jit
from tqvec.kernels.simd.bits import (
    and_i8x64,
    drop_lowest_bits_i8x32,
    extract_fields_i8x64,
    extract_high_bytes_i16x16,
    extract_high_nibbles_i8x64,
    extract_low_nibbles_i8x64,
    extract_lowest_bits_i8x32,
    raise_low_bytes_i16x16,
    select_negative_i8x64,
)
from tqvec.kernels.simd.integers import (
    add_halves_i8x32,
    add_i8x64,
    add_i16x16,
    add_i32x16,
    add_pairs_i32x16,
    sub_i16x16,
    sum_i32x8,
)
from tqvec.kernels.simd.memory import (
    load_i8x32,
    load_i8x64,
    load_i16x32,
    prefetch,
    splat_i8x64,
    splat_i16x16,
    zero_i16x16,
    zero_i32x8,
    zero_i32x16,
)
from tqvec.kernels.simd.shuffles import (
    interleave_high_i16x32,
    interleave_low_i16x32,
    tile_high_bytes_i8x64,
    tile_low_bytes_i8x64,
    view_i8x32_as_i16x16,
)
from tqvec.kernels.simd.x86 import (
    dot_words_i32x8,
    load_table_128,
    lookup_128_i8x64,
    lookup_i8x64,
    multiply_bytes_i16x16,
    multiply_words_i32x16,
)
from tqvec.kernels.staged.unpack import add_subset_bits, last_path_bits, load_bits, path_stream, prefix_codes

FLUSH_GROUPS = 256  # 256 sums of four table entries, each at most 63, stay below 2^16
FLUSH_ENTRIES = 4096  # 4096 / 32 sums of two query bytes, each at most 127, stay below 2^15

PREFIX_STRIDES = 1, 16  # byte 16 t + v: a lookup within 16 bytes takes one table for all of them


@jit
def sum_entries(x, low_table, high_table):
    """For 32 bits of 16 rows: byte v plus byte 16 + v is the sum of the eight table entries of row v."""
    low = lookup_i8x64(low_table, extract_low_nibbles_i8x64(x))
    high = lookup_i8x64(high_table, extract_high_nibbles_i8x64(x))
    return view_i8x32_as_i16x16(add_halves_i8x32(add_i8x64(low, high)))


@jit
def _two_blocks(p0, p1, n0, n1, table, groups):
    """Totals of two blocks of 16 rows.

    A 16-bit lane sums two bytes at once, the upper one 256-fold; the upper bytes are also summed alone, and taken off
    in the end. Sums wrap around at 2^16, but those of either byte don't reach it.
    """
    t0 = zero_i32x16()
    t1 = zero_i32x16()
    for first in range(0, groups, FLUSH_GROUPS):
        both0 = zero_i16x16()
        both1 = zero_i16x16()
        odd0 = zero_i16x16()
        odd1 = zero_i16x16()
        for g in range(first, min(first + FLUSH_GROUPS, groups)):
            low = load_i8x64(table + 128 * g)
            high = load_i8x64(table + 128 * g + 64)
            prefetch(n0 + 64 * g)
            prefetch(n1 + 64 * g)
            x = sum_entries(load_i8x64(p0 + 64 * g), low, high)
            both0 = add_i16x16(both0, x)
            odd0 = add_i16x16(odd0, extract_high_bytes_i16x16(x))
            x = sum_entries(load_i8x64(p1 + 64 * g), low, high)
            both1 = add_i16x16(both1, x)
            odd1 = add_i16x16(odd1, extract_high_bytes_i16x16(x))
        t0 = add_pairs_i32x16(t0, sub_i16x16(both0, raise_low_bytes_i16x16(odd0)), odd0)
        t1 = add_pairs_i32x16(t1, sub_i16x16(both1, raise_low_bytes_i16x16(odd1)), odd1)
    return t0, t1


@jit
def prefix_totals_avx2(blocks, later, table, groups):
    """See `prefix_totals_avx512`."""
    p0, p1, p2, p3 = blocks
    n0, n1, n2, n3 = later
    t0, t1 = _two_blocks(p0, p1, n0, n1, table, groups)
    t2, t3 = _two_blocks(p2, p3, n2, n3, table, groups)
    return t0, t1, t2, t3


@jit
def plane_query_avx2(query):
    """Arrange a query as `plane_dot_avx2` takes it: entries of bit 0 of 32 bytes, then of bit 1, …"""
    chunks = (query.size + 255) // 256
    out = np.zeros((chunks, 8, 32), np.int8)
    for j in range(query.size):
        out[j // 256, j % 8, j % 256 // 8] = query[j]
    return out.reshape(-1)


@jit
def plane_dot_avx2(plane, query, size):
    """See `plane_dot_avx512`."""
    ones = splat_i16x16(np.int16(1))
    total = zero_i32x8()
    for first in range(0, size, FLUSH_ENTRIES):
        sums = zero_i16x16()
        for at in range(first, min(first + FLUSH_ENTRIES, size), 256):
            bits = load_i8x32(plane + at // 8)
            for k in range(8):
                entries = load_i8x32(query + at + 32 * k)
                sums = add_i16x16(sums, multiply_bytes_i16x16(extract_lowest_bits_i8x32(bits), entries))
                bits = drop_lowest_bits_i8x32(bits)
        total = dot_words_i32x8(total, sums, ones)
    return sum_i32x8(total)


@jit
def trellis_codes_avx2(at, before, plane_bits, planes, windows):
    """See `trellis_codes_avx512`."""
    bits = load_bits(at + (planes - 1) * plane_bits)
    low, high = path_stream(bits, before, windows)
    codes = and_i8x64(extract_fields_i8x64(low, high), splat_i8x64(np.int8((1 << windows) - 1)))
    return add_subset_bits(codes, at, plane_bits, planes), bits


@jit
def _add_words(sums, low, high, query):
    """Add the products of 64 levels, given as two vectors of bytes, with the query."""
    products = multiply_words_i32x16(interleave_low_i16x32(low, high), load_i16x32(query))
    sums = add_i32x16(sums, products)
    products = multiply_words_i32x16(interleave_high_i16x32(low, high), load_i16x32(query + 64))
    return add_i32x16(sums, products)


@jit
def _scalar_dot(sums, row, plane_bits, planes, table, query, words):
    levels = load_i16x32(table)
    low = tile_low_bytes_i8x64(levels)
    high = tile_high_bytes_i8x64(levels)
    for w in range(words):
        codes = prefix_codes(row + 64 * w, plane_bits, planes)
        sums = _add_words(sums, lookup_i8x64(low, codes), lookup_i8x64(high, codes), query + 128 * w)
    return sums


@jit
def _trellis_dot(sums, row, plane_bits, planes, windows, table, query, words):
    low = load_table_128(table)
    high = load_table_128(table + 128)
    before = last_path_bits(row, plane_bits, planes)
    for w in range(words):
        codes, before = trellis_codes_avx2(row + 64 * w, before, plane_bits, planes, windows)
        sums = _add_words(sums, lookup_128_i8x64(low, codes), lookup_128_i8x64(high, codes), query + 128 * w)
    return sums


@jit
def _wide_dot(sums, row, plane_bits, planes, table, query, words):
    low0 = load_table_128(table)
    low1 = load_table_128(table + 128)
    high0 = load_table_128(table + 256)
    high1 = load_table_128(table + 384)
    for w in range(words):
        codes = prefix_codes(row + 64 * w, plane_bits, planes)
        rest = and_i8x64(codes, splat_i8x64(np.int8(127)))
        low = select_negative_i8x64(codes, lookup_128_i8x64(low1, rest), lookup_128_i8x64(low0, rest))
        high = select_negative_i8x64(codes, lookup_128_i8x64(high1, rest), lookup_128_i8x64(high0, rest))
        sums = _add_words(sums, low, high, query + 128 * w)
    return sums


@jit
def add_dots_avx2(sums, row, plane_bits, planes, windows, table, query, words):
    """See `add_dots_avx512`."""
    if windows > 0:
        return _trellis_dot(sums, row, plane_bits, planes, windows, table, query, words)
    if planes > 4:
        return _wide_dot(sums, row, plane_bits, planes, table, query, words)
    return _scalar_dot(sums, row, plane_bits, planes, table, query, words)
