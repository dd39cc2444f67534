"""The targets that a few vectors are nearest to, by integer products with all of them."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.arguments import Heap
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.topk.portable import EMPTY_ID, topk_sort_portable, topk_update_portable

dot_tiles = kernel("dot_tiles")

RANKED = 64  # targets of a vector at first; four times as many each time that all of them count
EVERY_ROW = np.zeros(0, np.int32)


@jit
def _nearest_within(candidates, limits, numbers, lists):
    """Fill `lists` with the best targets, best first; return how many are within their limits, which is 1 at least."""
    m = min(limits.size, RANKED)
    while True:
        scores, places = np.full(m, -np.inf, np.float32), np.full(m, EMPTY_ID, np.int64)
        least = np.full(1, -np.inf, np.float32)
        topk_update_portable(candidates, EVERY_ROW, candidates.size, 0, Heap(scores, places, least))
        topk_sort_portable(scores, places)
        count = 1
        while count < m and scores[0] - scores[count] <= limits[count]:
            count += 1
        if count < m or m == limits.size:
            break
        m = min(limits.size, 4 * m)
    for r in range(count):
        lists[r] = numbers[places[r]]
    return count


@jit
def probe_targets(vectors, tiles, bias, rounding, numbers, limits, found):
    """Find the best targets of each vector as far as their scores are near that of the very best.

    Parameters
    ----------
    vectors : (n, d) float32
    tiles : (n_tiles, pairs, 2 * LANES) int16
        Targets, as `dot_tiles` takes them.
    bias : (n_targets,) or (0,) float32
        Subtracted from the products, times the factor by which a vector is rounded. Empty where scores are those of
        directions.
    rounding : (float, float, float)
        Length of a vector when it is rounded, the least one that counts as more than 0, and the unit of targets.
    numbers : (n_targets,) int32
        Of the targets, as they are returned.
    limits : (m,) float32
        The largest gap of the score at each rank to the best score; they do not rise with the rank.
    found : (lists, counts)
        (n, m) int32 and (n,) int64; filled with the numbers of the targets, best first, and with how many there are.
    """
    longest, least_length, unit = rounding
    lists, counts = found
    n, d = vectors.shape
    rounded = np.zeros((1, 2 * tiles.shape[1]), np.int16)
    totals = np.empty((1, tiles.shape[0] * LANES), np.int32)
    candidates = np.empty(numbers.size, np.float32)
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
        for t in range(numbers.size):
            total = np.float32(totals[0, t])
            if bias.size > 0:
                total -= weight * bias[t]
            candidates[t] = total * scale
        counts[v] = _nearest_within(candidates, limits, numbers, lists[v])
