"""How many lists a query probes: the rule against its definition, and the promise on fresh queries."""

import math
from functools import cache

import numpy as np
import pytest

from tqvec.index.partition import probing as module
from tqvec.index.partition.probing import TARGETS, calibrate

NLIST, KS = 300, (1, 2, 5, 10, 20, 50, 100)


@cache
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


def count(probing, scores, k, recall):
    """How many of its ranked lists each query probes."""
    return (scores[:, :1] - scores <= probing.limits(scores.shape[1], k, recall)).sum(axis=1)


def held(counts, lists, where):
    """The share of the results that lie in the probed lists."""
    probed = np.zeros((len(lists), NLIST), bool)
    np.put_along_axis(probed, lists, np.arange(lists.shape[1]) < np.reshape(counts, (-1, 1)), axis=1)
    return float(np.take_along_axis(probed, where, axis=1).mean())


@pytest.fixture(scope="module")
def queries():
    return draw(400, seed=1)


@pytest.fixture(scope="module")
def probing(queries):
    return calibrate(*queries, sizes())


def test_shapes(probing):
    assert probing.ks.tolist() == list(KS)
    assert np.array_equal(probing.targets, np.array(TARGETS, np.float32))
    assert probing.thresholds.shape == probing.ranked.shape == (len(KS), len(TARGETS))
    dtypes = [array.dtype for array in (probing.ks, probing.targets, probing.thresholds, probing.ranked)]
    assert dtypes == [np.int32, np.float32, np.float32, np.int32]
    assert isinstance(probing.weight, float)
    assert probing.nlist == NLIST


@cache
def calibrations(n=250):
    """Independent ones, of n queries each."""
    pool = draw(2000, seed=2)
    return [calibrate(*(array[start : start + n] for array in pool), sizes()) for start in range(0, 2000, n)]


@pytest.mark.parametrize("k", [1, 10, 50, 100])
@pytest.mark.parametrize("recall", [0.9, 0.95, 0.98])
def test_promise_on_fresh_queries(k, recall):
    """On average over calibrations it is never below the target, and above it by no more than the theorem says."""
    n, fresh = 250, draw(1500, seed=3)
    reached = [held(count(each, fresh[0], k, recall), fresh[1], fresh[2][:, :k]) for each in calibrations(n)]
    noise = 3 * math.sqrt(recall * (1 - recall) / len(fresh[0])) * (1 if k == 1 else 0.5)
    assert recall - noise < np.mean(reached) < recall + 2 / n + noise


@pytest.mark.parametrize("recall", [0.55, 0.65, 0.85, 0.93, 0.97, 0.985])
def test_promise_between_calibrated_targets(recall):
    fresh = draw(1500, seed=3)
    reached = [held(count(each, fresh[0], 10, recall), fresh[1], fresh[2][:, :10]) for each in calibrations()]
    assert np.mean(reached) == pytest.approx(recall, abs=0.015)


@pytest.mark.parametrize("k", [3, 7, 30, 70])
@pytest.mark.parametrize("recall", [0.9, 0.97])
def test_promise_between_calibrated_ks(k, recall):
    """Later results lie farther away, so the larger calibrated k decides, and more is kept than was promised."""
    fresh = draw(1500, seed=3)
    reached = [held(count(each, fresh[0], k, recall), fresh[1], fresh[2][:, :k]) for each in calibrations()]
    assert recall - 0.01 < np.mean(reached) < recall + 0.035


@pytest.mark.parametrize("k", [3, 7, 30, 70])
def test_between_two_ks_the_larger_threshold_counts(probing, k):
    """Also where a larger k was calibrated to need fewer lists, as chance may have it."""
    right = np.searchsorted(KS, k)
    for table in (probing.thresholds, -probing.thresholds):
        rule = probing._replace(thresholds=table)
        around = [rule.limits(NLIST, KS[i], 0.9) for i in (right - 1, right)]
        assert np.array_equal(rule.limits(NLIST, k, 0.9), np.maximum(*around))


