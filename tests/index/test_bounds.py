"""Scores within the bounds of their metric, scores beyond float32, vectors far from the origin, and very large k."""

import warnings

import numpy as np
import pytest
import strategies as sts
from index_cases import anisotropic, build_index

import tqvec
from tqvec.errors import InputError, LossWarning
from tqvec.eval.sample import load_sample


@pytest.mark.parametrize("train", [False, True])
def test_no_cosine_is_above_1(train):
    x = load_sample().base[:4000].astype(np.float32)
    index = build_index(x, 1, "cosine", train=train)
    index.add(-x[:50])
    snapshot = index._snapshot()
    estimates, rows = snapshot.estimates(x[:200], 5)
    assert not train or (estimates > 1).any()
    for scores, _ in (
        index.search(x[:200], k=5),
        index.search(x[:200], k=5, return_error=True)[:2],
        index.search_by_id(range(200), k=5),
    ):
        assert scores.max() <= 1
        assert np.isfinite(np.arccos(scores.astype(np.float64))).all()
    assert np.array_equal(index.search(x[:200], k=5)[1], snapshot.ids_of(rows)), "in the order of the estimates"
    assert index.search(x[:5], k=index.ntotal)[0].min() >= -1
    lims, scores, _ = index.range_search(x[:200], 0.9)
    assert lims[-1] > 0
    assert scores.max() <= 1
    assert index.range_search(x[:200], 1.0)[0][-1] == 0


@pytest.mark.parametrize("metric", ["ip", "l2"])
@pytest.mark.parametrize("train", [False, True])
def test_scores_beyond_float32_are_refused_with_the_query(metric, train):
    x = anisotropic(1000, 64)
    index = build_index(x, 4, metric, train=train)
    queries = np.sign(sts.normal(4, 64)) * np.array([[1], [1], [3e38], [1]], np.float32)
    for call in (
        lambda: index.search(queries, k=3),
        lambda: index.search(queries, k=3, return_error=True),
        lambda: index.search(queries, k=3, confidence=0.9),
        lambda: index.range_search(queries, 0.5),
        lambda: index.search(queries, k=3, rerank=x),
    ):
        with pytest.raises(InputError, match="^queries row 2 is too long: its scores are beyond float32"):
            call()
    index.search(queries[[0, 1, 3]], k=3)


def test_products_of_huge_vectors():
    x = 1e20 * sts.normal(100, 64)
    index = build_index(x)
    with pytest.raises(InputError, match="^queries row 0 is too long.* scale queries or stored vectors down"):
        index.search(x[5], k=3)
    assert index.search(x[5] / 1e20, k=1)[1] == 5
    cosines = build_index(x, metric="cosine")
    assert cosines.search(x[5], k=1)[1] == 5


def far(mean, n=400, d=64):
    return (sts.normal(n, d) + mean).astype(np.float32)


@pytest.mark.parametrize("mean", [10, 100, 1000])
@pytest.mark.parametrize("nbits", [1, 4])
def test_distances_far_from_the_origin_are_warned_of_once(mean, nbits):
    x = far(mean)
    index = tqvec.Index(64, nbits=nbits, metric="l2")
    with pytest.warns(LossWarning, match=r"as far from the origin as from their mean.*train\(sample\)") as caught:
        index.add(x)
    assert caught[0].filename == __file__
    index.add(x)
    assert index.ntotal == 800
    other = tqvec.Index(64, nbits=nbits, metric="l2")
    for _ in range(2):  # here warnings are errors: nothing is added
        with pytest.raises(LossWarning):
            other.add(x)
    assert other.ntotal == 0
    assert other.train(x).accepted
    other.add(x)
    assert (other.search(x[:50] + 0.01, k=1)[1][:, 0] == np.arange(50)).mean() > 0.9


def test_vectors_that_are_not_far_are_not_warned_of():
    sample = load_sample().base[:500].astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x in (
            far(0),
            far(1),
            np.abs(far(0)),
            sample,
            sample + 0.01,
            np.ones((50, 64)),
            np.zeros((50, 64)),
            far(9)[:3],
        ):
            build_index(np.asarray(x, np.float32), 4, "l2")
        for metric in ("ip", "cosine"):
            build_index(far(1000), 4, metric)


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_an_absurd_k_means_all_there_are(metric):
    x = sts.normal(30, 16)
    index = build_index(x, metric=metric)
    expected = index.search(x[:2], k=30)
    for more in ({}, {"confidence": 0.9}, {"rerank": x}):
        assert index.search(x[:2], k=10**9, **more)[1].shape == (2, 30)
    assert all(map(np.array_equal, index.search(x[:2], k=10**9), expected))
    assert index.search(x[:2], k=2**31 - 1, filter=range(4))[1].shape == (2, 4)
    assert index.search_by_id([1, 2], k=10**9)[1].shape == (2, 30)
    assert index.search(x[:2], k=2**20)[1].shape == (2, 2**20)
    assert tqvec.Index(16).search(x[:2], k=10**9)[1].tolist() == [[-1], [-1]]
    assert index.diagnose(queries=x[:2], k=10**9).k == 30
