"""`encode_rows` with AVX-512: the same numbers as the portable kernel, each step in registers."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.fwht.avx512 import ROW, aligned_tile, forward_tile_avx512
from tqvec.kernels.pack.avx512 import pack_tile_avx512
from tqvec.kernels.quantize.portable import encode_tile_portable, encode_work
from tqvec.kernels.quantize.tile_avx512 import add_products_avx512, finish_sums, load_tile_avx512, load_work
from tqvec.kernels.simd.bits import add_where_i32x16
from tqvec.kernels.simd.floats import greater_f32x16
from tqvec.kernels.simd.memory import load_f32x16, prefetch, zero_i32x16
from tqvec.kernels.simd.x86 import permute_f32x16


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
        add_products_avx512(at, level, j, dot.ctypes.data, energy.ctypes.data)


@jit
def encode_rows_avx512(x, rotation, quantizer, start, stop, data, norm, dot, energy):
    """`encode_rows_portable`, to the last bit."""
    d = x.shape[1]
    bands = quantizer.bands
    in_registers = np.all(bands[:, 2] <= 4)
    tile = aligned_tile(d)
    spare = aligned_tile(d)
    loading = load_work()
    masks = np.empty((8, d + 64), np.uint16)
    dot_part = np.empty((8, LANES))
    energy_part = np.empty((8, LANES))
    work = encode_work(bands)
    for i in range(start, stop, LANES):
        count = min(LANES, stop - i)
        good = load_tile_avx512(x, i, count, loading, tile, norm)
        if good < i + count:
            return good
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
        finish_sums(dot_part, dot[i : i + count])
        finish_sums(energy_part, energy[i : i + count])
    return stop
