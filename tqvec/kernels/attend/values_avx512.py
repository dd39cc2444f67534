"""`add_values` with AVX-512: levels of 64 coordinates at a time, times the weights of up to four queries."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.attend.indices import bytes_kept, indices_of_run, look_up, row_plan
from tqvec.kernels.attend.portable import BLOCK, add_values_portable, widen_scales
from tqvec.kernels.simd.base import (
    and_i32x16,
    as_numbers_i32x16,
    at_least_f32x16,
    interleave_high_i16x32,
    interleave_low_i16x32,
    load_f32x16,
    load_i32,
    load_where_f32x16,
    lowest_bit,
    max_f32x16,
    shift_left_i32x16,
    shift_right_i32x16,
    splat_f32x16,
    splat_i32x16,
    to_f32x16,
    word_pairs_i32x16,
)
from tqvec.kernels.simd.rows import (
    add_multiples_1,
    add_multiples_2,
    add_multiples_4,
    load_4,
    load_8,
    load_16,
    store_4,
    store_8,
    store_16,
)
from tqvec.kernels.simd.x86 import permute_f32x16, permute_two_f32x16

ONE_TABLE = 4  # bits of an index up to which one register holds all levels
TWO_TABLES = 5
AT_ONCE = 4  # queries whose sums fit the registers
_ALL = np.uint64(0xFFFF)


@jit
def _levels(plan, row, run):
    """Levels of one run of a row at an address, four registers in the order of `column_of_sum`."""
    index = indices_of_run(plan, row, run)
    if plan.bits <= TWO_TABLES:
        low = load_f32x16(plan.levels + 128 * run)
        x0 = as_numbers_i32x16(index)  # of a lane the lookup takes the lowest bits alone
        x1 = shift_right_i32x16(x0, splat_i32x16(np.int32(8)))
        x2 = shift_right_i32x16(x0, splat_i32x16(np.int32(16)))
        x3 = shift_right_i32x16(x0, splat_i32x16(np.int32(24)))
        if plan.bits <= ONE_TABLE:
            return permute_f32x16(low, x0), permute_f32x16(low, x1), permute_f32x16(low, x2), permute_f32x16(low, x3)
        high = load_f32x16(plan.levels + 128 * run + 64)
        return (
            permute_two_f32x16(low, high, x0),
            permute_two_f32x16(low, high, x1),
            permute_two_f32x16(low, high, x2),
            permute_two_f32x16(low, high, x3),
        )
    low_bytes = look_up(plan.level_words + 512 * run, index, plan.bits)
    high_bytes = look_up(plan.level_words + 512 * run + 256, index, plan.bits)
    first = word_pairs_i32x16(interleave_low_i16x32(low_bytes, high_bytes))
    second = word_pairs_i32x16(interleave_high_i16x32(low_bytes, high_bytes))
    half, upper = splat_i32x16(np.int32(16)), splat_i32x16(np.int32(-65536))
    return (  # 2^16 times the level
        to_f32x16(shift_left_i32x16(first, half)),
        to_f32x16(and_i32x16(first, upper)),
        to_f32x16(shift_left_i32x16(second, half)),
        to_f32x16(and_i32x16(second, upper)),
    )


@jit
def column_of_sum(k, index_bits):
    """Column of a run whose sum is lane ``k % 16`` of register ``k // 16``."""
    vector, lane = k // LANES, k % LANES
    if index_bits <= TWO_TABLES:
        return 4 * lane + vector
    return 32 * (vector // 2) + 2 * lane + vector % 2


@jit
def _kept_rows(weights, start, count, least, kept, skipped):
    """List the rows of ``start .. start + count`` that are not skipped, from `start` on; add the others up."""
    g, n = weights.shape
    least = np.float32(max(least, np.float32(1e-45)))  # of weights of 0 nothing comes
    found = 0
    for i in range(0, count, LANES):
        valid = bytes_kept(count - i) & _ALL
        at = weights.ctypes.data + 4 * (start + i)
        heaviest = splat_f32x16(np.float32(0.0))
        for q in range(g):
            heaviest = max_f32x16(heaviest, load_where_f32x16(valid, at + 4 * q * n, splat_f32x16(np.float32(0.0))))
        bits = at_least_f32x16(heaviest, splat_f32x16(least)) & valid
        if bits == _ALL:
            for lane in range(LANES):
                kept[found + lane] = i + lane
            found += LANES
            continue
        for q in range(g):
            for lane in range(min(LANES, count - i)):
                if bits >> np.uint64(lane) & np.uint64(1) == 0:
                    skipped[q] += weights[q, start + i + lane]
        while bits != 0:
            kept[found] = i + lowest_bit(bits)
            found += 1
            bits &= bits - np.uint64(1)
    return found


@jit
def _add_one(plan, codes, run, kept, n, factors, sums):
    """`_add_rows` for 1 query."""
    total = load_4(sums, 64)
    for i in range(n):
        t = load_i32(kept + 4 * i)
        levels = _levels(plan, codes + t * plan.row_bytes, run)
        total = add_multiples_1(total, levels, factors + 4 * t, 4 * BLOCK)
    store_4(sums, 64, total)


@jit
def _add_two(plan, codes, run, kept, n, factors, sums):
    """`_add_rows` for 2 queries."""
    total = load_8(sums, 64)
    for i in range(n):
        t = load_i32(kept + 4 * i)
        levels = _levels(plan, codes + t * plan.row_bytes, run)
        total = add_multiples_2(total, levels, factors + 4 * t, 4 * BLOCK)
    store_8(sums, 64, total)


@jit
def _add_four(plan, codes, run, kept, n, factors, sums):
    """`_add_rows` for 4 queries."""
    total = load_16(sums, 64)
    for i in range(n):
        t = load_i32(kept + 4 * i)
        levels = _levels(plan, codes + t * plan.row_bytes, run)
        total = add_multiples_4(total, levels, factors + 4 * t, 4 * BLOCK)
    store_16(sums, 64, total)


@jit
def add_values_avx512(tables, weights, codes, scale, least, out, skipped):
    """See `add_values_portable`; within the rounding of README.md. `weights` and `codes` are C-contiguous."""
    runs = tables.source.shape[0]
    if runs == 0:
        add_values_portable(tables, weights, codes, scale, least, out, skipped)
        return
    g, n = weights.shape
    row_bytes = codes.shape[1]
    plan = row_plan(tables, row_bytes)
    unit = np.float32(1.0) if plan.bits <= TWO_TABLES else np.float32(tables.word_unit / 65536.0)
    wide, factors = np.empty(BLOCK, np.float32), np.zeros((AT_ONCE, BLOCK), np.float32)
    kept = np.empty(BLOCK, np.int32)
    block = np.empty((runs, AT_ONCE * 64), np.float32)  # sums of a block of rows
    total = np.zeros((g, 64 * runs), np.float32)
    for start in range(0, n, BLOCK):
        count = min(BLOCK, n - start)
        found = _kept_rows(weights, start, count, least, kept, skipped)
        widen_scales(scale, start, count, wide)
        for q in range(0, g, AT_ONCE):
            m = min(AT_ONCE, g - q)
            for r in range(m):
                for i in range(count):
                    factors[r, i] = weights[q + r, start + i] * (wide[i] * unit)
            block[:] = np.float32(0.0)
            at = codes.ctypes.data + start * row_bytes
            for c in range(runs):
                sums = block.ctypes.data + 256 * AT_ONCE * c
                if m == 1:
                    _add_one(plan, at, c, kept.ctypes.data, found, factors.ctypes.data, sums)
                elif m == 2:
                    _add_two(plan, at, c, kept.ctypes.data, found, factors.ctypes.data, sums)
                else:
                    _add_four(plan, at, c, kept.ctypes.data, found, factors.ctypes.data, sums)
            for r in range(m):
                for c in range(runs):
                    for k in range(64):
                        total[q + r, 64 * c + k] += block[c, 64 * r + k]
    for q in range(g):
        for k in range(64 * runs):
            j = tables.coordinates[k // 64 * 64 + column_of_sum(k % 64, plan.bits)]
            if j >= 0:
                out[q, j] += total[q, k]
