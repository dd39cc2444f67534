"""Heaps against np.lexsort, ties included."""

import numpy as np
import pytest
import strategies as sts
from hypothesis import given
from hypothesis import strategies as st

from tqvec.kernels.arguments import Heap
from tqvec.kernels.topk.portable import (
    EMPTY_ID,
    is_empty,
    kth_best,
    topk_merge_portable,
    topk_sort_portable,
    topk_update_portable,
)
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


@given(st.lists(few, min_size=1, max_size=60))
def test_each_rank_with_ties(values):
    values = np.array(values, np.float32)
    before = values.copy()
    assert [kth_best(values, k + 1) for k in range(values.size)] == sorted(values, reverse=True)
    np.testing.assert_array_equal(values, before)


def test_a_heap_is_empty_until_it_holds_a_row():
    ids = np.full(5, EMPTY_ID, np.int64)
    assert is_empty(ids)
    ids[3] = 0
    assert not is_empty(ids)


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


@pytest.mark.parametrize("block", [257, 3000])
@pytest.mark.parametrize("ties", [1, 50, 1e6])
@pytest.mark.parametrize("k", [1, 2, 10, 100, 255, 256, 257, 1000, 2999, 3000, 3001])
def test_long_streams(k, ties, block):
    """Large heaps take many rows at once; of 3,000 rows some are equal, or most, or none."""
    values = (np.round(sts.rng(k).standard_normal(3000) * ties) / 50).astype(np.float32)
    scores, ids = empty(k)
    for at in range(0, 3000, block):
        part = np.concatenate([values[at : at + block], [np.float32(1e9)]])  # what lies past n doesn't count
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


@pytest.mark.parametrize("k", [1, 7, 40, 300])
def test_merging_heaps(k):
    values = sts.rng(k).integers(0, 9, 500).astype(np.float32)
    heaps = [empty(k) for _ in range(5)]
    for part, (scores, ids) in enumerate(heaps):
        chunk = values[100 * part : 100 * part + 100]
        topk_update_portable(chunk, PLACES, 100, 100 * part, Heap(scores, ids, LEAST.copy()))
    for other in heaps[1:]:
        topk_merge_portable(*other, *heaps[0])
    topk_sort_portable(*heaps[0])
    best, order = expected(values, k)
    np.testing.assert_array_equal(heaps[0][1], order)
    np.testing.assert_array_equal(heaps[0][0], best)


def test_merging_an_empty_heap_changes_nothing():
    scores, ids = empty(4)
    topk_update_portable(np.array([3, 1, 2], np.float32), PLACES, 3, 0, Heap(scores, ids, LEAST.copy()))
    before = sorted(zip(scores.tolist(), ids.tolist(), strict=True))
    topk_merge_portable(*empty(4), scores, ids)
    assert sorted(zip(scores.tolist(), ids.tolist(), strict=True)) == before


@pytest.mark.parametrize("k", [3, 300])
def test_row_numbers_may_be_left_out(k):
    values = sts.rng(3).standard_normal(1000).astype(np.float32)
    scores, ids = empty(k)
    topk_update_portable(values, PLACES[:0], 1000, 7, Heap(scores, ids, LEAST.copy()))
    topk_sort_portable(scores, ids)
    np.testing.assert_array_equal(ids, expected(values, k)[1] + 7)


@pytest.mark.parametrize("k", [5, 600])
def test_extreme_scores(k):
    """Zeros of both signs are equal, and infinities and subnormal numbers have their places."""
    few = np.array([-np.inf, -3e38, -1e-45, -0.0, 0.0, 1e-45, 1.0, 3e38, np.inf], np.float32)
    values = sts.rng(4).choice(few, 1000)
    scores, ids = empty(k)
    topk_update_portable(values, PLACES, 1000, 0, Heap(scores, ids, LEAST.copy()))
    topk_sort_portable(scores, ids)
    best, order = expected(values, k)
    np.testing.assert_array_equal(ids, order)
    np.testing.assert_array_equal(scores, best)
