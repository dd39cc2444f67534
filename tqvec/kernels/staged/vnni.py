"""Byte products of 32 rows and 32 queries with AVX-512 VNNI: four rows by two registers of queries at a time."""

from __future__ import annotations

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.simd.memory import load_i8x64, splat_load_i32x16, store_i8x64, store_i32x16, zero_i32x16
from tqvec.kernels.simd.shuffles import view_i32x16_as_i8x64
from tqvec.kernels.simd.x86 import dot_bytes_i32x16, permute_i8x64, permute_two_i8x64
from tqvec.kernels.staged.ahead import listed_row
from tqvec.kernels.staged.avx512 import trellis_codes_avx512
from tqvec.kernels.staged.codes import bits_at_seam, prefix_codes

product_steps_avx512 = (127, 127)


@jit
def _unpack_scalar(row, stride, places, count, plane_bytes, planes, table, words, out, width):
    levels = load_i8x64(table)
    for i in range(count):
        at = listed_row(row, stride, places, i, count, planes * plane_bytes)
        to = out + i * width
        for w in range(words):
            store_i8x64(to + 64 * w, permute_i8x64(levels, prefix_codes(at + 8 * w, plane_bytes, planes)))


@jit
def _unpack_wide(row, stride, places, count, plane_bytes, planes, table, words, out, width):
    low = load_i8x64(table)
    high = load_i8x64(table + 64)
    for i in range(count):
        at = listed_row(row, stride, places, i, count, planes * plane_bytes)
        to = out + i * width
        for w in range(words):
            codes = prefix_codes(at + 8 * w, plane_bytes, planes)
            store_i8x64(to + 64 * w, permute_two_i8x64(low, high, codes))


@jit
def _unpack_trellis(row, stride, places, count, plane_bytes, planes, windows, table, words, out, width):
    low = load_i8x64(table)
    high = load_i8x64(table + 64)
    for i in range(count):
        at = listed_row(row, stride, places, i, count, planes * plane_bytes)
        to = out + i * width
        before = bits_at_seam(at, plane_bytes, planes)
        for w in range(words):
            codes, before = trellis_codes_avx512(at + 8 * w, before, plane_bytes, planes, windows)
            store_i8x64(to + 64 * w, permute_two_i8x64(low, high, codes))


@jit
def unpack_levels_avx512(row, stride, places, count, plane_bytes, planes, windows, table, words, out, width):
    """Byte levels of one band of some rows, coordinate by coordinate.

    They come from its first `planes` planes, at most 7, or all of a trellis, whose windows have `windows` bits. `row`
    is the address of the band in row 0, whose next is `stride` bytes on; `places` that of the numbers of `count` rows,
    int32; `out` that of the first one's 64 * words bytes, whose next is `width` bytes on; `table` that of 128 levels.
    """
    if windows > 0:
        _unpack_trellis(row, stride, places, count, plane_bytes, planes, windows, table, words, out, width)
    elif planes > 4:
        _unpack_wide(row, stride, places, count, plane_bytes, planes, table, words, out, width)
    else:
        _unpack_scalar(row, stride, places, count, plane_bytes, planes, table, words, out, width)


@jit
def begin_products_avx512(config):
    """Nothing to prepare."""


@jit
def end_products_avx512():
    """Nothing to undo."""


@jit
def _four_rows(levels, stride, low, high, words, out):
    """Products of four rows with 32 queries; `low` and `high` are the packed tiles of 16 queries each."""
    a0 = zero_i32x16()
    a1 = zero_i32x16()
    b0 = zero_i32x16()
    b1 = zero_i32x16()
    c0 = zero_i32x16()
    c1 = zero_i32x16()
    d0 = zero_i32x16()
    d1 = zero_i32x16()
    for k in range(16 * words):
        at = levels + 4 * k
        q0 = load_i8x64(low + 64 * k)
        q1 = load_i8x64(high + 64 * k)
        x = view_i32x16_as_i8x64(splat_load_i32x16(at))
        a0 = dot_bytes_i32x16(a0, x, q0)
        a1 = dot_bytes_i32x16(a1, x, q1)
        x = view_i32x16_as_i8x64(splat_load_i32x16(at + stride))
        b0 = dot_bytes_i32x16(b0, x, q0)
        b1 = dot_bytes_i32x16(b1, x, q1)
        x = view_i32x16_as_i8x64(splat_load_i32x16(at + 2 * stride))
        c0 = dot_bytes_i32x16(c0, x, q0)
        c1 = dot_bytes_i32x16(c1, x, q1)
        x = view_i32x16_as_i8x64(splat_load_i32x16(at + 3 * stride))
        d0 = dot_bytes_i32x16(d0, x, q0)
        d1 = dot_bytes_i32x16(d1, x, q1)
    store_i32x16(out, a0)
    store_i32x16(out + 64, a1)
    store_i32x16(out + 128, b0)
    store_i32x16(out + 192, b1)
    store_i32x16(out + 256, c0)
    store_i32x16(out + 320, c1)
    store_i32x16(out + 384, d0)
    store_i32x16(out + 448, d1)


@jit
def pair_products_avx512(levels, queries, words, out):
    """See `pair_products_amx`."""
    stride = 64 * words
    for r in range(0, 2 * LANES, 4):
        _four_rows(levels + r * stride, stride, queries, queries + words * 1024, words, out + 128 * r)
