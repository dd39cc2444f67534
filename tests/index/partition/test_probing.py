"""How many lists a query probes: the rule against its definition, and the promise on fresh queries."""

import math

import numpy as np
import pytest

from tqvec.index.partition.probing import TARGETS, calibrate

NLIST, KS = 300, (1, 10, 100)


def draw(n, seed, m=NLIST, by_rank=0.7, by_gap=12.0, k_max=100):
    """Queries whose results lie in lists with a probability that falls with the rank and with the gap.

    Gaps of some queries are ten times those of others, and later results lie farther away.
    """
    r = np.random.default_rng(seed)
    steps = r.exponential(0.1, (n, NLIST)) / np.sqrt(1 + np.arange(NLIST)) * r.lognormal(0, 0.7, (n, 1))
    gaps = np.cumsum(steps, axis=1) - steps[:, :1]
    nearness = -by_rank * np.log1p(np.arange(NLIST)) - by_gap * gaps
    ranks = np.empty((n, k_max), np.int64)
    for start, end, softness in ((0, 1, 1.0), (1, 10, 1.5), (10, 100, 2.2)):
        shares = np.cumsum(np.exp(nearness / softness), axis=1)
        drawn = r.random((n, end - start)) * shares[:, -1:]
        ranks[:, start:end] = [np.searchsorted(*pair) for pair in zip(shares, drawn, strict=True)]
    lists = r.permuted(np.tile(np.arange(NLIST, dtype=np.int32), (n, 1)), axis=1)
    where = np.take_along_axis(lists, ranks, axis=1)
    scores = (0.9 - gaps).astype(np.float32)
    return scores[:, :m], lists[:, :m], where


def sizes(seed=0):
    return np.random.default_rng(seed).integers(50, 500, NLIST).astype(np.int32)


def held(counts, lists, where):
    """The share of the results that lie in the probed lists, list by list."""
    shares = [np.isin(hits, ranked[:count]).mean() for hits, ranked, count in zip(where, lists, counts, strict=True)]
    return float(np.mean(shares))


@pytest.fixture(scope="module")
def queries():
    return draw(400, seed=1)


@pytest.fixture(scope="module")
def probing(queries):
    return calibrate(*queries, sizes())


def test_shapes(probing):
    assert probing.ks.tolist() == [1, 10, 100]
    assert np.array_equal(probing.targets, np.array(TARGETS, np.float32))
    assert probing.thresholds.shape == probing.ranked.shape == (3, len(TARGETS))
    dtypes = [array.dtype for array in (probing.ks, probing.targets, probing.thresholds, probing.ranked)]
    assert dtypes == [np.int32, np.float32, np.float32, np.int32]
    assert isinstance(probing.weight, float)
    assert probing.nlist == NLIST


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("recall", [0.9, 0.95, 0.98])
def test_promise_on_fresh_queries(k, recall):
    """On average over calibrations it is never below the target, and above it by no more than the theorem says."""
    n, pool, fresh = 250, draw(2000, seed=2), draw(1500, seed=3)
    reached = []
    for start in range(0, 2000, n):
        probing = calibrate(*(array[start : start + n] for array in pool), sizes())
        reached.append(held(probing.counts(fresh[0], k, recall), fresh[1], fresh[2][:, :k]))
    noise = 3 * math.sqrt(recall * (1 - recall) / len(fresh[0])) * (1 if k == 1 else 0.5)
    assert recall - noise < np.mean(reached) < recall + 2 / n + noise


@pytest.mark.parametrize(("k", "recall"), [(3, 0.9), (30, 0.9), (10, 0.93), (30, 0.97)])
def test_promise_between_calibrated_values(k, recall):
    probing, fresh = calibrate(*draw(1500, seed=4), sizes()), draw(1500, seed=5)
    assert held(probing.counts(fresh[0], k, recall), fresh[1], fresh[2][:, :k]) == pytest.approx(recall, abs=0.015)


def test_counts_follow_the_formula(probing, queries):
    scores = queries[0][:40]
    for i, k in enumerate(KS):
        for j, target in enumerate(TARGETS):
            threshold, expected = float(probing.thresholds[i, j]), []
            for row in scores:
                statistics = [
                    float(row[0] - score) ** (1 - probing.weight) * (1 + r) ** probing.weight
                    for r, score in enumerate(row)
                ]
                expected.append(sum(value <= math.exp(threshold) for value in statistics))
            assert np.abs(probing.counts(scores, k, target) - expected).sum() <= 1, "more than one tie"


def test_thresholds_are_the_least_that_conformal_risk_control_allows(probing, queries):
    scores, lists, where = queries
    n = len(scores)
    for i, k in enumerate(KS):
        for j, target in enumerate(TARGETS):
            loss = 1 - held(probing.counts(scores, k, target), lists, where[:, :k])
            if np.isinf(probing.thresholds[i, j]):
                assert (n + 1) * (1 - target) < 1
                assert loss == 0
                continue
            assert n * loss + 1 <= (n + 1) * (1 - target) + 1e-9
            lower = probing.thresholds.copy()
            lower[i, j] -= 1e-4
            lower_loss = 1 - held(probing._replace(thresholds=lower).counts(scores, k, target), lists, where[:, :k])
            assert lower_loss > loss, "a lower threshold loses nothing"
            one_more = 1 / (n * k)
            assert n * (loss + one_more) + 1 > (n + 1) * (1 - target) - 1e-9, "one more result might be lost"


