"""Totals of prefixes for a tile of queries, with AVX-512 VBMI and VNNI: two blocks of rows by four queries."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import jit
from tqvec.kernels.simd.bits import extract_high_nibbles_i8x64, extract_low_nibbles_i8x64, or_i8x64
from tqvec.kernels.simd.integers import add_i8x64
from tqvec.kernels.simd.memory import load_i8x64, splat_i8x64, store_i32x16, table_offsets_i8x64, zero_i32x16
from tqvec.kernels.simd.x86 import dot_bytes_i32x16, permute_i8x64

QUERY_TILE = 4


@jit
def _indices(x):
    """Where the entries of the lower and of the upper nibbles of 64 bytes lie, in tables of four times 16."""
    offsets = table_offsets_i8x64()
    return or_i8x64(extract_low_nibbles_i8x64(x), offsets), or_i8x64(extract_high_nibbles_i8x64(x), offsets)


@jit
def _add(sums, x, y, table):
    """Add the table entries of 32 bits to the sums of two blocks, whose indices are `x` and `y`."""
    low = load_i8x64(table)
    high = load_i8x64(table + 64)
    ones = splat_i8x64(np.int8(1))
    a = add_i8x64(permute_i8x64(low, x[0]), permute_i8x64(high, x[1]))
    b = add_i8x64(permute_i8x64(low, y[0]), permute_i8x64(high, y[1]))
    return dot_bytes_i32x16(sums[0], a, ones), dot_bytes_i32x16(sums[1], b, ones)


@jit
def _store(out, sums):
    store_i32x16(out, sums[0])
    store_i32x16(out + 64, sums[1])


@jit
def tile_totals_avx512(prefixes, tables, groups, out, stride):
    """Sum the table entries of 64 rows for a tile of queries.

    All but `groups` and `stride` are addresses: of four blocks of prefixes, of `QUERY_TILE` tables (groups, 128) and of
    64 int32, which those of the next query follow `stride` bytes on.
    """
    size = 128 * groups
    for block in range(0, 4, 2):
        p = prefixes + 64 * groups * block
        a = b = c = d = zero_i32x16(), zero_i32x16()
        for g in range(groups):
            x = _indices(load_i8x64(p + 64 * g))
            y = _indices(load_i8x64(p + 64 * (groups + g)))
            table = tables + 128 * g
            a = _add(a, x, y, table)
            b = _add(b, x, y, table + size)
            c = _add(c, x, y, table + 2 * size)
            d = _add(d, x, y, table + 3 * size)
        to = out + 64 * block
        _store(to, a)
        _store(to + stride, b)
        _store(to + 2 * stride, c)
        _store(to + 3 * stride, d)
