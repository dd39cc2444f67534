"""Scores of codes against rotated queries; the mathematics and the bounds are in README.md."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.pack.portable import padded_words
from tqvec.kernels.trellis.windows import levels_of_rows_portable


@jit
def adc_rows_portable(data, scale, quantizer, spread, queries, start, stop, out):
    """Compute float scores of all queries against rows ``start .. stop``.

    Parameters
    ----------
    data : (n, code bytes) uint8
    scale : (n,) float32
    quantizer : QuantizerTables
    spread : (256,) uint64
    queries : (nq, d) float32
        Rotated.
    start, stop : int
    out : (nq, n) float32
        Columns ``start .. stop`` are filled.
    """
    nq, d = queries.shape
    tile = np.zeros((d, LANES), np.float32)
    words = np.zeros(padded_words(quantizer.bands), np.uint64)
    acc = np.empty((4, LANES), np.float32)
    for i in range(start, stop, LANES):
        count = min(LANES, stop - i)
        levels_of_rows_portable(data, i, count, quantizer, spread, words, tile)
        for q in range(0, nq, 4):
            m = min(4, nq - q)
            acc[:] = np.float32(0.0)
            for r in range(m):
                query = queries[q + r]
                total = acc[r]
                for j in range(d):
                    row = tile[j]
                    weight = query[j]
                    for lane in range(LANES):
                        total[lane] += row[lane] * weight
            for r in range(m):
                for lane in range(count):
                    out[q + r, i + lane] = acc[r, lane] * scale[i + lane]


@jit
def dot_tiles_portable(tiles, queries, acc):
    """Integer dot products: ``acc[q, 16 t + l] = Σ_{p,e} tiles[t, p, 2 l + e] * queries[q, 2 p + e]``.

    Parameters
    ----------
    tiles : (n_tiles, pairs, 2 * LANES) int16
    queries : (nq, 2 * pairs) int16
    acc : (nq, n_tiles * LANES) int32
        Filled. The caller keeps every total within int32 (README.md).
    """
    for q in range(queries.shape[0]):
        query = queries[q]
        for t in range(tiles.shape[0]):
            tile = tiles[t]
            out = acc[q, t * LANES : (t + 1) * LANES]
            for lane in range(LANES):
                out[lane] = np.int32(0)
            for p in range(tile.shape[0]):
                pair = tile[p]
                a = np.int32(query[2 * p])
                b = np.int32(query[2 * p + 1])
                for lane in range(LANES):
                    out[lane] += np.int32(pair[2 * lane]) * a + np.int32(pair[2 * lane + 1]) * b
