"""`add_values` with AVX2: levels of 32 rows as int16, which become float32 and meet up to four queries."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import jit
from tqvec.kernels.attend.indices import aligned_bytes
from tqvec.kernels.attend.portable import BLOCK, add_values_portable, widen_scales
from tqvec.kernels.attend.strips_avx2 import (
    ROWS,
    STRIP,
    ask_ahead,
    copy_tail,
    row_address,
    row_places,
    strip_plan,
    unpack_words,
)
from tqvec.kernels.simd.bits import and_i32x8, shift_left_i32x8
from tqvec.kernels.simd.floats import convert_f32x8, multiply_add_f32x8
from tqvec.kernels.simd.memory import (
    load_f32x8,
    load_fourfold_f32x16,
    load_i16x16,
    splat_i32x8,
    store_f32x8,
    store_f32x16,
)
from tqvec.kernels.simd.shuffles import view_i16x16_as_i32x8

SMALLEST = np.float32(1e-45)  # float32 above 0
AT_ONCE = 4  # queries whose sums fit the registers
_SUMS = 4 * 2 * STRIP  # bytes of the sums of a strip: those of the first and the second row of all pairs
_FACTORS = 4 * 4 * ROWS  # bytes of the factors of a query


@jit
def _levels(at):
    """Levels of eight columns of two rows, those of even columns and those of odd ones, times 2^16."""
    words = view_i16x16_as_i32x8(load_i16x16(at))
    even, odd = shift_left_i32x8(words, splat_i32x8(np.int32(16))), and_i32x8(words, splat_i32x8(np.int32(-65536)))
    return convert_f32x8(even), convert_f32x8(odd)


@jit
def _load(sums):
    return load_f32x8(sums), load_f32x8(sums + 32)


@jit
def _store(sums, values):
    store_f32x8(sums, values[0])
    store_f32x8(sums + 32, values[1])


@jit
def _add(sums, levels, factor):
    return multiply_add_f32x8(factor, levels[0], sums[0]), multiply_add_f32x8(factor, levels[1], sums[1])


@jit
def _add_one(levels, stride, pairs, factors, sums, width):
    """Add levels of `pairs` of rows, `stride` bytes apart, times their factors, to the sums of one query."""
    for at in range(0, width, 256):
        a, b, c, d = _load(sums + at), _load(sums + at + 64), _load(sums + at + 128), _load(sums + at + 192)
        for p in range(pairs):
            pair, factor = levels + p * stride + at // 2, load_f32x8(factors + 32 * p)
            a = _add(a, _levels(pair), factor)
            b = _add(b, _levels(pair + 32), factor)
            c = _add(c, _levels(pair + 64), factor)
            d = _add(d, _levels(pair + 96), factor)
        _store(sums + at, a)
        _store(sums + at + 64, b)
        _store(sums + at + 128, c)
        _store(sums + at + 192, d)


@jit
def _add_two(levels, stride, pairs, factors, sums, width):
    """`_add_one` for two queries, whose sums are `width` bytes apart."""
    for at in range(0, width, 128):
        first, second = sums + at, sums + at + width
        a, b, c, d = _load(first), _load(first + 64), _load(second), _load(second + 64)
        for p in range(pairs):
            pair, one = levels + p * stride + at // 2, factors + 32 * p
            low, high = _levels(pair), _levels(pair + 32)
            factor, other = load_f32x8(one), load_f32x8(one + _FACTORS)
            a, b = _add(a, low, factor), _add(b, high, factor)
            c, d = _add(c, low, other), _add(d, high, other)
        _store(first, a)
        _store(first + 64, b)
        _store(second, c)
        _store(second + 64, d)


@jit
def _add_four(levels, stride, pairs, factors, sums, width):
    """`_add_one` for four queries, whose sums are `width` bytes apart."""
    for at in range(0, width, 64):
        first, third = sums + at, sums + at + 2 * width
        a, b, c, d = _load(first), _load(first + width), _load(third), _load(third + width)
        for p in range(pairs):
            values, one = _levels(levels + p * stride + at // 2), factors + 32 * p
            a = _add(a, values, load_f32x8(one))
            b = _add(b, values, load_f32x8(one + _FACTORS))
            c = _add(c, values, load_f32x8(one + 2 * _FACTORS))
            d = _add(d, values, load_f32x8(one + 3 * _FACTORS))
        _store(first, a)
        _store(first + width, b)
        _store(third, c)
        _store(third + width, d)


@jit
def _kept_pairs(weights, least, heaviest, wide, kept, skipped):
    """List the pairs of rows of which one is not skipped; add the weights of the rows that are to `skipped`.

    Parameters
    ----------
    weights : (g, count) float32
        Of the rows of a block.
    least : float32
    heaviest : (BLOCK,) float32
        Workspace.
    wide : (BLOCK,) float32
        Replaced by 0 where a row is skipped.
    kept : (BLOCK // 2,) int32
        Filled with the first rows of pairs; their number is returned.
    skipped : (g,) float32
    """
    g, count = weights.shape
    heaviest[:] = np.float32(0.0)
    for q in range(g):
        row = weights[q]
        for i in range(count):
            heaviest[i] = max(heaviest[i], row[i])
    n_kept, n_light = 0, 0
    for i in range(0, count, 2):
        kept[n_kept] = i
        n_kept += max(heaviest[i], heaviest[i + 1]) >= max(least, SMALLEST)
    for i in range(count):
        light = heaviest[i] < least
        n_light += light
        wide[i] = np.float32(0.0) if light else wide[i]
    if n_light > 0:
        for q in range(g):
            row, total = weights[q], 0.0
            for i in range(count):
                total += np.float64(row[i]) if heaviest[i] < least else 0.0
            skipped[q] += np.float32(total)
    return n_kept


@jit
def _add_group(weights, group, wide, factors, levels, sums):
    """Add the levels of pairs of rows, times their weights and `wide`, to the sums of all queries.

    Parameters
    ----------
    weights : (g, count) float32
        Of the rows of a block.
    group : (pairs,) int32
        First rows of at most ``ROWS / 2`` pairs, in the order of their levels.
    wide : (BLOCK,) float32
    factors : (AT_ONCE + 1, 4 * ROWS) float32
        Workspace.
    levels : (pairs or more, bytes) uint8
    sums : (g or more, width) float32
        A multiple of `AT_ONCE` rows.
    """
    g, count = weights.shape
    pairs, stride, width = group.size, levels.shape[1], 4 * sums.shape[1]
    once = factors[AT_ONCE]
    for first in range(0, g, AT_ONCE):
        m = min(AT_ONCE, g - first)
        for q in range(m):
            row = weights[first + q]
            for p in range(pairs):
                t = group[p]
                once[2 * p] = row[t] * wide[t]
                once[2 * p + 1] = row[t + 1] * wide[t + 1] if t + 1 < count else np.float32(0.0)
            for i in range(0, 2 * pairs, 4):
                fourfold = load_fourfold_f32x16(factors.ctypes.data + AT_ONCE * _FACTORS + 4 * i)
                store_f32x16(factors.ctypes.data + q * _FACTORS + 16 * i, fourfold)
        at = sums.ctypes.data + first * width
        if m == 1:
            _add_one(levels.ctypes.data, stride, pairs, factors.ctypes.data, at, width)
        elif m == 2:
            _add_two(levels.ctypes.data, stride, pairs, factors.ctypes.data, at, width)
        else:
            _add_four(levels.ctypes.data, stride, pairs, factors.ctypes.data, at, width)


@jit
def _order_of_sums(strip_coordinates):
    """Return the coordinate of each sum, once the sums of the first and the second rows are one."""
    out = np.empty_like(strip_coordinates)
    for i in range(out.size):
        register, column = i // 4, i % 4
        out[i] = strip_coordinates[register // 4 * 16 + register // 2 % 2 * 8 + 2 * column + register % 2]
    return out


@jit
def add_values_avx2(tables, weights, codes, scale, least, out, skipped):
    """See `add_values_portable`; within the rounding of README.md. `weights` and `codes` are C-contiguous."""
    strips = tables.strips.shape[0]
    if strips == 0:
        add_values_portable(tables, weights, codes, scale, least, out, skipped)
        return
    g, n = weights.shape
    unit = np.float32(tables.word_unit / 65536.0)
    planes, levels = aligned_bytes(8, 32), aligned_bytes(ROWS // 2, 4 * STRIP * strips)
    plan, tail = strip_plan(tables, planes), copy_tail(codes)
    rows, kept = np.empty(ROWS, np.int64), np.empty(BLOCK // 2, np.int32)
    heaviest, wide = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    factors = np.zeros((AT_ONCE + 1, 4 * ROWS), np.float32)
    sums = aligned_bytes((g + AT_ONCE - 1) // AT_ONCE * AT_ONCE, _SUMS * strips).view(np.float32)
    coordinates = _order_of_sums(tables.strip_coordinates)
    total = np.zeros((g, coordinates.size), np.float32)
    for q in range(g):
        for k in range(coordinates.size):
            if coordinates[k] >= 0:
                total[q, k] = out[q, coordinates[k]]
    for start in range(0, n, BLOCK):
        count = min(BLOCK, n - start)
        block = weights[:, start : start + count]
        widen_scales(scale, start, count, wide)
        wide *= unit
        n_kept = _kept_pairs(block, least, heaviest, wide, kept, skipped)
        if n_kept == 0:
            continue
        sums[:] = np.float32(0.0)
        for first in range(0, n_kept, ROWS // 2):
            group = kept[first : min(first + ROWS // 2, n_kept)]
            places = row_places(codes, tail)
            ask_ahead(places, start + group[0])
            for p in range(group.size):
                rows[2 * p] = row_address(places, start + group[p])
                rows[2 * p + 1] = row_address(places, min(start + group[p] + 1, n - 1))
            unpack_words(plan, rows, group.size, levels.ctypes.data)
            _add_group(block, group, wide, factors, levels, sums)
        for q in range(g):
            for k in range(0, coordinates.size, 4):
                for c in range(k, k + 4):
                    total[q, c] += sums[q, k + c] + sums[q, k + c + 4]
    for q in range(g):
        for k in range(coordinates.size):
            if coordinates[k] >= 0:
                out[q, coordinates[k]] = total[q, k]
    planes[0, 0] = 0  # lives as long as the plan