def test_weight_follows_the_data():
    by_gap = calibrate(*draw(600, seed=6, by_rank=0, by_gap=30), sizes()).weight
    by_rank = calibrate(*draw(600, seed=6, by_rank=1.5, by_gap=0), sizes()).weight
    assert by_gap <= 0.2 < 0.7 <= by_rank


def test_rows_cost_less_than_a_fixed_number_of_lists(probing, queries):
    scores, lists, where = queries
    rows = np.cumsum(sizes()[lists], axis=1)
    counts = probing.counts(scores, 10, 0.95)
    fixed = next(c for c in range(1, NLIST) if held([c] * len(lists), lists, where[:, :10]) >= 0.95)
    assert rows[np.arange(len(counts)), counts - 1].mean() < 0.95 * rows[:, fixed - 1].mean()


def test_more_recall_takes_more_lists(probing, queries):
    grid = np.linspace(0.5, 1, 60)
    counts = np.array([probing.counts(queries[0], 10, recall) for recall in grid])
    most = [probing.most(10, recall) for recall in grid]
    assert (np.diff(counts, axis=0) >= 0).all()
    assert (np.diff(most) >= 0).all()
    assert counts[0].max() < counts[30].max() < NLIST


def test_all_lists(probing, queries):
    for recall in (0.9991, 0.9999999, 1.0):
        assert probing.most(10, recall) == NLIST
        assert (probing.counts(queries[0], 10, recall) == NLIST).all()


def test_the_least_target_serves_lower_ones(probing, queries):
    assert np.array_equal(probing.counts(queries[0], 10, 0.1), probing.counts(queries[0], 10, 0.5))
    assert probing.most(10, 0.1) == probing.most(10, 0.5)


@pytest.mark.parametrize("k", [1, 2, 10, 50, 100, 1000])
@pytest.mark.parametrize("recall", [0.5, 0.7, 0.93, 0.99, 0.995])
def test_no_calibration_query_needs_more_lists_than_are_ranked(probing, queries, k, recall):
    most = probing.most(k, recall)
    assert probing.counts(queries[0], k, recall).max() <= most <= NLIST
    ranked = probing.counts(np.ascontiguousarray(queries[0][:, :most]), k, recall)
    assert np.array_equal(ranked, probing.counts(queries[0], k, recall))


def test_one_query_is_as_one_of_many(probing, queries):
    counts = probing.counts(queries[0], 10, 0.95)
    assert counts.dtype == np.int32
    assert [probing.counts(row[None], 10, 0.95)[0] for row in queries[0]] == counts.tolist()


def test_few_queries_promise_little():
    """Of 20 queries none may be lost at 0.95, and no number of lists but all keeps 0.98."""
    few = draw(20, seed=7)
    probing = calibrate(*few, sizes())
    assert probing.counts(few[0], 10, 0.9).max() < NLIST
    assert np.isinf(probing.thresholds[:, TARGETS.index(0.98) :]).all()
    assert probing.most(10, 0.96) == NLIST
    assert (probing.counts(few[0], 10, 0.96) == NLIST).all()


def test_results_outside_the_ranked_lists_are_lost():
    scores, lists, where = draw(400, seed=8, m=20)
    probing = calibrate(scores, lists, where, sizes())
    best = held([20] * len(lists), lists, where)
    reachable = np.isfinite(probing.thresholds[-1])
    assert 0.5 < best < 0.95
    assert all(target <= best for target in np.array(TARGETS)[reachable])
    assert reachable.any()
    assert probing.most(100, 0.95) == NLIST


def test_small_k_may_take_the_thresholds_of_another(queries):
    own, shared = calibrate(*queries, sizes()), calibrate(*queries, sizes(), k_min=10)
    assert shared.ks.tolist() == [10, 100]
    for k in (1, 4, 10):
        assert np.array_equal(shared.counts(queries[0], k, 0.9), shared.counts(queries[0], 10, 0.9))
    assert own.counts(queries[0], 1, 0.9).sum() < shared.counts(queries[0], 1, 0.9).sum()
    assert calibrate(queries[0], queries[1], queries[2][:, :3], sizes(), k_min=10).ks.tolist() == [3]


def test_all_results_in_the_best_list():
    scores, lists, _ = draw(50, seed=9)
    probing = calibrate(scores, lists, np.repeat(lists[:, :1], 10, axis=1), sizes())
    assert (probing.counts(scores, 10, 0.9) == 1).all()
    assert (probing.counts(scores, 3, 0.93) == 1).all()
    assert probing.most(10, 0.9) == 2


def test_one_list():
    zeros = np.zeros((200, 1), np.int32)
    probing = calibrate(np.ones((200, 1), np.float32), zeros, zeros, np.array([7], np.int32))
    assert probing.most(5, 0.9) == 1
    assert probing.counts(np.ones((3, 1), np.float32), 5, 0.9).tolist() == [1, 1, 1]


def test_lists_that_a_query_has_not_are_not_counted(probing, queries):
    scores = queries[0][:5].copy()
    scores[:, 4:] = -np.inf
    assert probing.counts(scores, 10, 1.0).tolist() == [4] * 5


def test_inputs_stay_as_they_are_and_the_result_is_the_same_again(queries, probing):
    before = [array.copy() for array in queries]
    again = calibrate(*queries, sizes())
    assert all(np.array_equal(a, b) for a, b in zip(before, queries, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(again, probing, strict=True))
