"""Searches with a confidence: lists hold all of the true best as often as they promise, and aren't much longer."""

import numpy as np
import pytest
import strategies as sts
from index.errors import naive_errors

import tqvec
from tqvec.errors import InputError
from tqvec.eval.recall import exact_search
from tqvec.eval.sample import load_sample
from tqvec.index.errors.shortlist import Fetched, required_length
from tqvec.index.metrics import METRICS

SAMPLE = load_sample()
BASE, QUERIES = SAMPLE.base.astype(np.float32), SAMPLE.queries.astype(np.float32)


def whole(ids, truth, scores):
    """Whether each list has as many rows as good as the true k-th best as there ought to be, (nq,)."""
    found = np.take_along_axis(scores, np.maximum(ids, 0), axis=1) >= np.take_along_axis(scores, truth[:, -1:], axis=1)
    return np.sum(found & (ids >= 0), axis=1) >= truth.shape[1]


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("nbits", "codebook"), [(1, "scalar"), (2, "trellis"), (4, "scalar")])
def test_the_promise_is_kept_on_real_embeddings(nbits, codebook, metric):
    """Never below by more than a point and three standard errors; length and promise go together."""
    index = tqvec.Index(384, nbits=nbits, metric=metric, codebook=codebook)
    index.add(BASE)
    exact = QUERIES.astype(np.float64) @ BASE.T.astype(np.float64)
    for k in (1, 10, 100):
        truth = exact_search(BASE, QUERIES, k, metric)[1]
        means = []
        for confidence in (0.5, 0.9, 0.99):
            _, ids = index.search(QUERIES, k=k, confidence=confidence)
            kept = whole(ids, truth, exact).mean()
            assert kept >= confidence - 0.01 - 3 * np.sqrt(confidence * (1 - confidence) / len(QUERIES))
            means.append(np.sum(ids >= 0) / len(ids))
        assert k <= means[0] < means[1] < means[2] < 200 * k
    assert kept < 1 or nbits > 1


@pytest.mark.slow
@pytest.mark.parametrize(("steep", "k"), [(0.2, 1), (0.2, 10), (0.7, 1), (0.7, 10), (0.7, 100), (1.5, 1)])
def test_lists_of_simulated_tails(steep, k):
    """True scores with an exponential tail, of which the fetched part is all that is known; σ is 1."""
    n, fetched, trials = 20_000, 2000, 300
    true = sts.rng(11).exponential(1 / steep, (trials, n))
    found = true + sts.rng(12).standard_normal((trials, n))
    order = np.argsort(-found, axis=1)
    true, found = np.take_along_axis(true, order, axis=1), np.take_along_axis(found, order, axis=1)[:, :fetched]
    rank = np.argsort(-true, axis=1)[:, :k].max(axis=1)  # how far down the list the true best reach
    for confidence in (0.8, 0.95):
        estimates = Fetched(found - steep, np.ones_like(found), np.full(trials, steep), n - fetched)
        need = required_length(estimates, k, confidence)
        share, chance = np.mean(rank < need), 4 * np.sqrt(confidence * (1 - confidence) / trials)
        assert share >= confidence - chance
        if need.mean() > 3 * k:  # a short list can't promise just what it is asked for
            assert share <= confidence + 0.05 + chance


def test_what_isn_t_known_is_not_promised():
    """Where too few rows have been fetched, the answer is to fetch more; where all have been, they are enough."""
    mean = np.linspace(1, 0.9, 40)[None]
    deviation, rate = np.full((1, 40), 0.1), np.array([10.0])
    assert required_length(Fetched(mean, deviation, rate, 10**6), 10, 0.9).tolist() == [41]
    assert required_length(Fetched(mean, deviation, rate, 0), 10, 0.9)[0] <= 40
    assert required_length(Fetched(mean, deviation * 1e-6, rate, 10**6), 10, 0.9).tolist() == [10]


@pytest.mark.parametrize("steep", [0.05, 0.7, 3.0, 40.0])
@pytest.mark.parametrize("m", [1, 5, 60, 400])
def test_lengths_are_those_of_numpy(m, steep):
    rng = sts.rng(m)
    mean = -np.sort(-rng.exponential(1 / steep, (40, m)), axis=1) - steep
    std = rng.uniform(0.5, 2, (40, m)) * rng.choice([1e-30, 1e-3, 1], (40, 1))
    for rest in (0, 10**6):
        fetched = Fetched(mean, std, np.full(40, steep), rest)
        for k in {1, min(m, 3), m}:
            for confidence in (0.1, 0.9, 0.99999):
                expected = naive_errors.required_length(fetched, k, confidence)
                assert np.array_equal(required_length(fetched, k, confidence), expected)


def test_lists_are_the_beginning_of_the_results():
    x, queries = sts.normal(4000, 64), sts.normal(30, 64, seed=1)
    for metric in METRICS:
        index = tqvec.Index(64, nbits=1, metric=metric)
        index.add(x)
        scores, ids, error = index.search(queries, k=3, confidence=0.9, return_error=True)
        long = np.sum(ids >= 0, axis=1)
        assert scores.shape == ids.shape == error.shape == (30, long.max())
        assert long.min() >= 3
        plain = index.search(queries, k=int(long.max()))
        here = np.arange(long.max()) < long[:, None]
        assert np.array_equal(scores[here], plain[0][here])
        assert np.array_equal(ids[here], plain[1][here])
        assert np.all(ids[~here] == -1)
        assert np.all(scores[~here] == (np.inf if metric == "l2" else -np.inf))
        assert np.all(np.isinf(error[~here]))
        assert np.isfinite(error[here]).all()
        assert (scores.dtype, ids.dtype, error.dtype) == (np.float32, np.int64, np.float32)


def test_few_rows_and_none():
    x = sts.normal(6, 16)
    for metric in METRICS:
        index = tqvec.Index(16, nbits=2, metric=metric)
        assert index.search(x[:2], k=4, confidence=0.9)[1].tolist() == [[-1] * 4] * 2
        index.add(x)
        assert np.sort(index.search(x[:2], k=6, confidence=0.9)[1]).tolist() == [list(range(6))] * 2
        ids = index.search(x[:2], k=9, confidence=0.999999)[1]
        assert np.sort(ids[:, :6]).tolist() == [list(range(6))] * 2
        assert np.all(ids[:, 6:] == -1)
        assert index.search(x[:0], k=4, confidence=0.9)[0].shape == (0, 4)


def test_equal_rows_and_zeros():
    x = np.repeat(sts.normal(2, 32), 300, axis=0)
    x[5:9] = 0
    index = tqvec.Index(32, nbits=2)
    index.add(x)
    for confidence in (0.5, 0.99):
        scores, ids = index.search(np.concatenate([x[:1], x[5:6]]), k=3, confidence=confidence)
        assert ids.shape[1] <= 600
        assert not np.isnan(scores).any()


@pytest.mark.parametrize("confidence", [0, 1, 1.0, 0.0, -0.5, 2.0, np.nan, "0.9", True])
def test_bad_confidence(confidence):
    index = tqvec.Index(8)
    index.add(sts.normal(3, 8))
    with pytest.raises(InputError, match="confidence must be a number above 0 and below 1"):
        index.search(sts.normal(1, 8), confidence=confidence)
