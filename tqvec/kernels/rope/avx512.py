"""`add_means` with AVX-512: curves of 64 tokens at a time, times the coefficients of up to four queries."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.rope.portable import MEAN_BLOCK, next_waves, place_fast_waves, start_phases
from tqvec.kernels.simd.floats import add_f32x16, multiply_add_f32x16
from tqvec.kernels.simd.memory import (
    load_f32x16,
    load_where_f32x16,
    splat_f32x16,
    splat_load_f32x16,
    store_f32x16,
    store_where_f32x16,
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
def _polynomial_terms(even, odd, step, slow, out):
    """Write the coefficients of the polynomials for four queries at addresses.

    The factors of a wave's cosine and sine, float32, lie at `even` and `odd`, and those of the next query `step` bytes
    on. `slow` is the number of slow waves and the addresses of their coefficients; `out` the address of the result and
    the bytes to that of the next query.
    """
    n, cosines, sines = slow
    to, stride = out
    zero = splat_f32x16(np.float32(0.0))
    a, b, c, d = zero, zero, zero, zero
    for p in range(n):
        cosine, sine = load_f32x16(cosines + 64 * p), load_f32x16(sines + 64 * p)
        at, beside = even + 4 * p, odd + 4 * p
        a = multiply_add_f32x16(splat_load_f32x16(at), cosine, a)
        b = multiply_add_f32x16(splat_load_f32x16(at + step), cosine, b)
        c = multiply_add_f32x16(splat_load_f32x16(at + 2 * step), cosine, c)
        d = multiply_add_f32x16(splat_load_f32x16(at + 3 * step), cosine, d)
        a = multiply_add_f32x16(splat_load_f32x16(beside), sine, a)
        b = multiply_add_f32x16(splat_load_f32x16(beside + step), sine, b)
        c = multiply_add_f32x16(splat_load_f32x16(beside + 2 * step), sine, c)
        d = multiply_add_f32x16(splat_load_f32x16(beside + 3 * step), sine, d)
    store_f32x16(to, a)
    store_f32x16(to + stride, b)
    store_f32x16(to + 2 * stride, c)
    store_f32x16(to + 3 * stride, d)


@jit
def add_means_avx512(products, waves, position, scale, out):
    """See `add_means_portable`; each product and its sum are rounded once. All arrays are C-contiguous."""
    g, n = out.shape
    width = waves.table.shape[0]
    padded = -(-g // _AT_ONCE) * _AT_ONCE
    given = np.zeros((2, padded, waves.angles.size), np.float32)
    for part in range(2):
        for q in range(g):
            for i in range(waves.angles.size):
                given[part, q, i] = products[part, q, i]
    factors, angle = np.empty_like(given), np.empty((2, waves.angles.size), np.float32)
    bits = np.empty(MEAN_BLOCK // _TILE, np.uint64)
    coefficients = np.zeros((padded, width), np.float32)
    sums = np.empty((_AT_ONCE, _TILE), np.float32)
    phases, steps = start_phases(waves.angles, np.float64(position))
    # The caller holds these arrays: to take them out of the tuple in a loop would count references.
    slow = waves.cosine.shape[0], waves.cosine.ctypes.data, waves.sine.ctypes.data
    table, rows, f = waves.table.ctypes.data, waves.rows, waves.angles.size
    for start in range(0, n, MEAN_BLOCK):
        next_waves(given, phases, steps, angle, factors)
        place_fast_waves(factors, waves, coefficients)
        count = min(MEAN_BLOCK, n - start)
        for first in range(0, count, _TILE):
            bits[first // _TILE] = _with_mean(scale, start + first, min(_TILE, count - first))
        for q in range(0, g, _AT_ONCE):
            even = factors.ctypes.data + 4 * f * q
            at = coefficients.ctypes.data + 4 * width * q
            _polynomial_terms(even, even + 4 * f * padded, 4 * f, slow, (at, 4 * width))
            for first in range(0, count, _TILE):
                sums[:] = np.float32(0.0)
                _sum_curves(at, 4 * width, g - q, table + 4 * first, rows, sums.ctypes.data)
                for i in range(min(_AT_ONCE, g - q)):
                    scores = out.ctypes.data + 4 * ((q + i) * n + start + first)
                    _add_where(bits[first // _TILE], sums.ctypes.data + 4 * _TILE * i, scores)
