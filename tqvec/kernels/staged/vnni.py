"""Byte products of 32 rows and 32 queries with AVX-512 VNNI: four rows by two registers of queries at a time."""

from __future__ import annotations

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.simd.base import (
    as_bytes_i8x64,
    load_i8x64,
    splat_load_i32x16,
    store_i8x64,
    store_i32x16,
    zero_i32x16,
)
from tqvec.kernels.simd.x86 import dot_bytes_i32x16, permute_i8x64
from tqvec.kernels.staged.codes import prefix_codes

product_steps_avx512 = (127, 127)


@jit
def unpack_levels_avx512(data, start, stop, plane_bytes, planes, table, words, out):
    """Byte levels of rows ``start .. stop`` from their first `planes` planes; ``out[i, j]`` is coordinate j, uint8."""
    levels = load_i8x64(table.ctypes.data)
    data0 = data.ctypes.data
    out0 = out.ctypes.data
    for i in range(start, stop):
        row = data0 + i * data.shape[1]
        to = out0 + (i - start) * out.shape[1]
        for w in range(words):
            store_i8x64(to + 64 * w, permute_i8x64(levels, prefix_codes(row + 8 * w, plane_bytes, planes)))


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
        x = as_bytes_i8x64(splat_load_i32x16(at))
        a0 = dot_bytes_i32x16(a0, x, q0)
        a1 = dot_bytes_i32x16(a1, x, q1)
        x = as_bytes_i8x64(splat_load_i32x16(at + stride))
        b0 = dot_bytes_i32x16(b0, x, q0)
        b1 = dot_bytes_i32x16(b1, x, q1)
        x = as_bytes_i8x64(splat_load_i32x16(at + 2 * stride))
        c0 = dot_bytes_i32x16(c0, x, q0)
        c1 = dot_bytes_i32x16(c1, x, q1)
        x = as_bytes_i8x64(splat_load_i32x16(at + 3 * stride))
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
