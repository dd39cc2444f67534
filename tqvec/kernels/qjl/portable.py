"""Encoding of mode "prod" (Algorithm 2): a first stage, and the signs of its projected residual (README.md)."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.fwht.portable import forward_tile_portable
from tqvec.kernels.pack.portable import pack_row_portable, padded_words, place_codes
from tqvec.kernels.quantize.portable import CHUNK, add_products, load_tile_portable, quantize_portable, tree_sum


@jit
def _leave_residual(y, quantizer, codes, cell, levels, part):
    """Encode by the first stage; `y` becomes the residual, and `part` the partial sums of its squares."""
    part[:] = 0.0
    for b in range(quantizer.bands.shape[0]):
        for c in range(quantizer.bands[b, 0], quantizer.bands[b, 1], CHUNK):
            end = min(c + CHUNK, quantizer.bands[b, 1])
            values = y[c:end].reshape(-1)
            quantize_portable(values, b, quantizer, cell, codes[c:end].reshape(-1), levels)
            for k in range(values.size):
                values[k] -= levels[k]
            add_products(values, values, c, part)


@jit
def encode_prod_rows_portable(x, rotation, quantizer, projection, bands, start, stop, out):
    """Encode rows ``start .. stop`` of `x`: a code is twice the code of the first stage, plus the QJL bit.

    Parameters
    ----------
    x : (n, d) float32
    rotation : RotationTables
    quantizer : QuantizerTables
        Of the first stage; at 0 bits its only level is 0.
    projection : RotationTables
        S, up to a positive factor.
    bands : (n_bands, 3) int64
        Bands of the codes: those of the first stage, one bit wider.
    start, stop : int
    out : EncodedProducts
        Filled.
    """
    data, norm, residual = out
    d = x.shape[1]
    tile = np.zeros((d, LANES), np.float32)
    spare = np.zeros((d, LANES), np.float32)
    other = np.zeros((d, LANES), np.float32)
    codes = np.empty((d, LANES), np.uint8)
    cell = np.empty(CHUNK * LANES, np.int32)
    levels = np.empty(CHUNK * LANES, np.float32)
    part = np.empty(8 * LANES, np.float64)
    words = np.zeros((LANES, padded_words(bands)), np.uint64)
    flat = words.view(np.uint8)
    for i in range(start, stop, LANES):
        count = min(LANES, stop - i)
        load_tile_portable(x, i, count, tile, part, norm)
        y = forward_tile_portable(tile, spare, rotation)
        _leave_residual(y, quantizer, codes, cell, levels, part)
        for lane in range(count):
            residual[i + lane] = np.sqrt(tree_sum(part[lane::LANES]))
        projected = forward_tile_portable(y, other, projection)
        for b in range(bands.shape[0]):
            for j in range(bands[b, 0], bands[b, 1]):
                for lane in range(count):
                    codes[j, lane] = 2 * codes[j, lane] + (projected[j, lane] > np.float32(0.0))
        place_codes(codes, bands, flat[:count])
        for lane in range(count):
            pack_row_portable(words[lane], bands, data[i + lane])
