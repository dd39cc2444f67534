"""The parts of a staged search that depend on the level, with AVX-512 VBMI and VNNI (README.md)."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import jit
from tqvec.kernels.simd.bits import (
    and_i8x64,
    extract_high_nibbles_i8x64,
    extract_low_nibbles_i8x64,
    keep_i8x64,
    or_i8x64,
    select_negative_i8x64,
)
from tqvec.kernels.simd.integers import add_i32x16, sum_i32x16, widen_high_i16x32, widen_low_i16x32
from tqvec.kernels.simd.memory import (
    load_i8x64,
    load_i16x32,
    load_u64,
    prefetch,
    splat_i8x64,
    table_offsets_i8x64,
    zero_i32x16,
)
from tqvec.kernels.simd.shuffles import interleave_high_i16x32, interleave_low_i16x32
from tqvec.kernels.simd.x86 import (
    dot_bytes_i32x16,
    dot_words_i32x16,
    multishift_fields_i8x64,
    permute_i8x64,
    permute_i16x32,
    permute_two_i8x64,
)
from tqvec.kernels.staged.unpack import (
    add_subset_bits,
    last_path_bits,
    load_bits,
    narrow_codes,
    path_stream,
    prefix_codes,
)

PREFIX_STRIDES = 4, 1  # byte 4 v + t: a byte product adds four of one row


@jit
def _add_bits(sums, x, low_table, high_table, offsets, ones):
    """Add the table entries of 32 bits of 16 rows."""
    low = permute_i8x64(low_table, or_i8x64(extract_low_nibbles_i8x64(x), offsets))
    high = permute_i8x64(high_table, or_i8x64(extract_high_nibbles_i8x64(x), offsets))
    return dot_bytes_i32x16(dot_bytes_i32x16(sums, low, ones), high, ones)


@jit
def prefix_totals_avx512(blocks, later, table, groups):
    """Return four registers: the sums of the table entries of four blocks of 16 rows.

    `blocks` is four addresses of prefixes, `later` of four that will be read soon, `table` one of `groups` tables.
    """
    p0, p1, p2, p3 = blocks
    n0, n1, n2, n3 = later
    offsets = table_offsets_i8x64()
    ones = splat_i8x64(np.int8(1))
    a0 = zero_i32x16()
    a1 = zero_i32x16()
    a2 = zero_i32x16()
    a3 = zero_i32x16()
    for g in range(groups):
        low = load_i8x64(table + 128 * g)
        high = load_i8x64(table + 128 * g + 64)
        at = 64 * g
        prefetch(n0 + at)
        prefetch(n1 + at)
        prefetch(n2 + at)
        prefetch(n3 + at)
        a0 = _add_bits(a0, load_i8x64(p0 + at), low, high, offsets, ones)
        a1 = _add_bits(a1, load_i8x64(p1 + at), low, high, offsets, ones)
        a2 = _add_bits(a2, load_i8x64(p2 + at), low, high, offsets, ones)
        a3 = _add_bits(a3, load_i8x64(p3 + at), low, high, offsets, ones)
    return a0, a1, a2, a3


@jit
def plane_query_avx512(query):
    """Arrange a query (64 * words,) int8 as `plane_dot_avx512` takes it: as it is."""
    return query


@jit
def plane_dot_avx512(plane, query, size):
    """Return the sum of the query entries whose bits are set.

    `plane` is the address of a row's plane, `query` that of `size` int8 from `plane_query_avx512`. Bits past the end of
    a plane meet zeros of the query.
    """
    ones = splat_i8x64(np.int8(1))
    sums = zero_i32x16()
    for at in range(0, size, 64):
        sums = dot_bytes_i32x16(sums, ones, keep_i8x64(load_u64(plane + at // 8), load_i8x64(query + at)))
    return sum_i32x16(sums)


@jit
def trellis_codes_avx512(at, before, plane_bits, planes, windows):
    """Return the indices of 64 coordinates of a trellis code, and their path bits, which are `before` of the next word.

    `at` is the address of their word in the first plane, in bits. A state window is `windows` bits of the path plane.
    """
    bits = load_bits(at + (planes - 1) * plane_bits)
    low, high = path_stream(bits, before, windows)
    codes = and_i8x64(multishift_fields_i8x64(low, high), splat_i8x64(np.int8((1 << windows) - 1)))
    return add_subset_bits(codes, at, plane_bits, planes), bits


@jit
def _scalar_dot(sums, row, plane_bits, planes, table, query, words):
    levels = load_i16x32(table)
    more = zero_i32x16()
    for w in range(words):
        codes = narrow_codes(row + 64 * w, plane_bits, planes)
        at = query + 128 * w
        sums = dot_words_i32x16(sums, permute_i16x32(levels, widen_low_i16x32(codes)), load_i16x32(at))
        more = dot_words_i32x16(more, permute_i16x32(levels, widen_high_i16x32(codes)), load_i16x32(at + 64))
    return add_i32x16(sums, more)


@jit
def _trellis_dot(sums, row, plane_bits, planes, windows, table, query, words):
    low0 = load_i8x64(table)
    low1 = load_i8x64(table + 64)
    high0 = load_i8x64(table + 128)
    high1 = load_i8x64(table + 192)
    more = zero_i32x16()
    before = last_path_bits(row, plane_bits, planes)
    for w in range(words):
        codes, before = trellis_codes_avx512(row + 64 * w, before, plane_bits, planes, windows)
        low = permute_two_i8x64(low0, low1, codes)
        high = permute_two_i8x64(high0, high1, codes)
        at = query + 128 * w
        sums = dot_words_i32x16(sums, interleave_low_i16x32(low, high), load_i16x32(at))
        more = dot_words_i32x16(more, interleave_high_i16x32(low, high), load_i16x32(at + 64))
    return add_i32x16(sums, more)


@jit
def _wide_dot(sums, row, plane_bits, planes, table, query, words):
    low0 = load_i8x64(table)
    low1 = load_i8x64(table + 64)
    low2 = load_i8x64(table + 128)
    low3 = load_i8x64(table + 192)
    high0 = load_i8x64(table + 256)
    high1 = load_i8x64(table + 320)
    high2 = load_i8x64(table + 384)
    high3 = load_i8x64(table + 448)
    more = zero_i32x16()
    for w in range(words):
        codes = prefix_codes(row + 64 * w, plane_bits, planes)
        upper = permute_two_i8x64(low2, low3, codes)
        low = select_negative_i8x64(codes, upper, permute_two_i8x64(low0, low1, codes))
        upper = permute_two_i8x64(high2, high3, codes)
        high = select_negative_i8x64(codes, upper, permute_two_i8x64(high0, high1, codes))
        at = query + 128 * w
        sums = dot_words_i32x16(sums, interleave_low_i16x32(low, high), load_i16x32(at))
        more = dot_words_i32x16(more, interleave_high_i16x32(low, high), load_i16x32(at + 64))
    return add_i32x16(sums, more)


@jit
def add_dots_avx512(sums, row, plane_bits, planes, windows, table, query, words):
    """Add the part of a band, of `planes` planes, to the integer sum that `dot_tiles` gives for a row.

    `sums` are 16 lanes, whose sum counts. `row` is the address of the band's codes, in bits; `table` that of its levels
    (`StageTables.level_bytes`), `query` that of 64 * words int16. Bits past the end of a plane meet zeros of the
    query.
    """
    if windows > 0:
        return _trellis_dot(sums, row, plane_bits, planes, windows, table, query, words)
    if planes > 4:
        return _wide_dot(sums, row, plane_bits, planes, table, query, words)
    return _scalar_dot(sums, row, plane_bits, planes, table, query, words)
