"""`Index.range_search` against plain NumPy, on blocks of 100 rows."""

import copy
from functools import cache

import numpy as np
import pytest
import strategies as sts
from naive_index import NaiveIndex

import tqvec
from tqvec.index import snapshot

D = 32
KINDS = (
    *(("scalar", metric, False) for metric in ("ip", "cosine", "l2")),
    ("trellis", "l2", False),
    *(("scalar", metric, True) for metric in ("ip", "cosine", "l2")),
)
pytestmark = pytest.mark.usefixtures("small_blocks")
kinds = pytest.mark.parametrize(("codebook", "metric", "trained"), KINDS)
QUERIES = sts.normal(5, D, seed=900)


@cache
def empty(codebook, metric, trained):
    index = tqvec.Index(D, nbits=2, metric=metric, codebook=codebook, seed=3)
    if trained:
        assert index.train(sts.normal(3000, D, 77) / np.arange(1, D + 1) + np.float32(0.1)).accepted
    return index


def filled(codebook="scalar", metric="ip", trained=False, n=420):
    """An index with removed rows and ids in no order, and the naive one."""
    index = copy.copy(empty(codebook, metric, trained))
    naive = NaiveIndex(index)
    ids = sts.rng(1).permutation(n) - 500
    for start in range(0, n, 60):
        x = sts.normal(60, D, start)
        index.add(x, ids=ids[start : start + 60])
        naive.add(x, ids=ids[start : start + 60])
    index.remove_ids(ids[::9])
    naive.remove(ids[::9])
    return index, naive


@kinds
def test_ranges_of_all_sizes(codebook, metric, trained):
    index, naive = filled(codebook, metric, trained)
    scores, _ = index.search(QUERIES, k=index.ntotal)
    keep = set(naive.ids[::3])
    for place in (0, 1, 5, 63, 64, 65, 200, 255, 256, 257, index.ntotal - 1):
        radius = scores[2, place]
        for threads in (1, 2):
            found = index.range_search(QUERIES, radius, threads=threads)
            naive.check_range(QUERIES, radius, found)
            assert found[0][3] - found[0][2] == place  # query 2 has as many better ones
        naive.check_range(QUERIES, radius, index.range_search(QUERIES, radius, filter=sorted(keep)), keep)


@kinds
def test_scores_and_order_are_those_of_search(codebook, metric, trained):
    index, _ = filled(codebook, metric, trained)
    scores, ids = index.search(QUERIES, k=index.ntotal)
    lims, found, found_ids = index.range_search(QUERIES, np.inf if metric == "l2" else -np.inf)
    assert lims.tolist() == [i * index.ntotal for i in range(6)]
    assert np.array_equal(found.reshape(scores.shape), scores)
    assert np.array_equal(found_ids.reshape(ids.shape), ids)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("radius", [1e300, -1e300, np.inf, -np.inf, 10**40, -(10**40), 0, np.float16(0), np.int8(0)])
def test_extreme_radii(metric, radius):
    index, naive = filled(metric=metric)
    found = index.range_search(QUERIES, radius)
    naive.check_range(QUERIES, float(radius), found)
    everything = radius > 0 if metric == "l2" else radius < 0
    if radius:
        assert found[0].tolist() == [i * index.ntotal * everything for i in range(6)]


def test_the_radius_is_not_rounded():
    """A score is above all that is smaller, if only by less than a float32 can tell."""
    index, _ = filled()
    scores, _ = index.search(QUERIES[:1], k=9)
    exact = float(scores[0, 8])
    assert index.range_search(QUERIES[:1], exact)[0][1] == 8
    assert index.range_search(QUERIES[:1], np.nextafter(exact, -np.inf))[0][1] == 9


def test_equal_scores():
    """Of a group of equal ones all are found or none, in the order of adding."""
    index, naive = filled()
    x = np.repeat(sts.normal(1, D, seed=5), 90, axis=0)
    ids = 1000 + sts.rng(3).permutation(90)
    index.add(x, ids=ids)
    naive.add(x, ids=ids)
    scores, found = index.search(x[0], k=90)
    assert found[0].tolist() == ids.tolist()
    assert index.range_search(x[0], scores[0, 0])[1].size == 0
    lims, _, found = index.range_search(x[0], np.nextafter(scores[0, 0], np.float32(-np.inf)))
    assert lims.tolist() == [0, 90]
    assert found.tolist() == ids.tolist()


def test_no_queries_and_no_vectors():
    index, _ = filled()
    lims, scores, ids = index.range_search(np.empty((0, D), np.float32), 0.1)
    assert lims.tolist() == [0]
    assert scores.size == ids.size == 0
    index.remove_ids(index.ids)
    assert index.range_search(QUERIES, 0.1)[0].tolist() == [0] * 6
    assert index.range_search(QUERIES[0], -np.inf)[0].tolist() == [0, 0]


def test_many_queries_with_few_and_with_all_vectors_in_range(monkeypatch):
    """Queries whose range is exhausted drop out; the others go on, in batches of what fits the memory."""
    monkeypatch.setattr(snapshot, "_FIRST_HITS", 3)
    monkeypatch.setattr(snapshot, "_HEAP_ENTRIES", 1000)
    index, naive = filled()
    queries = np.concatenate([sts.normal(20, D, seed=6) * np.float32(s) for s in (1e-3, 0.3, 1, 30)])
    for radius in (-5, 0, 0.2, 8):
        naive.check_range(queries, radius, index.range_search(queries, radius))
