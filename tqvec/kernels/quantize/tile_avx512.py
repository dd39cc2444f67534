"""Steps that all AVX-512 encoders share: load a tile of 16 vectors, normalised, and add up products."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.fwht.avx512 import ROW
from tqvec.kernels.quantize.portable import tree_sum
from tqvec.kernels.simd.floats import mul_f64x8, multiply_add_f64x8, narrow_f32x16, widen_f64x8
from tqvec.kernels.simd.memory import load_f32x8, load_f64x8, splat_load_f64x8, store_f64x8, zero_f64x8
from tqvec.kernels.simd.shuffles import extract_high_f32x8, extract_low_f32x8
from tqvec.kernels.simd.tuples import store_16, transpose_16

TOGETHER = 4  # rows whose lengths are summed side by side


@jit
def _square(address, sums):
    x = widen_f64x8(load_f32x8(address))
    return multiply_add_f64x8(x, x, sums)


@jit
def row_lengths(x, rows, length):
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
def unit_part(address, inverse):
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
            unit_part(a + step * rows[0], f),
            unit_part(a + step * rows[1], f + 8),
            unit_part(a + step * rows[2], f + 16),
            unit_part(a + step * rows[3], f + 24),
            unit_part(a + step * rows[4], f + 32),
            unit_part(a + step * rows[5], f + 40),
            unit_part(a + step * rows[6], f + 48),
            unit_part(a + step * rows[7], f + 56),
            unit_part(a + step * rows[8], f + 64),
            unit_part(a + step * rows[9], f + 72),
            unit_part(a + step * rows[10], f + 80),
            unit_part(a + step * rows[11], f + 88),
            unit_part(a + step * rows[12], f + 96),
            unit_part(a + step * rows[13], f + 104),
            unit_part(a + step * rows[14], f + 112),
            unit_part(a + step * rows[15], f + 120),
        )
        store_16(tile.ctypes.data + ROW * j, ROW, transpose_16(values))
    for j in range(d // 16 * 16, d):
        for lane in range(LANES):
            tile[j, lane] = np.float32(np.float64(x[rows[lane], j]) * inverse[lane])


@jit
def load_workspace():
    """Allocate the workspace of `load_tile_avx512`."""
    return np.empty(LANES, np.int64), np.empty(LANES), np.empty(LANES)


@jit
def load_tile_avx512(x, start, count, workspace, tile, norm):
    """Put rows ``start .. start + count`` of `x` into the lanes of `tile`, normalised; further lanes repeat the last.

    Returns
    -------
    int
        ``start + count``, or the first row that holds NaN or infinity.
    """
    rows, length, inverse = workspace
    for lane in range(LANES):
        rows[lane] = start + min(lane, count - 1)
    row_lengths(x, rows, length)
    for lane in range(LANES):
        if not np.isfinite(length[lane]):
            return rows[lane]
        inverse[lane] = 1.0 / length[lane] if length[lane] > 0.0 else 0.0
    for lane in range(count):
        norm[start + lane] = length[lane]
    _load_tile(x, rows, inverse, tile)
    return start + count


@jit
def _add(sums, a, b):
    """Add products of eight float64 to eight sums in memory."""
    store_f64x8(sums, multiply_add_f64x8(a, b, load_f64x8(sums)))


@jit
def add_products_avx512(values, level, j, dot, energy):
    """Add y · level and level² of coordinate `j` to the sums of class j mod 8, products being exact in float64.

    `values`, `dot` and `energy` are addresses: of 16 float32, of (8, LANES) float64 twice; `level` is a register.
    """
    low = widen_f64x8(extract_low_f32x8(level))
    high = widen_f64x8(extract_high_f32x8(level))
    part = 8 * LANES * (j & 7)
    _add(dot + part, widen_f64x8(load_f32x8(values)), low)
    _add(dot + part + 64, widen_f64x8(load_f32x8(values + 32)), high)
    _add(energy + part, low, low)
    _add(energy + part + 64, high, high)


@jit
def finish_sums(parts, sums):
    """Add up the eight parts (8, LANES) of each lane, for as many lanes as `sums` has."""
    for lane in range(sums.size):
        sums[lane] = tree_sum(parts[:, lane])
