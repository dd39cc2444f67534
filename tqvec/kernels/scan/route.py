"""The best targets of a few vectors, by integer products with all of them."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.arguments import Heap
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.topk.portable import EMPTY_ID, topk_sort_portable, topk_update_portable

dot_tiles = kernel("dot_tiles")

EVERY_ROW = np.zeros(0, np.int32)


@jit
def rank_targets(vectors, tiles, n_targets, bias, rounding, heaps):
    """Return the best targets of each vector, best first.

    Parameters
    ----------
    vectors : (n, d) float32
    tiles : (n_tiles, pairs, 2 * LANES) int16
        Targets, as `dot_tiles` takes them.
    n_targets : int
    bias : (n_targets,) or (0,) float32
        Subtracted from the products, times the factor by which a vector is rounded. Empty where scores are those of
        directions.
    rounding : (float, float, float)
        Length of a vector when it is rounded, the least one that counts as more than 0, and the unit of targets.
    heaps : (scores, places)
        (n, k) float32 and int64; filled.
    """
    longest, least_length, unit = rounding
    scores, places = heaps
    n, d = vectors.shape
    rounded = np.zeros((1, 2 * tiles.shape[1]), np.int16)
    totals = np.empty((1, tiles.shape[0] * LANES), np.int32)
    candidates = np.empty(n_targets, np.float32)
    least = np.full(1, -np.inf, np.float32)
    for v in range(n):
        vector = vectors[v]
        square = 0.0
        for j in range(d):
            square += np.float64(vector[j]) * np.float64(vector[j])
        factor = longest / max(np.sqrt(square), least_length)
        for j in range(d):
            rounded[0, j] = np.int16(np.rint(np.float64(vector[j]) * factor))
        dot_tiles(tiles, rounded, totals)
        scale = np.float32(2.0 * unit / factor if bias.size > 0 else unit / longest)
        weight = np.float32(factor)
        for t in range(n_targets):
            total = np.float32(totals[0, t])
            if bias.size > 0:
                total -= weight * bias[t]
            candidates[t] = total * scale
        scores[v], places[v], least[0] = -np.inf, EMPTY_ID, -np.inf
        topk_update_portable(candidates, EVERY_ROW, n_targets, 0, Heap(scores[v], places[v], least))
        topk_sort_portable(scores[v], places[v])
