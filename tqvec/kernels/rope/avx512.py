"""`add_means` with AVX-512: curves of 64 tokens at a time, times the coefficients of up to four queries."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.rope.portable import MEAN_BLOCK, mean_coefficients, start_phases
from tqvec.kernels.simd.floats import add_f32x16
from tqvec.kernels.simd.memory import load_f32x16, load_where_f32x16, splat_f32x16, store_f32x16, store_where_f32x16
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

_TILE = 64  # tokens
_AT_ONCE = 4  # queries whose sums fit the registers
_ALL = np.uint64(0xFFFF)


@jit
def _sum_curves(coefficients, stride, count, table, rows, sums):
    """Add curves of 64 tokens, times the coefficients of up to four of `count` queries, to the sums at an address."""
    if count == 1:
        one = load_4(sums, 64)
        for r in range(rows):
            one = add_multiples_1(one, load_4(table + 4 * MEAN_BLOCK * r, 64), coefficients + 4 * r, stride)
        store_4(sums, 64, one)
    elif count == 2:
        two = load_8(sums, 64)
        for r in range(rows):
            two = add_multiples_2(two, load_4(table + 4 * MEAN_BLOCK * r, 64), coefficients + 4 * r, stride)
        store_8(sums, 64, two)
    else:
        four = load_16(sums, 64)
        for r in range(rows):
            four = add_multiples_4(four, load_4(table + 4 * MEAN_BLOCK * r, 64), coefficients + 4 * r, stride)
        store_16(sums, 64, four)


@jit
def _add_where(bits, sums, scores):
    """Add 64 sums to the scores at an address whose bit is set."""
    nothing = splat_f32x16(np.float32(0.0))
    for lane in range(0, _TILE, LANES):
        part = (bits >> np.uint64(lane)) & _ALL
        total = load_f32x16(sums + 4 * lane)
        if part == _ALL:
            store_f32x16(scores + 4 * lane, add_f32x16(load_f32x16(scores + 4 * lane), total))
        elif part:
            old = load_where_f32x16(part, scores + 4 * lane, nothing)
            store_where_f32x16(part, scores + 4 * lane, add_f32x16(old, total))


@jit
def _with_mean(scale, start, count):
    """Return bits of the tokens ``start .. start + count`` from which the mean was subtracted."""
    plain = np.uint16(0)
    for i in range(start, start + count):
        plain |= scale[i]
    bits = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(_TILE - count)
    if plain >> np.uint16(15):
        for i in range(count):
            bits &= ~(np.uint64(scale[start + i] >> np.uint16(15)) << np.uint64(i))
    return bits


@jit
def add_means_avx512(products, waves, position, scale, out):
    """See `add_means_portable`; each product and its sum are rounded once. All arrays are C-contiguous."""
    g, n = out.shape
    rows = waves.table.shape[0]
    steps, phases = np.empty((waves.angles.size, 2)), np.empty((waves.angles.size, 2))
    coefficients = np.zeros((-(-g // _AT_ONCE) * _AT_ONCE, rows), np.float32)
    sums = np.empty((_AT_ONCE, _TILE), np.float32)
    start_phases(waves.angles, np.float64(position), steps, phases)
    for start in range(0, n, MEAN_BLOCK):
        mean_coefficients(products, waves, steps, phases, coefficients[:g])
        for first in range(start, min(start + MEAN_BLOCK, n), _TILE):
            bits = _with_mean(scale, first, min(_TILE, n - first))
            for q in range(0, g, _AT_ONCE):
                sums[:] = np.float32(0.0)
                at = coefficients.ctypes.data + 4 * rows * q
                table = waves.table.ctypes.data + 4 * (first - start)
                _sum_curves(at, 4 * rows, g - q, table, rows, sums.ctypes.data)
                for i in range(min(_AT_ONCE, g - q)):
                    _add_where(bits, sums.ctypes.data + 4 * _TILE * i, out.ctypes.data + 4 * ((q + i) * n + first))
