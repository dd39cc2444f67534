"""`encode_rows` with AVX-512: the same numbers as the portable kernel, each step in registers."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.fwht.avx512 import ROW, aligned_tile, forward_tile_avx512, inverse_tile_avx512
from tqvec.kernels.pack.avx512 import pack_tile_avx512
from tqvec.kernels.pack.portable import padded_words
from tqvec.kernels.quantize.portable import encode_tile_portable, encode_workspace
from tqvec.kernels.quantize.tile_avx512 import add_products_avx512, finish_sums, load_tile_avx512, load_workspace
from tqvec.kernels.simd.bits import add_where_i32x16
from tqvec.kernels.simd.floats import greater_f32x16
from tqvec.kernels.simd.memory import load_f32x16, prefetch, zero_i32x16
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
def encode_rows_avx512(x, rotation, quantizer, start, stop, out):
    """`encode_rows_portable`, to the last bit."""
    data, norm, dot, energy = out
    d = x.shape[1]
    bands = quantizer.bands
    in_registers = np.all(bands[:, 2] <= 4)
    tile = aligned_tile(d)
    spare = aligned_tile(d)
    loading = load_workspace()
    masks = np.empty((8, d + 64), np.uint16)
    dot_part = np.empty((8, LANES))
    energy_part = np.empty((8, LANES))
    workspace = encode_workspace(bands)
    for i in range(start, stop, LANES):
        count = min(LANES, stop - i)
        good = load_tile_avx512(x, i, count, loading, tile, norm)
        if good < i + count:
            return good
        y = forward_tile_avx512(tile, spare, rotation)
        if not in_registers:
            encode_tile_portable(y, quantizer, workspace, count, data[i : i + count], dot[i:], energy[i:])
            continue
        dot_part[:] = 0.0
        energy_part[:] = 0.0
        for b in range(bands.shape[0]):
            band = bands[b, 0], bands[b, 1], bands[b, 2]
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
