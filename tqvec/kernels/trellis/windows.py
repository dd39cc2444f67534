"""Indices and levels of unpacked codes; README.md has the maths."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import jit
from tqvec.kernels.pack.portable import unpack_row_portable

_PATH = np.uint64(0x0101010101010101)  # the path bits of eight codes
_EIGHT = np.uint64(8)


@jit
def indices_of_row_portable(words, bands, windows):
    """Turn the codes of one vector into indices of `QuantizerTables.centroids`, in place.

    The index of a scalar code is the code. That of a trellis code is its in-subset bits, then its window: at most 8
    bits, so it fits the byte.

    Parameters
    ----------
    words : (padded_words,) uint64
        Codes, one per byte, as `unpack_row_portable` leaves them. Bytes past the end of a trellis band become some
        index of its table.
    bands : (n_bands, 3) int64
    windows : (n_bands,) int64
        Path bits in a state window; 0 for a scalar band.
    """
    flat = words.view(np.uint8)
    first = 0
    for b in range(bands.shape[0]):
        n = bands[b, 1] - bands[b, 0]
        n_words = (n + 7) // 8
        if windows[b] > 0:
            before = np.uint64(0)  # path bits of the eight coordinates before: at first the last ones (tail-biting)
            for i in range(8):
                bit = np.uint64(flat[8 * first + (8 * n - 8 + i) % n]) & np.uint64(1)
                before |= bit << np.uint64(8 * i)
            lift = np.uint64(windows[b] - 1)
            for g in range(first, first + n_words):
                path = words[g] & _PATH
                index = (words[g] ^ path) << lift | path
                for k in range(1, windows[b]):
                    back = _EIGHT * np.uint64(k)
                    index |= (path << back | before >> (np.uint64(64) - back)) << np.uint64(k)
                words[g] = index
                before = path
        first += n_words


@jit
def levels_of_rows_portable(data, start, count, tables, spread, words, tile):
    """Unpack rows ``start .. start + count`` and write their levels to the lanes of a tile.

    Parameters
    ----------
    data : (n, code bytes) uint8
    start, count : int
    tables : QuantizerTables or AttentionTables
    spread : (256,) uint64
    words : (padded_words,) uint64
        Workspace.
    tile : (d, LANES) float32
        Filled in the first `count` lanes, for the coordinates of all bands.
    """
    bands = tables.bands
    windows = tables.windows
    flat = words.view(np.uint8)
    for lane in range(count):
        unpack_row_portable(data[start + lane], bands, spread, words)
        indices_of_row_portable(words, bands, windows)
        first = 0
        for b in range(bands.shape[0]):
            lo = bands[b, 0]
            centroid = tables.centroids[b]
            for j in range(lo, bands[b, 1]):
                tile[j, lane] = centroid[flat[first + j - lo]]
            first += (bands[b, 1] - lo + 7) // 8 * 8
