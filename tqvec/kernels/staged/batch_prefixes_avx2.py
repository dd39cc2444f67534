"""Totals of prefixes for a tile of queries, with AVX2: one block of rows by four queries at a time."""

from __future__ import annotations

from tqvec.kernels._jit import jit
from tqvec.kernels.simd.bits import extract_high_bytes_i16x16, raise_low_bytes_i16x16
from tqvec.kernels.simd.integers import add_i16x16, add_pairs_i32x16, sub_i16x16
from tqvec.kernels.simd.memory import load_i8x64, load_i32x16, store_i32x16, zero_i16x16, zero_i32x16
from tqvec.kernels.staged.one_query_avx2 import FLUSH_GROUPS, sum_entries

QUERY_TILE = 4


@jit
def _add(sums, x, table):
    """Add the table entries of 32 bits of 16 rows: to 16-bit lanes of two rows, and those of the second row alone."""
    entries = sum_entries(x, load_i8x64(table), load_i8x64(table + 64))
    return add_i16x16(sums[0], entries), add_i16x16(sums[1], extract_high_bytes_i16x16(entries))


@jit
def _flush(out, sums):
    """Add the sums of two rows per lane to 16 int32 in memory."""
    even = sub_i16x16(sums[0], raise_low_bytes_i16x16(sums[1]))
    store_i32x16(out, add_pairs_i32x16(load_i32x16(out), even, sums[1]))


@jit
def tile_totals_avx2(prefixes, tables, groups, out, stride):
    """See `tile_totals_avx512`."""
    size = 128 * groups
    for block in range(4):
        p = prefixes + 64 * groups * block
        to = out + 64 * block
        for query in range(QUERY_TILE):
            store_i32x16(to + stride * query, zero_i32x16())
        for first in range(0, groups, FLUSH_GROUPS):
            a = b = c = d = zero_i16x16(), zero_i16x16()
            for g in range(first, min(first + FLUSH_GROUPS, groups)):
                x = load_i8x64(p + 64 * g)
                table = tables + 128 * g
                a = _add(a, x, table)
                b = _add(b, x, table + size)
                c = _add(c, x, table + 2 * size)
                d = _add(d, x, table + 3 * size)
            _flush(to, a)
            _flush(to + stride, b)
            _flush(to + 2 * stride, c)
            _flush(to + 3 * stride, d)
