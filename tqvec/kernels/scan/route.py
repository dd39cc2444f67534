"""The targets that vectors are nearest to, by integer products with all of them."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.copying import copy_values
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.staged.sizes import UNITS
from tqvec.kernels.threads.pool import address_of, run_units, unit_function
from tqvec.kernels.topk.portable import sort_best_portable

dot_tiles = kernel("dot_tiles")

TOGETHER = 32  # vectors of a unit at most
TILES = 6  # compared with the vectors of a unit at a time, so that they stay in the nearest cache
BUCKETS = 256  # of gaps: most hold few targets, and few are sorted
LEAST_GAP = np.float32(1e-30)  # that a bucket tells from 0


@jit
def _ends(values):
    """Return the largest and the smallest of some numbers."""
    high, low = np.full(LANES, -np.inf, np.float32), np.full(LANES, np.inf, np.float32)
    whole = values.size // LANES * LANES
    for start in range(0, whole, LANES):
        part = values[start : start + LANES]
        for lane in range(LANES):
            high[lane] = max(high[lane], part[lane])
            low[lane] = min(low[lane], part[lane])
    for i in range(whole, values.size):
        high[0], low[0] = max(high[0], values[i]), min(low[0], values[i])
    for lane in range(1, LANES):
        high[0], low[0] = max(high[0], high[lane]), min(low[0], low[lane])
    return high[0], low[0]


@jit
def _fill_buckets(candidates, scale, top, reach, buckets, counts):
    """Put each candidate into the bucket of its gap to `top`; the last one has those from `reach` on."""
    per = np.float32(BUCKETS) / reach if reach > LEAST_GAP else np.float32(0.0)
    for t in range(candidates.size):
        buckets[t] = np.int32(min((top - candidates[t] * scale) * per, np.float32(BUCKETS)))
    for t in range(candidates.size):
        counts[buckets[t]] += 1


@jit
def _nearest_within(candidates, scale, limits, numbers, lists, space):
    """Fill `lists` with the best targets, best first, as far as they are within the limits; return their number.

    Scores are the candidates times the scale, which may round different ones to the same. Only the targets of the
    first buckets are sorted, one bucket after the other.
    """
    buckets, scores, places = space
    counts = np.zeros(BUCKETS + 1, np.int32)
    ends = _ends(candidates)
    top = ends[0] * scale
    reach = min(limits[0], top - ends[1] * scale)
    _fill_buckets(candidates, scale, top, reach, buckets, counts)
    width = reach / np.float32(BUCKETS)
    last, total = 0, 0
    while last <= BUCKETS and total < limits.size and np.float32(last - 1) * width <= limits[total]:
        total += counts[last]
        last += 1
    starts = np.empty(last + 1, np.int32)
    starts[0] = 0
    for b in range(last):
        starts[b + 1] = starts[b] + counts[b]
        counts[b] = starts[b]
    for t in range(candidates.size):
        b = buckets[t]
        if b < last:
            scores[counts[b]], places[counts[b]] = candidates[t], t
            counts[b] += 1
    found = 0
    for b in range(last):
        if starts[b + 1] > starts[b] + 1:
            sort_best_portable(scores[starts[b] : starts[b + 1]], places[starts[b] : starts[b + 1]])
        for i in range(starts[b], starts[b + 1]):
            if found == limits.size or (found > 0 and top - scores[i] * scale > limits[found]):
                return found
            lists[found] = numbers[places[i]]
            found += 1
    return found


@jit
def _round_vectors(vectors, rounding, rounded, factors):
    """Round vectors to integers as `products.to_points` does, each by a factor of its own."""
    longest, least_length, _ = rounding
    for v in range(vectors.shape[0]):
        vector, out = vectors[v], rounded[v]
        square = 0.0
        for j in range(vector.size):
            square += np.float64(vector[j]) * np.float64(vector[j])
        factor = longest / max(np.sqrt(square), least_length)
        for j in range(vector.size):
            out[j] = np.int16(np.rint(np.float64(vector[j]) * factor))
        factors[v] = factor


@jit
def _probe_unit(plan, call, worker, unit):
    """Find the best targets of some vectors: these share the tiles while they are in the nearest cache."""
    tiles, bias, rounding, numbers = plan
    vectors, limits, lists, counts, group = call
    longest, _, one = rounding
    start = unit * group
    n = min(vectors.shape[0] - start, group)
    rounded, factors = np.zeros((n, 2 * tiles.shape[1]), np.int16), np.empty(n)
    _round_vectors(vectors[start : start + n], rounding, rounded, factors)
    candidates = np.empty((n, numbers.size), np.float32)
    space = np.empty(numbers.size, np.int32), np.empty(numbers.size, np.float32), np.empty(numbers.size, np.int64)
    products = np.empty(n * TILES * LANES, np.int32)
    for t in range(0, tiles.shape[0], TILES):
        some = tiles[t : t + TILES]
        totals = products[: n * some.shape[0] * LANES].reshape(n, some.shape[0] * LANES)
        dot_tiles(some, rounded, totals)
        first = t * LANES
        for v in range(n):
            weight = np.float32(factors[v])
            sums, scores = totals[v], candidates[v, first:]
            for i in range(min(sums.size, scores.size)):
                scores[i] = np.float32(sums[i])
                if bias.size > 0:
                    scores[i] -= weight * bias[first + i]
    for v in range(n):
        scale = np.float32(2.0 * one / factors[v] if bias.size > 0 else one / longest)
        counts[start + v] = _nearest_within(candidates[v], scale, limits, numbers, lists[start + v], space)


@jit
def probe_targets(pool, threads, plan, vectors, limits, counts):
    """Find the best targets of each vector as far as their scores are near that of the very best.

    Parameters
    ----------
    pool : int
        Address.
    threads : int
        At most.
    plan : (tiles, bias, rounding, numbers)
        `tiles` (n_tiles, pairs, 2 * LANES) int16 are the targets, as `dot_tiles` takes them. `bias` (n_targets,)
        float32 is subtracted from the products, times the factor by which a vector is rounded; it is empty where scores
        are those of directions. `rounding` are three floats: the length of a vector when it is rounded, the least one
        that counts as more than 0, and the unit of targets. `numbers` (n_targets,) int32 are those of the targets, as
        they are returned.
    vectors : (n, d) float32
    limits : (m,) float32
        The largest gap of the score at each rank to the best score; they do not rise with the rank.
    counts : (n,) int64
        Filled with the numbers of targets that are found.

    Returns
    -------
    done : bool
        False if memory ran out.
    found : (sum of counts,) int32
        Numbers of the targets, vector by vector, the best of each first.
    """
    n = vectors.shape[0]
    lists = np.empty((n, limits.size), np.int32)
    group = min(TOGETHER, max(4, n // (UNITS * threads) // 4 * 4)) if threads > 1 else TOGETHER
    call = (vectors, limits, lists, counts, group)
    function = unit_function(_probe_unit, plan, call)
    done = run_units(pool, threads, function, address_of(plan), address_of(call), (n + group - 1) // group)
    total = 0
    for v in range(n if done else 0):
        total += counts[v]
    found = np.empty(total, np.int32)
    at = 0
    for v in range(n if done else 0):
        copy_values(lists[v, : counts[v]], found[at : at + counts[v]])
        at += counts[v]
    return done, found
