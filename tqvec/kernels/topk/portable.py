"""Heaps of the best k of a stream of scored rows, which arrive block by block (README.md).

Order: a larger score is better; of equal scores the smaller id. It is total, so the k best do not depend on the order
of arrival, on the block size or on the number of threads.
"""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import jit
from tqvec.kernels.copying import copy_values

EMPTY_ID = np.iinfo(np.int64).max  # of an empty heap entry; any candidate is better
LARGE = 256  # entries of a heap, from which on the digits of scores sort rows faster than one row after the other
BITS = 11  # of a digit: three of them hold a score
DIGITS = 1 << BITS


@jit
def _worse(score, row, other_score, other_row):
    """Return whether (score, row) comes after (other_score, other_row)."""
    return score < other_score or (score == other_score and row > other_row)


@jit
def _sift_down(scores, ids, at, size):
    """Let the entry at `at` sink until no child is worse; the root is the worst entry of the heap."""
    score = scores[at]
    row = ids[at]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and _worse(scores[child + 1], ids[child + 1], scores[child], ids[child]):
            child += 1
        if not _worse(scores[child], ids[child], score, row):
            break
        scores[at] = scores[child]
        ids[at] = ids[child]
        at = child
    scores[at] = score
    ids[at] = row


@jit
def topk_push_portable(score, row, scores, ids):
    """Offer one row to a heap."""
    if _worse(scores[0], ids[0], score, row):
        scores[0] = score
        ids[0] = row
        _sift_down(scores, ids, 0, scores.size)


