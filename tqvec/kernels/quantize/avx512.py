"""`encode_rows` with AVX-512: the same numbers as the portable kernel, each step in registers."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.fwht.avx512 import ROW, aligned_tile, forward_tile_avx512, inverse_tile_avx512
from tqvec.kernels.pack.avx512 import pack_tile_avx512
from tqvec.kernels.pack.portable import padded_words
from tqvec.kernels.quantize.portable import CHUNK, add_products, quantize_portable
from tqvec.kernels.quantize.tile_avx512 import (
    add_products_avx512,
    finish_sums,
    load_tile_avx512,
    load_workspace,
    row_lengths,
    unit_part,
)
from tqvec.kernels.simd.bits import add_where_i32x16, and_nonzero_i32x16
from tqvec.kernels.simd.floats import greater_f32x16
from tqvec.kernels.simd.memory import (
    load_bytes_i32x16,
    load_f32x16,
    prefetch,
    splat_i32x16,
    store_f32x16,
    zero_i32x16,
)
from tqvec.kernels.simd.x86 import permute_f32x16
from tqvec.kernels.trellis.windows import levels_of_rows_portable


@jit
def _quantize_band(y, band, thresholds, centroids, masks, sums, ahead):
    """Quantise a band to at most four bits, and add y · level and level² to `sums`, two arrays (8, LANES).

    A code is the number of thresholds below the value, by a binary search: each outcome is a bit of 16 codes.
    Meanwhile the lines of the next 16 vectors, from the address `ahead` on, are asked for, one per coordinate.
    """
    start, stop, nbits = band
    dot, energy = sums
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
        add_products_avx512(at, level, j, dot.ctypes.data, energy.ctypes.data)


@jit
def _quantize_wide_band(y, band, number, quantizer, workspace, masks, sums):
    """Quantise a band of more than four bits as the portable kernel does; `number` is that of the band."""
    start, stop, nbits = band
    cell, codes, levels = workspace
    dot, energy = sums
    for c in range(start, stop, CHUNK):
        n = min(CHUNK, stop - c)
        values = y[c : c + n].reshape(-1)
        quantize_portable(values, number, quantizer, cell, codes, levels)
        chosen = levels[: values.size]
        add_products(values, chosen, c, dot.reshape(-1))
        add_products(chosen, chosen, c, energy.reshape(-1))
        for j in range(n):
            row = load_bytes_i32x16(codes.ctypes.data + LANES * j)
            for plane in range(nbits):
                masks[plane, c + j] = and_nonzero_i32x16(row, splat_i32x16(np.int32(1 << plane)))


@jit
def encode_rows_avx512(x, rotation, quantizer, start, stop, out):
    """`encode_rows_portable`, to the last bit."""
    data, norm, dot, energy = out
    d = x.shape[1]
    bands = quantizer.bands
    tile = aligned_tile(d)
    spare = aligned_tile(d)
    loading = load_workspace()
    masks = np.empty((8, d + 64), np.uint16)
    dot_part = np.empty((8, LANES))
    energy_part = np.empty((8, LANES))
    workspace = (
        np.empty(CHUNK * LANES, np.int32),
        np.empty(CHUNK * LANES, np.uint8),
        np.empty(CHUNK * LANES, np.float32),
    )
    for i in range(start, stop, LANES):
        count = min(LANES, stop - i)
        good = load_tile_avx512(x, i, count, loading, tile, norm)
        if good < i + count:
            return good
        y = forward_tile_avx512(tile, spare, rotation)
        dot_part[:] = 0.0
        energy_part[:] = 0.0
        for b in range(bands.shape[0]):
            band = bands[b, 0], bands[b, 1], bands[b, 2]
            if bands[b, 2] > 4:
                _quantize_wide_band(y, band, b, quantizer, workspace, masks, (dot_part, energy_part))
                continue
            ahead = x.ctypes.data + 4 * d * (i + LANES)
            thresholds, centroids = quantizer.thresholds[b], quantizer.centroids[b]
            _quantize_band(y, band, thresholds, centroids, masks, (dot_part, energy_part), ahead)
        pack_tile_avx512(masks, bands, count, data[i : i + count])
        finish_sums(dot_part, dot[i : i + count])
        finish_sums(energy_part, energy[i : i + count])
    return stop


@jit
def decode_rows_avx512(data, scale, rotation, quantizer, spread, start, stop, out):
    """`decode_rows_portable`, to the last bit."""
    d = out.shape[1]
    tile, spare = aligned_tile(d), aligned_tile(d)
    words = np.zeros(padded_words(quantizer.bands), np.uint64)
    for i in range(start, stop, LANES):
        count = min(LANES, stop - i)
        tile[quantizer.bands[-1, 1] :] = np.float32(0.0)  # bands need not reach d
        levels_of_rows_portable(data, i, count, quantizer, spread, words, tile)
        y = inverse_tile_avx512(tile, spare, rotation)
        for lane in range(count):
            s = scale[i + lane]
            for j in range(d):
                out[i + lane, j] = y[j, lane] * s


@jit
def unit_rows_avx512(x, start, stop, out):
    """`unit_rows_portable`, to the last bit."""
    d = x.shape[1]
    rows, length, inverse = load_workspace()
    for i in range(start, stop, LANES):
        count = min(LANES, stop - i)
        for lane in range(LANES):
            rows[lane] = i + min(lane, count - 1)
        row_lengths(x, rows, length)
        for lane in range(count):
            inverse[lane] = 1.0 / length[lane] if length[lane] > 0.0 else 0.0
            at = 4 * d * (i + lane)
            for j in range(0, d // 16 * 16, 16):
                value = unit_part(x.ctypes.data + at + 4 * j, inverse.ctypes.data + 8 * lane)
                store_f32x16(out.ctypes.data + at + 4 * j, value)
            for j in range(d // 16 * 16, d):
                out[i + lane, j] = np.float32(np.float64(x[i + lane, j]) * inverse[lane])
