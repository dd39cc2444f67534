"""`encode_rows` with AVX-512: the same numbers as the portable kernel, each step in registers."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.fwht.avx512 import ROW, aligned_tile, forward_tile_avx512
from tqvec.kernels.pack.avx512 import pack_tile_avx512, whole_bytes
from tqvec.kernels.quantize.portable import encode_tile_portable, encode_work, tree_sum
from tqvec.kernels.simd.base import (
    add_where_i32x16,
    greater_f32x16,
    high_f32x8,
    load_f32x8,
    load_f32x16,
    load_f64x8,
    low_f32x8,
    mul_f64x8,
    multiply_add_f64x8,
    narrow_f32x16,
    prefetch,
    splat_load_f64x8,
    store_f64x8,
    widen_f64x8,
    zero_f64x8,
    zero_i32x16,
)
from tqvec.kernels.simd.rows import store_16, transpose_16
from tqvec.kernels.simd.x86 import permute_f32x16

TOGETHER = 4  # rows whose lengths are summed side by side


@jit
def _square(address, sums):
    x = widen_f64x8(load_f32x8(address))
    return multiply_add_f64x8(x, x, sums)


@jit
def _lengths(x, rows, length):
    """``length[lane]`` of the row ``rows[lane]``; register lane j holds the sum of coordinates j, j + 8, …"""
    d = x.shape[1]
    whole = d // 8 * 8
    sums = np.empty((TOGETHER, 8))
    for lane in range(0, LANES, TOGETHER):
        s0 = zero_f64x8()
        s1 = zero_f64x8()
        s2 = zero_f64x8()
        s3 = zero_f64x8()
        a0 = x.ctypes.data + 4 * d * rows[lane]
        a1 = x.ctypes.data + 4 * d * rows[lane + 1]
        a2 = x.ctypes.data + 4 * d * rows[lane + 2]
        a3 = x.ctypes.data + 4 * d * rows[lane + 3]
        for at in range(0, 4 * whole, 32):
            s0 = _square(a0 + at, s0)
            s1 = _square(a1 + at, s1)
            s2 = _square(a2 + at, s2)
            s3 = _square(a3 + at, s3)
        store_f64x8(sums.ctypes.data, s0)
        store_f64x8(sums.ctypes.data + 64, s1)
        store_f64x8(sums.ctypes.data + 128, s2)
        store_f64x8(sums.ctypes.data + 192, s3)
        for r in range(TOGETHER):
            for j in range(whole, d):
                value = np.float64(x[rows[lane + r], j])
                sums[r, j - whole] += value * value
            length[lane + r] = np.sqrt(tree_sum(sums[r]))


@jit
def _unit(address, inverse):
    """16 coordinates of a row, times its inverse length."""
    factor = splat_load_f64x8(inverse)
    low = mul_f64x8(widen_f64x8(load_f32x8(address)), factor)
    return narrow_f32x16(low, mul_f64x8(widen_f64x8(load_f32x8(address + 32)), factor))


@jit
def _load_tile(x, rows, inverse, tile):
    """Put rows of `x`, made unit vectors, into the lanes of `tile`."""
    d = x.shape[1]
    step = 4 * d
    for j in range(0, d // 16 * 16, 16):
        a = x.ctypes.data + 4 * j
        f = inverse.ctypes.data
        values = (
            _unit(a + step * rows[0], f),
            _unit(a + step * rows[1], f + 8),
            _unit(a + step * rows[2], f + 16),
            _unit(a + step * rows[3], f + 24),
            _unit(a + step * rows[4], f + 32),
            _unit(a + step * rows[5], f + 40),
            _unit(a + step * rows[6], f + 48),
            _unit(a + step * rows[7], f + 56),
            _unit(a + step * rows[8], f + 64),
            _unit(a + step * rows[9], f + 72),
            _unit(a + step * rows[10], f + 80),
            _unit(a + step * rows[11], f + 88),
            _unit(a + step * rows[12], f + 96),
            _unit(a + step * rows[13], f + 104),
            _unit(a + step * rows[14], f + 112),
            _unit(a + step * rows[15], f + 120),
        )
        store_16(tile.ctypes.data + ROW * j, ROW, transpose_16(values))
    for j in range(d // 16 * 16, d):
        for lane in range(LANES):
            tile[j, lane] = np.float32(np.float64(x[rows[lane], j]) * inverse[lane])


@jit
def _add(sums, a, b):
    """Add products of eight float64 to eight sums in memory."""
    store_f64x8(sums, multiply_add_f64x8(a, b, load_f64x8(sums)))


@jit
def _quantize_band(y, start, stop, nbits, thresholds, centroids, masks, dot, energy, ahead):
    """Codes of at most four bits, and the sums of y · level and level²; `dot` and `energy` are (8, LANES).

    The code is how many thresholds lie below: a binary search, of which each outcome is a bit of 16 codes.
    Meanwhile the lines of the next 16 vectors, from the address `ahead` on, are asked for: one a coordinate.
    """
    levels = load_f32x16(centroids.ctypes.data)
    for j in range(start, stop):
        at = y.ctypes.data + ROW * j
        prefetch(ahead + ROW * j)
        value = load_f32x16(at)
        code = zero_i32x16()
        for plane in range(nbits - 1, -1, -1):
            half = 1 << plane
            middle = permute_f32x16(load_f32x16(thresholds.ctypes.data + 4 * (half - 1)), code)
            bits = greater_f32x16(value, middle)
            masks[plane, j] = bits
            code = add_where_i32x16(code, bits, np.int32(half))
        level = permute_f32x16(levels, code)
        low = widen_f64x8(low_f32x8(level))
        high = widen_f64x8(high_f32x8(level))
        part = 8 * LANES * (j & 7)
        _add(dot.ctypes.data + part, widen_f64x8(load_f32x8(at)), low)
        _add(dot.ctypes.data + part + 64, widen_f64x8(load_f32x8(at + 32)), high)
        _add(energy.ctypes.data + part, low, low)
        _add(energy.ctypes.data + part + 64, high, high)


@jit
def encode_rows_avx512(x, rotation, quantizer, start, stop, data, norm, dot, energy):
    """`encode_rows_portable`, to the last bit."""
    d = x.shape[1]
    bands = quantizer.bands
    in_registers = np.all(bands[:, 2] <= 4) and whole_bytes(bands)
    tile = aligned_tile(d)
    spare = aligned_tile(d)
    rows = np.empty(LANES, np.int64)
    length = np.empty(LANES)
    inverse = np.empty(LANES)
    masks = np.empty((8, d + 64), np.uint16)
    dot_part = np.empty((8, LANES))
    energy_part = np.empty((8, LANES))
    work = encode_work(bands)
    for i in range(start, stop, LANES):
        count = min(LANES, stop - i)
        for lane in range(LANES):
            rows[lane] = i + min(lane, count - 1)  # empty lanes repeat the last row
        _lengths(x, rows, length)
        for lane in range(LANES):
            if not np.isfinite(length[lane]):
                return rows[lane]
            inverse[lane] = 1.0 / length[lane] if length[lane] > 0.0 else 0.0
        _load_tile(x, rows, inverse, tile)
        norm[i : i + count] = length[:count]
        y = forward_tile_avx512(tile, spare, rotation)
        if not in_registers:
            encode_tile_portable(y, quantizer, work, count, data[i : i + count], dot[i:], energy[i:])
            continue
        dot_part[:] = 0.0
        energy_part[:] = 0.0
        for b in range(bands.shape[0]):
            _quantize_band(
                y,
                bands[b, 0],
                bands[b, 1],
                bands[b, 2],
                quantizer.thresholds[b],
                quantizer.centroids[b],
                masks,
                dot_part,
                energy_part,
                x.ctypes.data + 4 * d * (i + LANES),
            )
        pack_tile_avx512(masks, bands, count, data[i : i + count])
        for lane in range(count):
            dot[i + lane] = tree_sum(dot_part[:, lane])
            energy[i + lane] = tree_sum(energy_part[:, lane])
    return stop