def test_beyond_the_largest_k_thresholds_keep_rising():
    """Results of rank 20 to 50 lie as far away as those of 50 to 100, so the rise is a little too large."""
    scores, lists, where = draw(1500, seed=4)
    probing, fresh = calibrate(scores, lists, where[:, :50], sizes()), draw(1500, seed=3)
    for recall in (0.8, 0.9, 0.95):
        reached = held(count(probing, fresh[0], 100, recall), fresh[1], fresh[2])
        kept = held(count(probing, fresh[0], 50, recall), fresh[1], fresh[2])
        assert kept < recall - 0.003 < reached < recall + 0.03
        assert probing.most(51, recall) == NLIST, "the ranks of no calibration query say how many"
    falling = probing._replace(thresholds=np.sort(probing.thresholds, axis=0)[::-1])
    assert np.array_equal(falling.limits(NLIST, 1000, 0.9), falling.limits(NLIST, 50, 0.9))
    single = calibrate(scores, lists, where[:, :1], sizes())
    assert (count(single, fresh[0], 2, 0.9) == NLIST).all(), "one k tells nothing of another"


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
            assert np.abs(count(probing, scores, k, target) - expected).sum() <= 1, "more than one tie"


def test_thresholds_are_the_least_that_conformal_risk_control_allows(probing, queries):
    scores, lists, where = queries
    n = len(scores)
    for i, k in enumerate(KS):
        for j, target in enumerate(TARGETS):
            counts = count(probing, scores, k, target)
            loss = 1 - held(counts, lists, where[:, :k])
            if np.isinf(probing.thresholds[i, j]):
                assert (n + 1) * (1 - target) < 1
                assert loss == 0
                continue
            assert n * loss + 1 <= (n + 1) * (1 - target) + 1e-9
            if counts.max() == 1:
                continue  # the best list is always probed
            lower = probing.thresholds.copy()
            lower[i, j] -= 1e-4
            fewer = count(probing._replace(thresholds=lower), scores, k, target)
            lower_loss = 1 - held(fewer, lists, where[:, :k])
            assert n * lower_loss + 1 > (n + 1) * (1 - target) + 1e-9, "a lower threshold would do"


@pytest.mark.parametrize(("by_rank", "by_gap", "least", "most"), [(0, 30, 0.0, 0.2), (1.5, 0, 0.5, 0.9)])
def test_weight_is_the_least_that_costs_little_more_than_the_best(monkeypatch, by_rank, by_gap, least, most):
    scores, lists, where = draw(250, seed=6, by_rank=by_rank, by_gap=by_gap)
    rows, costs = np.cumsum(sizes()[lists], axis=1), []
    weight = calibrate(scores, lists, where, sizes()).weight
    for each in np.arange(10) / 10:
        monkeypatch.setattr(module, "_WEIGHTS", np.array([each]))
        probing = calibrate(scores, lists, where, sizes())
        counts = [count(probing, scores, k, recall) for k in KS for recall in (0.9, 0.95, 0.99)]
        costs.append(np.mean([np.log(rows[np.arange(250), each - 1].mean()) for each in counts]))
    cheap = np.array(costs) <= min(costs) + math.log(1.05)
    assert weight == pytest.approx(np.argmax(cheap) / 10)
    assert least <= weight <= most


def test_rows_cost_less_than_a_fixed_number_of_lists(probing, queries):
    scores, lists, where = queries
    rows = np.cumsum(sizes()[lists], axis=1)
    counts = count(probing, scores, 10, 0.95)
    fixed = next(c for c in range(1, NLIST) if held([c] * len(lists), lists, where[:, :10]) >= 0.95)
    assert rows[np.arange(len(counts)), counts - 1].mean() < 0.95 * rows[:, fixed - 1].mean()


def test_more_recall_takes_more_lists(probing, queries):
    grid = np.linspace(0.5, 1, 60)
    counts = np.array([count(probing, queries[0], 10, recall) for recall in grid])
    most = [probing.most(10, recall) for recall in grid]
    assert (np.diff(counts, axis=0) >= 0).all()
    assert (np.diff(most) >= 0).all()
    assert counts[0].max() < counts[30].max() < NLIST


