"""Heaps against np.lexsort, ties included."""

import numpy as np
import pytest
import strategies as sts
from hypothesis import given
from hypothesis import strategies as st

from tqvec.kernels.arguments import Heap
from tqvec.kernels.topk.portable import EMPTY_ID, topk_merge_portable, topk_sort_portable, topk_update_portable
from tqvec.reference import scoring

LEAST = np.full(1, -np.inf, np.float32)
PLACES = np.arange(100_000, dtype=np.int32)


def empty(*shape):
    return np.full(shape, -np.inf, np.float32), np.full(shape, EMPTY_ID, np.int64)


def expected(values, k):
    scores, ids = scoring.top_k(values[None], k)
    missing = k - ids.shape[1]
    return (
        np.concatenate([scores[0], np.full(missing, -np.inf, np.float32)]),
        np.concatenate([ids[0], np.full(missing, EMPTY_ID)]),
    )


few = st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 1.0, 1.0000001, 3e38])


@given(st.lists(few, min_size=0, max_size=60), st.integers(1, 12), st.integers(1, 20))
def test_any_stream(values, k, block):
    values = np.array(values, np.float32)
    scores, ids = empty(k)
    for at in range(0, len(values), block):
        part = values[at : at + block]
        topk_update_portable(part, PLACES, len(part), at, Heap(scores, ids, LEAST.copy()))
    topk_sort_portable(scores, ids)
    best, order = expected(values, k)
    np.testing.assert_array_equal(ids, order)
    np.testing.assert_array_equal(scores, best)


@pytest.mark.parametrize("k", [1, 2, 10, 100, 1000])
def test_long_streams(k):
    values = np.round(sts.rng(k).standard_normal(3000) * 50).astype(np.float32)
    scores, ids = empty(k)
    for at in range(0, 3000, 257):
        part = np.concatenate([values[at : at + 257], [np.float32(1e9)]])  # what lies past n doesn't count
        topk_update_portable(part, PLACES, len(part) - 1, at, Heap(scores, ids, LEAST.copy()))
    topk_sort_portable(scores, ids)
    best, order = expected(values, k)
    np.testing.assert_array_equal(ids, order)
    np.testing.assert_array_equal(scores, best)


@pytest.mark.parametrize("order", [1, -1])
def test_order_of_arrival_does_not_matter(order):
    values = sts.rng(1).integers(0, 5, 200).astype(np.float32)
    scores, ids = empty(17)
    for row in range(200)[::order]:
        topk_update_portable(values[row : row + 1], PLACES[row:], 1, 0, Heap(scores, ids, LEAST.copy()))
    topk_sort_portable(scores, ids)
    np.testing.assert_array_equal(ids, expected(values, 17)[1])


def test_rows_below_what_other_threads_found_are_left_out():
    """An equal score stays: its id may be smaller. The bound rises to the heap's own worst."""
    scores, ids = empty(2)
    least = np.array([2], np.float32)
    topk_update_portable(np.array([1, 2, 1.5, 3], np.float32), PLACES, 4, 0, Heap(scores, ids, least))
    assert (sorted(ids.tolist()), sorted(scores.tolist()), least[0]) == ([1, 3], [2, 3], 2)
    topk_update_portable(np.array([2.5], np.float32), PLACES, 1, 4, Heap(scores, ids, least))
    assert (sorted(ids.tolist()), least[0]) == ([3, 4], 2.5)


def test_merging_an_empty_heap_changes_nothing():
    scores, ids = empty(4)
    topk_update_portable(np.array([3, 1, 2], np.float32), PLACES, 3, 0, Heap(scores, ids, LEAST.copy()))
    before = sorted(zip(scores.tolist(), ids.tolist(), strict=True))
    topk_merge_portable(*empty(4), scores, ids)
    assert sorted(zip(scores.tolist(), ids.tolist(), strict=True)) == before
