"""Encoding and decoding of rows: normalise, rotate, quantise, pack, and the sums that the scale rules need.

All arithmetic that decides a code or a scale runs in a fixed order, so its bits depend on the vector alone. Sums of d
terms run in float64 over eight partial sums (coordinate j goes to sum j % 8), which are then added as a tree.
"""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.fwht.portable import forward_tile_portable, inverse_tile_portable
from tqvec.kernels.pack.portable import pack_row_portable, padded_words
from tqvec.kernels.trellis.windows import levels_of_rows_portable

CHUNK = 64  # coordinates handled at a time where rows and tiles meet: their lines then stay in the first-level cache


@jit
def tree_sum(s):
    """Sum of eight partial sums, always in this order."""
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))


@jit
def add_products(a, b, first, part):
    """Add ``a[k] * b[k]`` to the partial sums, exactly multiplied in float64.

    `a` and `b` are flat rows of a tile, of coordinates ``first, first + 1, …``; `part` (8 * LANES,) holds the eight
    partial sums of each lane. Eight rows at a time line up with it, which makes one long loop.
    """
    begin = (first & 7) * LANES
    at = 0
    while at < a.size:
        n = min(part.size - begin, a.size - at)
        u = a[at : at + n]
        v = b[at : at + n]
        sums = part[begin : begin + n]
        for k in range(n):
            sums[k] += np.float64(u[k]) * np.float64(v[k])
        at += n
        begin = 0


@jit
def load_tile_portable(x, start, count, tile, part, norm):
    """Put rows ``start .. start + count`` of `x` into the lanes of `tile`, normalised; empty lanes are 0.

    `part` (8 * LANES,) float64 is workspace for partial sums.
    """
    d = x.shape[1]
    if count < LANES:
        tile[:] = np.float32(0.0)
    for j in range(d):
        row = tile[j]
        if count == LANES:
            for lane in range(LANES):
                row[lane] = x[start + lane, j]
        else:
            for lane in range(count):
                row[lane] = x[start + lane, j]
    flat = tile.reshape(-1)
    part[:] = 0.0
    add_products(flat, flat, 0, part)
    inverse = np.zeros((8, LANES), np.float64)  # eight rows at a time, as above
    for lane in range(count):
        length = np.sqrt(tree_sum(part[lane::LANES]))
        norm[start + lane] = length
        inverse[:, lane] = 1.0 / length if length > 0.0 else 0.0
    factor = inverse.reshape(-1)
    for at in range(0, flat.size, factor.size):
        values = flat[at : at + factor.size]
        for k in range(values.size):
            values[k] = np.float32(np.float64(values[k]) * factor[k])


@jit
def unit_rows_portable(x, start, stop, out):
    """Normalise rows ``start .. stop`` of `x` (n, d) float32 as for encoding, into those of `out` (n, d) float32."""
    d = x.shape[1]
    tile = np.empty((d, LANES), np.float32)
    part = np.empty(8 * LANES, np.float64)
    norm = np.empty(x.shape[0], np.float64)
    for i in range(start, stop, LANES):
        count = min(LANES, stop - i)
        load_tile_portable(x, i, count, tile, part, norm)
        for lane in range(count):
            for j in range(d):
                out[i + lane, j] = tile[j, lane]


@jit
def quantize_portable(y, band, quantizer, cell, codes, levels):
    """Quantise coordinates of one band to codes and their centroids; `y`, `codes` and `levels` are its flat rows."""
    scale = quantizer.grid_affine[band, 0]
    offset = quantizer.grid_affine[band, 1]
    grid = quantizer.grid[band]
    threshold = quantizer.thresholds[band]
    centroid = quantizer.centroids[band]
    top = np.float32(grid.size - 1)
    for k in range(y.size):
        cell[k] = np.int32(min(max(y[k] * scale + offset, np.float32(0.0)), top))
    for k in range(y.size):
        below = grid[cell[k]]
        code = below + (y[k] > threshold[below])
        codes[k] = code
        levels[k] = centroid[code]