def test_all_lists(probing, queries):
    for recall in (0.9991, 0.9999999, 1.0):
        assert probing.most(10, recall) == NLIST
        assert (count(probing, queries[0], 10, recall) == NLIST).all()


def test_the_least_target_serves_lower_ones(probing, queries):
    assert np.array_equal(count(probing, queries[0], 10, 0.1), count(probing, queries[0], 10, 0.5))
    assert probing.most(10, 0.1) == probing.most(10, 0.5)


@pytest.mark.parametrize("k", [1, 2, 10, 50, 100, 1000])
@pytest.mark.parametrize("recall", [0.5, 0.7, 0.93, 0.99, 0.995])
def test_no_calibration_query_needs_more_lists_than_are_ranked(probing, queries, k, recall):
    most = probing.most(k, recall)
    assert count(probing, queries[0], k, recall).max() <= most <= NLIST
    ranked = count(probing, np.ascontiguousarray(queries[0][:, :most]), k, recall)
    assert np.array_equal(ranked, count(probing, queries[0], k, recall))


def test_one_query_is_as_one_of_many(probing, queries):
    counts = count(probing, queries[0], 10, 0.95)
    assert [count(probing, row[None], 10, 0.95)[0] for row in queries[0]] == counts.tolist()


def test_few_queries_promise_little():
    """Of 20 queries none may be lost at 0.95, and no number of lists but all keeps 0.98."""
    few = draw(20, seed=7)
    probing = calibrate(*few, sizes())
    assert count(probing, few[0], 10, 0.9).max() < NLIST
    assert np.isinf(probing.thresholds[:, TARGETS.index(0.98) :]).all()
    assert probing.most(10, 0.96) == NLIST
    assert (count(probing, few[0], 10, 0.96) == NLIST).all()


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
    assert shared.ks.tolist() == [10, 20, 50, 100]
    for k in (1, 4, 10):
        assert np.array_equal(count(shared, queries[0], k, 0.9), count(shared, queries[0], 10, 0.9))
    assert count(own, queries[0], 1, 0.9).sum() < count(shared, queries[0], 1, 0.9).sum()
    assert calibrate(queries[0], queries[1], queries[2][:, :3], sizes(), k_min=10).ks.tolist() == [3]


def test_all_results_in_the_best_list():
    scores, lists, _ = draw(50, seed=9)
    probing = calibrate(scores, lists, np.repeat(lists[:, :1], 10, axis=1), sizes())
    assert (count(probing, scores, 10, 0.9) == 1).all()
    assert (count(probing, scores, 3, 0.93) == 1).all()
    assert probing.most(10, 0.9) == 2
    assert (probing.thresholds > -100).all(), "files hold finite numbers alone"


def test_one_list():
    zeros = np.zeros((200, 1), np.int32)
    probing = calibrate(np.ones((200, 1), np.float32), zeros, zeros, np.array([7], np.int32))
    assert probing.most(5, 0.9) == 1
    assert count(probing, np.ones((3, 1), np.float32), 5, 0.9).tolist() == [1, 1, 1]


def test_lists_that_a_query_has_not_are_not_counted(probing, queries):
    scores = queries[0][:5].copy()
    scores[:, 4:] = -np.inf
    assert count(probing, scores, 10, 1.0).tolist() == [4] * 5


def test_inputs_stay_as_they_are_and_the_result_is_the_same_again(queries, probing):
    before = [array.copy() for array in queries]
    again = calibrate(*queries, sizes())
    assert all(np.array_equal(a, b) for a, b in zip(before, queries, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(again, probing, strict=True))


@pytest.mark.parametrize("threshold", [-np.inf, -3e38, 3e38, np.inf])
def test_extreme_thresholds_of_a_file_do_no_harm(probing, threshold):
    extreme = probing._replace(thresholds=np.full_like(probing.thresholds, threshold), weight=0.9)
    for k, recall in ((1, 0.9), (3, 0.93), (1000, 0.93)):
        limits = extreme.limits(NLIST, k, recall)
        assert limits[0] >= 0
        assert np.isfinite(limits).all()
