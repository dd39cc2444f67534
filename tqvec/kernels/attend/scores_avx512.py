"""`code_scores` with AVX-512: levels of 16 rows as bytes or int16, times each query, by VNNI."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.attend.indices import ONE_REGISTER, aligned_bytes, bytes_kept, indices_of_run, look_up, row_plan
from tqvec.kernels.attend.portable import BLOCK, code_scores_portable, widen_scales
from tqvec.kernels.attend.queries import byte_queries, word_queries
from tqvec.kernels.simd.floats import convert_f32x16, mul_f32x16
from tqvec.kernels.simd.integers import add_i32x16
from tqvec.kernels.simd.memory import (
    load_f32x16,
    load_i8x64,
    prefetch,
    splat_f32x16,
    splat_i32x16,
    store_i8x64,
    store_where_f32x16,
)
from tqvec.kernels.simd.shuffles import interleave_high_i16x32, interleave_low_i16x32, view_i16x32_as_i8x64
from tqvec.kernels.simd.tuples import dot_bytes_16, dot_words_16, sum_lanes_16, zeros_16
from tqvec.kernels.simd.x86 import permute_i8x64

AHEAD = 4096  # bytes


@jit
def _ask_ahead(plan, row, count):
    """Ask for rows that will be read later: the processor itself looks no further than the page's end."""
    for at in range(row + AHEAD, row + AHEAD + count * plan.row_bytes, 64):
        prefetch(at)


@jit
def unpack_bytes(plan, row, count, to):
    """Write byte levels of `count` rows from address `row` on to address `to`, 64 * runs bytes per row."""
    _ask_ahead(plan, row, count)
    for c in range(plan.runs):
        source, fields = load_i8x64(plan.source + 64 * c), load_i8x64(plan.fields + 64 * c)
        table, out = plan.level_bytes + 256 * c, to + 64 * c
        if plan.bits <= ONE_REGISTER:
            levels = load_i8x64(table)  # before the loop, since no compiler knows that stores leave it alone
            for i in range(count):
                index = indices_of_run(plan, row + i * plan.row_bytes, source, fields)
                store_i8x64(out + 64 * i * plan.runs, permute_i8x64(levels, index))
        else:
            for i in range(count):
                index = indices_of_run(plan, row + i * plan.row_bytes, source, fields)
                store_i8x64(out + 64 * i * plan.runs, look_up(table, index, plan.bits))


@jit
def _unpack_words(plan, row, count, to):
    """Levels as int16, 128 * runs bytes a row; the rest as in `unpack_bytes`."""
    _ask_ahead(plan, row, count)
    for c in range(plan.runs):
        source, fields = load_i8x64(plan.source + 64 * c), load_i8x64(plan.fields + 64 * c)
        table = plan.level_words + 512 * c
        for i in range(count):
            index = indices_of_run(plan, row + i * plan.row_bytes, source, fields)
            low, high = look_up(table, index, plan.bits), look_up(table + 256, index, plan.bits)
            out = to + 128 * (i * plan.runs + c)
            store_i8x64(out, view_i16x32_as_i8x64(interleave_low_i16x32(low, high)))
            store_i8x64(out + 64, view_i16x32_as_i8x64(interleave_high_i16x32(low, high)))


@jit
def _byte_products(levels, query, width):
    sums = zeros_16()
    for at in range(0, width, 64):
        sums = dot_bytes_16(sums, levels + at, width, load_i8x64(query + at))
    return sum_lanes_16(sums)


@jit
def _word_products(levels, query, width):
    sums = zeros_16()
    for at in range(0, width, 64):
        sums = dot_words_16(sums, levels + at, width, load_i8x64(query + at))
    return sum_lanes_16(sums)


@jit
def code_scores_avx512(tables, queries, codes, scale, out):
    """See `code_scores_portable`; within the rounding of README.md. `codes` and `out` are C-contiguous."""
    runs = tables.source.shape[0]
    if runs == 0:
        code_scores_portable(tables, queries, codes, scale, out)
        return
    g = queries.shape[0]
    n, row_bytes = codes.shape
    words = tables.byte_unit == 0.0
    unit, wide = np.empty(g, np.float32), np.empty(BLOCK, np.float32)
    zeros = np.zeros(g, np.int32)
    width = 128 * runs if words else 64 * runs
    packed = aligned_bytes(g, width).view(np.int8)
    if words:
        word_queries(queries, tables.coordinates, tables.word_unit, packed.view(np.int16), unit)
    else:
        byte_queries(queries, tables.coordinates, tables.byte_unit, packed, unit)
        for q in range(g):
            zeros[q] = -128 * packed[q].sum()  # makes up for the 128 that is in every level
    levels = aligned_bytes(LANES, width)
    plan = row_plan(tables, row_bytes)
    for t in range(0, n, LANES):
        if t % BLOCK == 0:
            widen_scales(scale, t, min(BLOCK, n - t), wide)
        count = min(LANES, n - t)
        row, to = codes.ctypes.data + t * row_bytes, levels.ctypes.data
        if words:
            _unpack_words(plan, row, count, to)
        else:
            unpack_bytes(plan, row, count, to)
        kept = bytes_kept(count)
        factor = load_f32x16(wide.ctypes.data + 4 * (t % BLOCK))
        for q in range(g):
            query = packed.ctypes.data + q * width
            if words:
                sums = _word_products(levels.ctypes.data, query, width)
            else:
                sums = _byte_products(levels.ctypes.data, query, width)
            sums = add_i32x16(sums, splat_i32x16(zeros[q]))
            scores = mul_f32x16(mul_f32x16(convert_f32x16(sums), splat_f32x16(unit[q])), factor)
            store_where_f32x16(kept, out.ctypes.data + 4 * (q * n + t), scores)
