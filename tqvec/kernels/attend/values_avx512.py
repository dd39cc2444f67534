"""`add_values` with AVX-512: levels of 64 coordinates at a time, times the weights of up to four queries."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.attend.indices import aligned_bytes, bytes_kept, indices_of_run, look_up, row_plan
from tqvec.kernels.attend.portable import BLOCK, add_values_portable, widen_scales
from tqvec.kernels.simd.bits import and_i32x16, find_lowest_bit, shift_left_i32x16, shift_right_i32x16
from tqvec.kernels.simd.floats import add_f32x16, convert_f32x16, greater_equal_f32x16, max_f32x16
from tqvec.kernels.simd.integers import add_i32x16
from tqvec.kernels.simd.memory import (
    load_f32x16,
    load_i8x64,
    load_i32,
    load_i32x16,
    load_where_f32x16,
    prefetch,
    splat_f32x16,
    splat_i32x16,
    store_f32x16,
    store_i32x16,
)
from tqvec.kernels.simd.shuffles import (
    interleave_high_i16x32,
    interleave_low_i16x32,
    view_i8x64_as_i32x16,
    view_i16x32_as_i32x16,
)
from tqvec.kernels.simd.tuples import (
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
SMALLEST = np.float32(1e-45)  # float32 above 0
AT_ONCE = 4  # queries whose sums fit the registers
RUN_BYTES = 256 * AT_ONCE  # of the sums of a run
_ALL = np.uint64(0xFFFF)


@jit
def _levels(plan, row, run):
    """Levels of one run of a row at an address, four registers in the order of `column_of_sum`."""
    index = indices_of_run(plan, row, load_i8x64(plan.source + 64 * run), load_i8x64(plan.fields + 64 * run))
    if plan.bits <= TWO_TABLES:
        low = load_f32x16(plan.levels + 128 * run)
        x0 = view_i8x64_as_i32x16(index)  # of a lane the lookup takes the lowest bits alone
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
    first = view_i16x32_as_i32x16(interleave_low_i16x32(low_bytes, high_bytes))
    second = view_i16x32_as_i32x16(interleave_high_i16x32(low_bytes, high_bytes))
    half, upper = splat_i32x16(np.int32(16)), splat_i32x16(np.int32(-65536))
    return (  # 2^16 times the level
        convert_f32x16(shift_left_i32x16(first, half)),
        convert_f32x16(and_i32x16(first, upper)),
        convert_f32x16(shift_left_i32x16(second, half)),
        convert_f32x16(and_i32x16(second, upper)),
    )


@jit
def column_of_sum(k, index_bits):
    """Column of a run whose sum is lane ``k % 16`` of register ``k // 16``."""
    vector, lane = k // LANES, k % LANES
    if index_bits <= TWO_TABLES:
        return 4 * lane + vector
    return 32 * (vector // 2) + 2 * lane + vector % 2


@jit
def _kept_rows(weights, start, count, least, lanes, kept, skipped):
    """List the rows of ``start .. start + count`` that are not skipped; add the weights of the others to `skipped`.

    `lanes` is 0 … 15, int32. `kept` (BLOCK,) int32 is filled with row numbers from `start` on; return their number.
    """
    g, n = weights.shape
    nothing = splat_f32x16(np.float32(0.0))
    least = splat_f32x16(max(least, SMALLEST))  # a weight of 0 adds nothing
    n_kept = 0
    for i in range(0, count, LANES):
        valid = bytes_kept(count - i) & _ALL
        at = weights.ctypes.data + 4 * (start + i)
        heaviest = nothing
        for q in range(g):
            heaviest = max_f32x16(heaviest, load_where_f32x16(valid, at + 4 * q * n, nothing))
        bits = greater_equal_f32x16(heaviest, least) & valid
        if bits == _ALL:
            rows = add_i32x16(load_i32x16(lanes.ctypes.data), splat_i32x16(np.int32(i)))
            store_i32x16(kept.ctypes.data + 4 * n_kept, rows)
            n_kept += LANES
            continue
        for q in range(g):
            light = load_where_f32x16(valid & ~bits, at + 4 * q * n, nothing)
            sums = skipped.ctypes.data + 64 * q
            store_f32x16(sums, add_f32x16(load_f32x16(sums), light))
        while bits != 0:
            kept[n_kept] = i + find_lowest_bit(bits)
            n_kept += 1
            bits &= bits - np.uint64(1)
    return n_kept


class KeptRows(NamedTuple):
    """Addresses of the rows of a block that are not skipped.

    Attributes
    ----------
    codes : int
        Address of the first row of the block.
    numbers, factors : int
        Addresses of `count` row numbers, int32, and of the factors of all rows of the block, float32.
    count : int
    """

    codes: int
    numbers: int
    factors: int
    count: int


@jit
def _add_one(plan, rows, run, sums, ahead, step):
    """Add the values of `KeptRows`, times their factors, to the sums of one query in one run, or also the next.

    `sums` is the address of four registers for each query of a run. For each row and run, memory `step` bytes on from
    the address `ahead` is asked for.
    """
    codes, kept, factors, n = rows
    total = load_4(sums, 64)
    if run + 1 < plan.runs:
        other = load_4(sums + RUN_BYTES, 64)
        for i in range(n):
            t = load_i32(kept + 4 * i)
            row, factor = codes + t * plan.row_bytes, factors + 4 * t
            prefetch(ahead + 2 * i * step)
            total = add_multiples_1(total, _levels(plan, row, run), factor, 4 * BLOCK)
            other = add_multiples_1(other, _levels(plan, row, run + 1), factor, 4 * BLOCK)
        store_4(sums + RUN_BYTES, 64, other)
    else:
        for i in range(n):
            t = load_i32(kept + 4 * i)
            prefetch(ahead + i * step)
            levels = _levels(plan, codes + t * plan.row_bytes, run)
            total = add_multiples_1(total, levels, factors + 4 * t, 4 * BLOCK)
    store_4(sums, 64, total)


@jit
def _add_two(plan, rows, run, sums, ahead, step):
    """`_add_one` for two queries and one run."""
    codes, kept, factors, n = rows
    total = load_8(sums, 64)
    for i in range(n):
        t = load_i32(kept + 4 * i)
        prefetch(ahead + i * step)
        levels = _levels(plan, codes + t * plan.row_bytes, run)
        total = add_multiples_2(total, levels, factors + 4 * t, 4 * BLOCK)
    store_8(sums, 64, total)


@jit
def _add_four(plan, rows, run, sums, ahead, step):
    """`_add_one` for four queries and one run."""
    codes, kept, factors, n = rows
    total = load_16(sums, 64)
    for i in range(n):
        t = load_i32(kept + 4 * i)
        prefetch(ahead + i * step)
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
    lanes, kept = np.arange(LANES).astype(np.int32), np.empty(BLOCK, np.int32)
    light = np.zeros((g, LANES), np.float32)  # weights of skipped rows
    step = row_bytes // runs
    block = aligned_bytes(runs, RUN_BYTES).view(np.float32)  # sums of a block of rows
    total = np.zeros((g, 64 * runs), np.float32)
    coordinates = np.empty(64 * runs, np.int64)  # coordinate of each sum, -1 where it only fills up
    for k in range(64 * runs):
        coordinates[k] = tables.coordinates[k // 64 * 64 + column_of_sum(k % 64, plan.bits)]
    for q in range(g):
        for k in range(64 * runs):
            if coordinates[k] >= 0:
                total[q, k] = out[q, coordinates[k]]
    for start in range(0, n, BLOCK):
        count = min(BLOCK, n - start)
        n_kept = _kept_rows(weights, start, count, least, lanes, kept, light)
        if n_kept == 0:
            continue
        widen_scales(scale, start, count, wide)
        wide *= unit
        for q in range(0, g, AT_ONCE):
            m = min(AT_ONCE, g - q)
            for r in range(m):
                weight, factor = weights[q + r, start : start + count], factors[r]
                for i in range(count):
                    factor[i] = weight[i] * wide[i]
            block[:] = np.float32(0.0)
            at = codes.ctypes.data + start * row_bytes
            for c in range(0, runs, 2 if m == 1 else 1):
                sums = block.ctypes.data + RUN_BYTES * c
                ahead = at + BLOCK * (row_bytes + c * step)  # each run asks for its part of the next block
                rows = KeptRows(at, kept.ctypes.data, factors.ctypes.data, n_kept)
                if m == 1:
                    _add_one(plan, rows, c, sums, ahead, step)
                elif m == 2:
                    _add_two(plan, rows, c, sums, ahead, step)
                else:
                    _add_four(plan, rows, c, sums, ahead, step)
            for r in range(m):
                for c in range(runs):
                    for k in range(64):
                        total[q + r, 64 * c + k] += block[c, 64 * r + k]
    for q in range(g):
        skipped[q] += light[q].sum()
        for k in range(64 * runs):
            if coordinates[k] >= 0:
                out[q, coordinates[k]] = total[q, k]
