"""`code_scores` with AVX2: levels of 32 rows as bytes or int16, times each query."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import jit
from tqvec.kernels.attend.indices import aligned_bytes
from tqvec.kernels.attend.portable import BLOCK, code_scores_portable, widen_scales
from tqvec.kernels.attend.queries import byte_queries, word_queries
from tqvec.kernels.attend.strips_avx2 import (
    ROWS,
    STRIP,
    ask_ahead,
    copy_tail,
    row_address,
    row_places,
    strip_plan,
    unpack_bytes,
    unpack_words,
)
from tqvec.kernels.simd.floats import convert_f32x8, mul_f32x8
from tqvec.kernels.simd.memory import (
    load_f32x8,
    load_halves_i8x32,
    load_halves_i16x16,
    load_i8x32,
    load_i16x16,
    splat_f32x8,
    store_f32x8,
    zero_i32x8,
)
from tqvec.kernels.simd.tuples import sum_halves_4
from tqvec.kernels.simd.x86 import dot_signed_bytes_i32x8, dot_words_i32x8

_AT_ONCE = 8  # rows that meet a query


@jit
def _byte_products(levels, stride, query, width):
    """Products of four pairs of rows, whose levels are `stride` bytes apart, with a query of `width` bytes."""
    a = b = c = d = zero_i32x8()
    for at in range(0, width, 16):
        x, pair = load_halves_i8x32(query + at, query + at), levels + 2 * at
        a = dot_signed_bytes_i32x8(a, load_i8x32(pair), x)
        b = dot_signed_bytes_i32x8(b, load_i8x32(pair + stride), x)
        c = dot_signed_bytes_i32x8(c, load_i8x32(pair + 2 * stride), x)
        d = dot_signed_bytes_i32x8(d, load_i8x32(pair + 3 * stride), x)
    return sum_halves_4((a, b, c, d))


@jit
def _word_products(levels, stride, query, width):
    """`_byte_products` of int16."""
    a = b = c = d = zero_i32x8()
    for at in range(0, width, 16):
        x, pair = load_halves_i16x16(query + at, query + at), levels + 2 * at
        a = dot_words_i32x8(a, load_i16x16(pair), x)
        b = dot_words_i32x8(b, load_i16x16(pair + stride), x)
        c = dot_words_i32x8(c, load_i16x16(pair + 2 * stride), x)
        d = dot_words_i32x8(d, load_i16x16(pair + 3 * stride), x)
    return sum_halves_4((a, b, c, d))


@jit
def code_scores_avx2(tables, queries, codes, scale, out):
    """See `code_scores_portable`; within the rounding of README.md. `codes` and `out` are C-contiguous."""
    strips = tables.strips.shape[0]
    if strips == 0:
        code_scores_portable(tables, queries, codes, scale, out)
        return
    g, n = queries.shape[0], codes.shape[0]
    words = tables.byte_unit == 0.0
    width = 2 * STRIP * strips if words else STRIP * strips  # bytes of a query, half of those of a pair of rows
    packed, unit = aligned_bytes(g, width).view(np.int8), np.empty(g, np.float32)
    if words:
        word_queries(queries, tables.strip_coordinates, tables.word_unit, packed.view(np.int16), unit)
    else:
        byte_queries(queries, tables.strip_coordinates, tables.byte_unit, packed, unit)
    planes, levels = aligned_bytes(8, 32), aligned_bytes(ROWS // 2, 2 * width)
    plan, tail = strip_plan(tables, planes), copy_tail(codes)
    rows, wide, last = np.empty(ROWS, np.int64), np.zeros(BLOCK, np.float32), np.empty(_AT_ONCE, np.float32)
    for t in range(0, n, ROWS):
        if t % BLOCK == 0:
            widen_scales(scale, t, min(BLOCK, n - t), wide)
        places, count = row_places(codes, tail), min(ROWS, n - t)
        ask_ahead(places, t)
        for i in range(ROWS):
            rows[i] = row_address(places, min(t + i, n - 1))
        pairs = (count + _AT_ONCE - 1) // _AT_ONCE * (_AT_ONCE // 2)
        if words:
            unpack_words(plan, rows, pairs, levels.ctypes.data)
        else:
            unpack_bytes(plan, rows, pairs, levels.ctypes.data)
        for q in range(g):
            query = packed.ctypes.data + q * width
            for first in range(0, count, _AT_ONCE):
                at = levels.ctypes.data + first * width
                if words:
                    sums = _word_products(at, 2 * width, query, width)
                else:
                    sums = _byte_products(at, 2 * width, query, width)
                factor = load_f32x8(wide.ctypes.data + 4 * (t % BLOCK + first))
                scores = mul_f32x8(mul_f32x8(convert_f32x8(sums), splat_f32x8(unit[q])), factor)
                if first + _AT_ONCE <= count:
                    store_f32x8(out.ctypes.data + 4 * (q * n + t + first), scores)
                else:
                    store_f32x8(last.ctypes.data, scores)
                    for i in range(first, count):
                        out[q, t + i] = last[i - first]
    planes[0, 0] = 0  # lives as long as the plan