@jit
def encode_workspace(bands):
    """Allocate the workspace of `encode_tile_portable`."""
    cell = np.empty(CHUNK * LANES, np.int32)
    codes = np.empty(CHUNK * LANES, np.uint8)
    levels = np.empty(CHUNK * LANES, np.float32)
    words = np.zeros((LANES, padded_words(bands)), np.uint64)
    return cell, codes, levels, words, np.empty(8 * LANES, np.float64), np.empty(8 * LANES, np.float64)


@jit
def encode_tile_portable(y, quantizer, workspace, count, data, dot, energy):
    """Encode the first `count` lanes of a rotated tile `y` (d, LANES); `data`, `dot`, `energy` as in `EncodedRows`."""
    cell, codes, levels, words, dot_part, energy_part = workspace
    bands = quantizer.bands
    flat = words.view(np.uint8)
    dot_part[:] = 0.0
    energy_part[:] = 0.0
    first = 0  # byte of `flat` where the band begins
    for b in range(bands.shape[0]):
        lo = bands[b, 0]
        hi = bands[b, 1]
        for c in range(lo, hi, CHUNK):
            n = min(CHUNK, hi - c)
            values = y[c : c + n].reshape(-1)
            quantize_portable(values, b, quantizer, cell, codes, levels)
            chosen = levels[: values.size]
            add_products(values, chosen, c, dot_part)
            add_products(chosen, chosen, c, energy_part)
            for lane in range(count):
                out = flat[lane]
                for j in range(n):
                    out[first + c - lo + j] = codes[j * LANES + lane]
        first += (hi - lo + 7) // 8 * 8
    for lane in range(count):
        dot[lane] = tree_sum(dot_part[lane::LANES])
        energy[lane] = tree_sum(energy_part[lane::LANES])
        pack_row_portable(words[lane], bands, data[lane])


@jit
def encode_rows_portable(x, rotation, quantizer, start, stop, out):
    """Encode rows ``start .. stop`` of `x`.

    Parameters
    ----------
    x : (n, d) float32
    rotation, quantizer : RotationTables, QuantizerTables
    start, stop : int
    out : EncodedRows
        Filled.

    Returns
    -------
    int
        `stop`, or the first row that holds NaN or infinity; then the rows after it are undefined.
    """
    data, norm, dot, energy = out
    d = x.shape[1]
    tile = np.zeros((d, LANES), np.float32)
    spare = np.zeros((d, LANES), np.float32)
    part = np.empty(8 * LANES, np.float64)
    workspace = encode_workspace(quantizer.bands)
    for i in range(start, stop, LANES):
        count = min(LANES, stop - i)
        load_tile_portable(x, i, count, tile, part, norm)
        for lane in range(count):
            if not np.isfinite(norm[i + lane]):
                return i + lane
        y = forward_tile_portable(tile, spare, rotation)
        encode_tile_portable(y, quantizer, workspace, count, data[i : i + count], dot[i:], energy[i:])
    return stop


@jit
def decode_rows_portable(data, scale, rotation, quantizer, spread, start, stop, out):
    """Decode rows ``start .. stop``: ``out[i] = scale[i] * inverse_rotation(centroids of row i)``, float32."""
    d = out.shape[1]
    tile = np.zeros((d, LANES), np.float32)
    spare = np.zeros((d, LANES), np.float32)
    words = np.zeros(padded_words(quantizer.bands), np.uint64)
    for i in range(start, stop, LANES):
        count = min(LANES, stop - i)
        tile[quantizer.bands[-1, 1] :] = np.float32(0.0)  # bands need not reach d
        levels_of_rows_portable(data, i, count, quantizer, spread, words, tile)
        y = inverse_tile_portable(tile, spare, rotation)
        for lane in range(count):
            s = scale[i + lane]
            for j in range(d):
                out[i + lane, j] = y[j, lane] * s