@jit
def _build_heap(scores, ids):
    """Turn entries in any order into a heap."""
    for at in range(scores.size // 2 - 1, -1, -1):
        _sift_down(scores, ids, at, scores.size)


@jit
def _sort_heap(scores, ids):
    """Turn a heap into a list, best first."""
    for size in range(scores.size - 1, 0, -1):
        scores[0], scores[size] = scores[size], scores[0]
        ids[0], ids[size] = ids[size], ids[0]
        _sift_down(scores, ids, 0, size)


@jit
def _keys(scores):
    """Numbers of 32 bits that rise as scores fall; those of 0 and -0 are equal."""
    plain = scores + np.float32(0.0)
    keys = plain.view(np.uint32)
    for i in range(keys.size):
        if keys[i] >> np.uint32(31) == 0:
            keys[i] ^= np.uint32(0x7FFFFFFF)
    return keys


@jit
def _kth_smallest(keys, k):
    """The k-th smallest key, and how many of its equals are among the k smallest."""
    counts = np.empty(DIGITS, np.int64)
    high = np.int64(0)  # digits that are known
    for shift in (2 * BITS, BITS, 0):
        counts[:] = 0
        for key in keys:
            digits = np.int64(key) >> shift
            if digits >> BITS == high:
                counts[digits & (DIGITS - 1)] += 1
        digit = 0
        while k > counts[digit]:
            k -= counts[digit]
            digit += 1
        high = high << BITS | digit
    return high, k


@jit
def kth_best(scores, k):
    """Return the k-th largest score, by quickselect. `np.partition` would bring a sort and take seconds to compile."""
    left = scores.copy()
    low, high = 0, left.size - 1
    while low < high:
        pivot = left[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while left[i] > pivot:
                i += 1
            while left[j] < pivot:
                j -= 1
            if i <= j:
                left[i], left[j] = left[j], left[i]
                i += 1
                j -= 1
        if k - 1 <= j:
            high = j
        elif k - 1 >= i:
            low = i
        else:  # those between are equal
            break
    return left[k - 1]


@jit
def is_empty(ids):
    """Return whether no row is in a heap yet."""
    for row in ids:  # noqa: SIM110 - Numba would compile a generator
        if row != EMPTY_ID:
            return False
    return True


@jit
def _keep_best(pool, pool_ids, scores, ids):
    """Make a heap of the best rows of a pool that has at least as many as the heap, (k,)."""
    keys = _keys(pool)
    last, equals = _kth_smallest(keys, scores.size)
    rest = scores.size - equals
    scores[rest:] = -np.inf
    ids[rest:] = EMPTY_ID
    taken = 0
    for i in range(pool.size):
        key = np.int64(keys[i])
        if key < last:
            scores[taken] = pool[i]
            ids[taken] = pool_ids[i]
            taken += 1
        elif key == last:  # the smallest ids of these
            topk_push_portable(pool[i], pool_ids[i], scores[rest:], ids[rest:])
    _build_heap(scores, ids)


@jit
def _sort_best(scores, ids):
    """Sort rows in any order, best first."""
    n = scores.size
    keys = _keys(scores)
    order = np.arange(n).astype(np.int32)
    other_keys = np.empty_like(keys)
    other_order = np.empty_like(order)
    starts = np.empty(DIGITS, np.int64)
    for shift in (0, BITS, 2 * BITS):
        starts[:] = 0
        for key in keys:
            starts[np.int64(key) >> shift & (DIGITS - 1)] += 1
        start = 0
        for digit in range(DIGITS):
            count = starts[digit]
            starts[digit] = start
            start += count
        for i in range(n):
            digit = np.int64(keys[i]) >> shift & (DIGITS - 1)
            at = starts[digit]
            starts[digit] += 1
            other_keys[at] = keys[i]
            other_order[at] = order[i]
        keys, other_keys = other_keys, keys
        order, other_order = other_order, order
    old_scores, old_ids = scores.copy(), ids.copy()
    for i in range(n):
        scores[i] = old_scores[order[i]]
        ids[i] = old_ids[order[i]]
    first = 0
    for i in range(1, n + 1):
        if i == n or keys[i] != keys[first]:
            if i > first + 1:  # equal scores are sorted by id
                _build_heap(scores[first:i], ids[first:i])
                _sort_heap(scores[first:i], ids[first:i])
            first = i


@jit
def topk_update_portable(candidates, row_numbers, n, base, heap):
    """Offer ``candidates[:n]`` with ids ``base + row_numbers[:n]`` to a heap of k entries.

    Parameters
    ----------
    candidates : (≥ n,) float32
    row_numbers : (≥ n,) or (0,) int32
        Empty stands for 0, 1, …
    n, base : int
    heap : Heap
        Of one query. Start it with -inf and `EMPTY_ID`.
    """
    scores, ids, least = heap
    threshold = max(scores[0], least[0])
    hits = 0
    for i in range(n):
        hits += candidates[i] >= threshold
    if hits == 0:
        return
    k = scores.size
    if k >= LARGE and hits >= k // 4:
        pool = np.empty(k + hits, np.float32)
        pool_ids = np.empty(pool.size, np.int64)
        copy_values(scores, pool[:k])
        copy_values(ids, pool_ids[:k])
        count = k
        for i in range(n):
            if candidates[i] >= threshold:
                pool[count] = candidates[i]
                pool_ids[count] = base + (row_numbers[i] if row_numbers.size > 0 else i)
                count += 1
        _keep_best(pool, pool_ids, scores, ids)
        least[0] = max(threshold, scores[0])
        return
    for i in range(n):
        if candidates[i] >= threshold:
            row = base + (row_numbers[i] if row_numbers.size > 0 else i)
            topk_push_portable(candidates[i], row, scores, ids)
            threshold = max(threshold, scores[0])
    least[0] = max(least[0], threshold)


@jit
def topk_sort_portable(scores, ids):
    """Turn a heap into a list, best first."""
    if scores.size >= LARGE:
        _sort_best(scores, ids)
    else:
        _sort_heap(scores, ids)


@jit
def sort_best_portable(scores, ids):
    """Sort entries in any order, best first."""
    if scores.size < LARGE:
        _build_heap(scores, ids)
    topk_sort_portable(scores, ids)


@jit
def topk_merge_portable(heap_scores, heap_ids, scores, ids):
    """Offer the entries of one heap to another."""
    if scores.size >= LARGE:
        pool = np.concatenate((scores, heap_scores))
        _keep_best(pool, np.concatenate((ids, heap_ids)), scores, ids)
        return
    for i in range(heap_scores.size):
        topk_push_portable(heap_scores[i], heap_ids[i], scores, ids)
