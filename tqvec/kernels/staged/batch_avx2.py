"""Byte products of 32 rows and 32 queries with AVX2: four rows by 16 queries at a time, summed in 16 bits."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.simd.integers import add_i16x32, add_i32x16
from tqvec.kernels.simd.memory import (
    load_i8x64,
    splat_i16x32,
    splat_load_i32x16,
    store_i8x64,
    store_i32x16,
    zero_i16x32,
    zero_i32x16,
)
from tqvec.kernels.simd.shuffles import view_i32x16_as_i8x64
from tqvec.kernels.simd.x86 import (
    load_table_128,
    lookup_128_i8x64,
    lookup_i8x64,
    multiply_bytes_i16x32,
    multiply_words_i32x16,
)
from tqvec.kernels.staged.one_query_avx2 import trellis_codes_avx2
from tqvec.kernels.staged.prefetch import listed_row
from tqvec.kernels.staged.unpack import last_path_bits, prefix_codes

# Levels of 0 … 31 and queries of -33 … 33: the 32 products that a 16-bit lane sums over 64 coordinates stay within
# 32 · 31 · 33 = 32,736 < 2^15.
PRODUCT_STEPS = (15, 33)


@jit
def _unpack_scalar(rows, band, table, out, width):
    levels = load_i8x64(table)
    for i in range(rows.count):
        at = listed_row(rows, i, band.planes * band.plane_bytes)
        to = out + i * width
        for w in range(band.words):
            store_i8x64(to + 64 * w, lookup_i8x64(levels, prefix_codes(at + 8 * w, band.plane_bytes, band.planes)))


@jit
def _unpack_wide(rows, band, table, out, width):
    levels = load_table_128(table)
    for i in range(rows.count):
        at = listed_row(rows, i, band.planes * band.plane_bytes)
        to = out + i * width
        for w in range(band.words):
            codes = prefix_codes(at + 8 * w, band.plane_bytes, band.planes)
            store_i8x64(to + 64 * w, lookup_128_i8x64(levels, codes))


@jit
def _unpack_trellis(rows, band, table, out, width):
    levels = load_table_128(table)
    for i in range(rows.count):
        at = listed_row(rows, i, band.planes * band.plane_bytes)
        to = out + i * width
        before = last_path_bits(at, band.plane_bytes, band.planes)
        for w in range(band.words):
            codes, before = trellis_codes_avx2(at + 8 * w, before, band.plane_bytes, band.planes, band.windows)
            store_i8x64(to + 64 * w, lookup_128_i8x64(levels, codes))


@jit
def unpack_levels_avx2(rows, band, table, out, width):
    """See `unpack_levels_avx512`."""
    if band.windows > 0:
        _unpack_trellis(rows, band, table, out, width)
    elif band.planes > 4:
        _unpack_wide(rows, band, table, out, width)
    else:
        _unpack_scalar(rows, band, table, out, width)


@jit
def begin_products_avx2(config):
    """Nothing to prepare."""


@jit
def end_products_avx2():
    """Nothing to undo."""


@jit
def _four_rows(levels, stride, queries, words, out):
    """Products of four rows with a packed tile of 16 queries."""
    ones = splat_i16x32(np.int16(1))
    a = zero_i32x16()
    b = zero_i32x16()
    c = zero_i32x16()
    d = zero_i32x16()
    for w in range(words):
        a16 = zero_i16x32()
        b16 = zero_i16x32()
        c16 = zero_i16x32()
        d16 = zero_i16x32()
        for k in range(16 * w, 16 * w + 16):
            at = levels + 4 * k
            q = load_i8x64(queries + 64 * k)
            a16 = add_i16x32(a16, multiply_bytes_i16x32(view_i32x16_as_i8x64(splat_load_i32x16(at)), q))
            b16 = add_i16x32(b16, multiply_bytes_i16x32(view_i32x16_as_i8x64(splat_load_i32x16(at + stride)), q))
            c16 = add_i16x32(c16, multiply_bytes_i16x32(view_i32x16_as_i8x64(splat_load_i32x16(at + 2 * stride)), q))
            d16 = add_i16x32(d16, multiply_bytes_i16x32(view_i32x16_as_i8x64(splat_load_i32x16(at + 3 * stride)), q))
        a = add_i32x16(a, multiply_words_i32x16(a16, ones))
        b = add_i32x16(b, multiply_words_i32x16(b16, ones))
        c = add_i32x16(c, multiply_words_i32x16(c16, ones))
        d = add_i32x16(d, multiply_words_i32x16(d16, ones))
    store_i32x16(out, a)
    store_i32x16(out + 128, b)
    store_i32x16(out + 256, c)
    store_i32x16(out + 384, d)


@jit
def pair_products_avx2(levels, queries, words, out):
    """See `pair_products_amx`."""
    stride = 64 * words
    for r in range(0, 2 * LANES, 4):
        _four_rows(levels + r * stride, stride, queries, words, out + 128 * r)
        _four_rows(levels + r * stride, stride, queries + words * 1024, words, out + 128 * r + 64)
