"""Heaps of the best k of a stream of scored rows, which arrive block by block.

Order: a larger score is better; of equal scores the smaller id. It is total, so the k best do not depend on the order
of arrival, on the block size or on the number of threads.
"""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import jit

EMPTY_ID = np.iinfo(np.int64).max  # of an empty heap entry; any candidate is better


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
def topk_update_portable(candidates, row_numbers, n, base, heap):
    """Offer ``candidates[:n]`` with ids ``base + row_numbers[:n]`` to a heap of k entries.

    Parameters
    ----------
    candidates : (≥ n,) float32
    row_numbers : (≥ n,) int32
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
    for i in range(n):
        if candidates[i] >= threshold:
            topk_push_portable(candidates[i], base + row_numbers[i], scores, ids)
            threshold = max(threshold, scores[0])
    least[0] = max(least[0], threshold)


@jit
def topk_sort_portable(scores, ids):
    """Turn a heap into a list, best first."""
    for size in range(scores.size - 1, 0, -1):
        scores[0], scores[size] = scores[size], scores[0]
        ids[0], ids[size] = ids[size], ids[0]
        _sift_down(scores, ids, 0, size)


@jit
def topk_merge_portable(heap_scores, heap_ids, scores, ids):
    """Offer the entries of one heap to another."""
    for i in range(heap_scores.size):
        topk_push_portable(heap_scores[i], heap_ids[i], scores, ids)
