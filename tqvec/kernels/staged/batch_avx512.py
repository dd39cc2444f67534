"""Byte products of 32 rows and 32 queries with AVX-512 VNNI: four rows by two registers of queries at a time."""

from __future__ import annotations

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.simd.memory import load_i8x64, splat_load_i32x16, store_i8x64, store_i32x16, zero_i32x16
from tqvec.kernels.simd.shuffles import view_i32x16_as_i8x64
from tqvec.kernels.simd.x86 import dot_bytes_i32x16, permute_i8x64, permute_two_i8x64
from tqvec.kernels.staged.one_query_avx512 import trellis_codes_avx512
from tqvec.kernels.staged.prefetch import listed_row
from tqvec.kernels.staged.unpack import last_path_bits, prefix_codes

PRODUCT_STEPS = (127, 127)


@jit
def _unpack_scalar(rows, band, table, out, width):
    levels = load_i8x64(table)
    for i in range(rows.count):
        at = listed_row(rows, i, band.planes * band.plane_bytes)
        to = out + i * width
        for w in range(band.words):
            store_i8x64(to + 64 * w, permute_i8x64(levels, prefix_codes(at + 8 * w, band.plane_bytes, band.planes)))


@jit
def _unpack_wide(rows, band, table, out, width):
    low = load_i8x64(table)
    high = load_i8x64(table + 64)
    for i in range(rows.count):
        at = listed_row(rows, i, band.planes * band.plane_bytes)
        to = out + i * width
        for w in range(band.words):
            codes = prefix_codes(at + 8 * w, band.plane_bytes, band.planes)
            store_i8x64(to + 64 * w, permute_two_i8x64(low, high, codes))


@jit
def _unpack_trellis(rows, band, table, out, width):
    low = load_i8x64(table)
    high = load_i8x64(table + 64)
    for i in range(rows.count):
        at = listed_row(rows, i, band.planes * band.plane_bytes)
        to = out + i * width
        before = last_path_bits(at, band.plane_bytes, band.planes)
        for w in range(band.words):
            codes, before = trellis_codes_avx512(at + 8 * w, before, band.plane_bytes, band.planes, band.windows)
            store_i8x64(to + 64 * w, permute_two_i8x64(low, high, codes))


@jit
def unpack_levels_avx512(rows, band, table, out, width):
    """Write byte levels of one band of listed rows, coordinate by coordinate.

    `rows` is a `RowList` from the band in row 0 on. `band` is a `BandShape`, of whose planes at most 7 are read, or all
    of a trellis. `table` is the address of 128 levels, `out` that of the first row's 64 * words bytes, whose next is
    `width` bytes on.
    """
    if band.windows > 0:
        _unpack_trellis(rows, band, table, out, width)
    elif band.planes > 4:
        _unpack_wide(rows, band, table, out, width)
    else:
        _unpack_scalar(rows, band, table, out, width)


@jit
def begin_products_avx512(config):
    """Nothing to prepare."""


@jit
def end_products_avx512():
    """Nothing to undo."""


@jit
def _add(sums, x, queries):
    """Add the products of four levels of a row with those of 32 queries, in two registers."""
    x = view_i32x16_as_i8x64(x)
    return dot_bytes_i32x16(sums[0], x, queries[0]), dot_bytes_i32x16(sums[1], x, queries[1])


@jit
def _store(out, sums):
    store_i32x16(out, sums[0])
    store_i32x16(out + 64, sums[1])


@jit
def _four_rows(levels, stride, low, high, words, out):
    """Products of four rows with 32 queries; `low` and `high` are the packed tiles of 16 queries each."""
    a = b = c = d = zero_i32x16(), zero_i32x16()
    for k in range(16 * words):
        at = levels + 4 * k
        queries = load_i8x64(low + 64 * k), load_i8x64(high + 64 * k)
        a = _add(a, splat_load_i32x16(at), queries)
        b = _add(b, splat_load_i32x16(at + stride), queries)
        c = _add(c, splat_load_i32x16(at + 2 * stride), queries)
        d = _add(d, splat_load_i32x16(at + 3 * stride), queries)
    _store(out, a)
    _store(out + 128, b)
    _store(out + 256, c)
    _store(out + 384, d)


@jit
def pair_products_avx512(levels, queries, words, out):
    """See `pair_products_amx`."""
    stride = 64 * words
    for r in range(0, 2 * LANES, 4):
        _four_rows(levels + r * stride, stride, queries, queries + words * 1024, words, out + 128 * r)
