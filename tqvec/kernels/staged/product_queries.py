"""Queries as byte products take them, in ranges of a batch, so that threads can share them."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.scan.queries import integer_queries_portable
from tqvec.kernels.tables import Z

TINY = np.float32(1e-30)


@jit
def product_queries(directions, weight, unit, bands, levels, first, stop, out):
    """Prepare queries ``first .. stop`` of a batch for `search_batch`.

    Parameters
    ----------
    directions : (nq, d) float32
    weight, unit
        All three are results of `query_directions_portable`.
    bands : (n_bands, 3) int64
    levels : ProductLevels
    first, stop : int
    out : BatchTables
        These queries are filled. `packed` was all 0.
    """
    words = out.packed.shape[1]
    entries = np.empty(64 * words, np.float32)
    energies = np.zeros(64 * words)  # variance per squared error of an entry
    for b in range(bands.shape[0]):
        at = levels.entry[b]
        energies[at : at + bands[b, 1] - bands[b, 0]] = levels.energy[b]
    for q in range(first, stop):
        entries[:] = 0
        variance = 0.0  # of estimates with an exact query
        for b in range(bands.shape[0]):
            length = 0.0
            for j in range(bands[b, 0], bands[b, 1]):
                x = directions[q, j]
                entries[levels.entry[b] + j - bands[b, 0]] = x * levels.factor[b]
                length += np.float64(x) * np.float64(x)
            variance += length * levels.variance[b]
        largest = TINY
        for j in range(entries.size):
            largest = max(largest, np.abs(entries[j]))
        step = largest / np.float32(levels.query_steps)
        total = 0
        for j in range(entries.size):
            rounded = np.int8(np.rint(entries[j] / step))
            # Tiles of 16 queries and 64 coordinates, four coordinates of a query side by side.
            out.packed[q // LANES, j // 64, j % 64 // 4, 4 * (q % LANES) + j % 4] = rounded
            total += rounded
            error = np.float64(entries[j] - np.float32(rounded) * step)
            variance += error * error * energies[j]
        weight_of_step = np.float64(step) * weight[q]
        out.weight[q] = weight_of_step
        out.slack[q] = weight[q] * Z * np.sqrt(variance) - levels.zero * weight_of_step * total
        out.unit[q] = unit[q]
    integer_queries_portable(directions[first:stop], bands, 64, out.integers[first:stop])
