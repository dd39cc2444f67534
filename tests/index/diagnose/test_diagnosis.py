"""Diagnoses: recall against the true one by all three ways, causes on data that have them, pieces by exact cases."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import strategies as sts
from naive_index import contents
from scipy.special import ndtr

import tqvec
from tqvec import exact
from tqvec._vectors import Vectors
from tqvec.errors import InputError
from tqvec.eval.sample import load_sample
from tqvec.index.diagnose import diagnosis
from tqvec.index.diagnose.candidates import drop_one
from tqvec.index.diagnose.causes import _dimensions
from tqvec.index.diagnose.error_correlation import measure_error_correlation
from tqvec.index.diagnose.posterior import Posterior, fit_tail, positions
from tqvec.index.diagnose.recall import DRAWS, Recall, shift_logit, simulate_recall
from tqvec.index.metrics import METRICS


@pytest.fixture
def few_queries(monkeypatch):
    """Where it does not matter how near a diagnosis comes."""
    monkeypatch.setattr(diagnosis, "_QUERIES", 100)


def scores(metric, queries, x):
    """All exact scores, larger better, (nq, n)."""
    queries, x = queries.astype(np.float64), x.astype(np.float64)
    if metric == "l2":
        return -np.square(queries[:, None] - x).sum(axis=2)
    products = queries @ x.T
    if metric == "cosine":
        products /= np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(x, axis=1)
    return products


def lists(index, x, queries, k):
    """Exact scores, and the results of a search as row numbers; without queries all rows ask for the others."""
    if queries is not None:
        return scores(index.metric, queries, x), index.search(queries, k=k)[1]
    all_scores = scores(index.metric, x, x)
    np.fill_diagonal(all_scores, -np.inf)
    results = index.search(x, k=k + 1)[1]
    others = [[row for row in result if row != q][:k] for q, result in enumerate(results)]
    return all_scores, np.array(others)


def true_recall(index, x, queries=None, k=10):
    """Of data without ties."""
    all_scores, results = lists(index, x, queries, k)
    best = np.argsort(-all_scores, axis=1)[:, :k]
    return np.mean([np.isin(a, b).mean() for a, b in zip(best, results, strict=True)])


def built(x, nbits=2, metric="ip", codebook="scalar", train=False):
    index = tqvec.Index(x.shape[1], nbits, metric, codebook)
    if train:
        assert index.train(x).accepted
    index.add(x)
    return index


def glosses(n=2500):
    sample = load_sample()
    return sample.base[:n].astype(np.float32), sample.queries.astype(np.float32)


def uneven(n, d, seed=0):
    """Rows around a common point whose variances fall as 1/j."""
    return (sts.normal(n, d, seed) / np.sqrt(np.arange(1, d + 1)) + 0.1).astype(np.float32)


def names_of(causes):
    return [cause.name for cause in causes]


def texts_of(causes):
    return {cause.name: cause.text for cause in causes}


# ---- recall ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
def test_measured_recall_is_the_true_one(metric):
    x, queries = sts.normal(450, 24), sts.normal(60, 24, seed=1)
    index = built(x, metric=metric)
    for asking in (queries, None):
        report = index.diagnose(queries=asking, sample=x, k=7)
        assert report.method.startswith("measured on all 450 vectors; ")
        assert report.recall == pytest.approx(true_recall(index, x, asking, 7), abs=1e-12)
        assert report.queries == (60 if asking is not None else 450)
        assert tqvec.Index(24, 2, metric).diagnose(queries=asking, sample=x, k=7).recall == report.recall


@pytest.mark.slow
@pytest.mark.parametrize(
    ("nbits", "codebook", "train"), [(1, "scalar", False), (2, "trellis", False), (2, "scalar", True)]
)
def test_estimates_on_glosses(nbits, codebook, train):
    """Within 0.02 with queries, with and without a sample of others; within 0.03 by codes alone."""
    x, queries = glosses()
    index = built(x, nbits, "cosine", codebook, train)
    true, among = index.diagnose(queries=queries, sample=x).recall, index.diagnose(sample=x).recall
    report = index.diagnose(queries=queries)
    rough = ", roughly: errors of a trained index are known on average" if train else ""
    assert report.method == f"estimated from 2,500 codes{rough}; 500 queries"
    assert report.recall == pytest.approx(true, abs=0.02)
    assert report.interval[0] <= true <= report.interval[1]
    alone = index.diagnose()
    assert alone.method == f"estimated from 2,500 codes{rough}; 500 of them as queries"
    assert alone.recall == pytest.approx(among, abs=0.03)
    corrected = index.diagnose(queries=queries, sample=x[::4])
    assert "corrected by" in corrected.method
    assert "measured on 625 rows of the sample" in corrected.method
    assert corrected.recall == pytest.approx(true, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("make", [sts.normal, uneven])
def test_estimates_on_made_data(metric, make):
    x, queries = make(3000, 64), make(100, 64, seed=1)
    index = built(x, 3, metric)
    true = true_recall(index, x, queries)
    assert index.diagnose(queries=queries).recall == pytest.approx(true, abs=0.04)
    among = index.diagnose(sample=x).recall
    assert index.diagnose().recall == pytest.approx(among, abs=0.04)


@pytest.mark.slow
def test_other_k():
    x, queries = glosses()
    index = built(x, 2, "cosine")
    for k in (1, 50):
        report, true = index.diagnose(queries=queries, k=k), index.diagnose(queries=queries, sample=x, k=k).recall
        assert report.k == k
        assert report.interval[0] <= true <= report.interval[1]
        assert ("roughly" in report.method) == (k == 1)  # one neighbour is easily hidden


@pytest.mark.slow
def test_a_sample_of_other_rows_is_not_taken_for_what_is_stored(few_queries):
    x = sts.normal(800, 16)
    index = built(x)
    assert "measured on all" in index.diagnose(sample=x).method
    for other in (sts.normal(800, 16, seed=1), x[::-1], x[:799]):
        assert "corrected by" in index.diagnose(sample=other).method


def test_removed_rows_and_ids_in_small_blocks(small_blocks, few_queries):
    x = sts.normal(730, 16)
    index = tqvec.Index(16, 2)
    index.add(x, ids=np.arange(730)[::-1] * 5)
    index.remove_ids(np.arange(0, 730, 3) * 5)
    left = x[(729 - index.ids // 5)]
    report = index.diagnose(sample=left)
    fresh = built(left)
    assert f"measured on all {len(left)} vectors" in report.method
    assert report.recall == fresh.diagnose(sample=left).recall
    assert index.diagnose().recall == fresh.diagnose().recall


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
def test_the_index_stays_as_it_was_and_answers_are_the_same(metric, few_queries):
    x, queries = sts.normal(700, 32), sts.normal(30, 32, seed=1)
    index = built(x, metric=metric)
    ids, rows = (copy.deepcopy(part) for part in contents(index))
    for arguments in ({}, {"queries": queries}, {"sample": x}, {"queries": queries, "sample": x[:500]}):
        one, two = index.diagnose(**arguments, threads=1), index.diagnose(**arguments, threads=2)
        assert str(one) == str(two)
        assert (one.recall, one.interval) == (two.recall, two.interval)
        assert np.array_equal(one.gaps, two.gaps)
    ids_after, rows_after = contents(index)
    assert np.array_equal(ids, ids_after)
    assert all(np.array_equal(rows[name], rows_after[name]) for name in rows)
    assert index.codec.calibration is None


# ---- causes and alternatives --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_causes_on_isotropic_data():
    low = built(sts.normal(2000, 16)).diagnose()
    assert {"near-ties", "dimension"} <= set(names_of(low.causes))
    assert texts_of(low.causes)["dimension"].startswith("At d=16 a cosine has a standard error of up to ")
    assert not {"anisotropy", "duplicates"} & set(names_of(low.causes))
    assert all(one.cost >= two.cost for one, two in pairwise(low.causes))
    x = sts.normal(200, 16)
    fine = built(x, 8).diagnose(sample=x)
    assert names_of(fine.causes) == ["near-ties"]
    assert fine.causes[0].cost == pytest.approx(1 - fine.recall)


@pytest.mark.slow
def test_anisotropy_is_named_and_what_training_would_add():
    x = uneven(3000, 64)
    index = built(x, 2)
    cause = {cause.name: cause for cause in index.diagnose().causes}["anisotropy"]
    assert cause.cost == 0
    assert cause.text.endswith("`train` may help; a sample would show it.")
    report = index.diagnose(sample=x)
    cause = {cause.name: cause for cause in report.causes}["anisotropy"]
    assert f"`train` would add {cause.cost:.3f}." in cause.text
    trained = built(x, 2, train=True).diagnose(sample=x)
    assert trained.recall - report.recall == pytest.approx(cause.cost, abs=0.03)
    assert "anisotropy" not in names_of(trained.causes)
    assert trained.alternatives[0].name == "2 bits, trained (now)"
    assert all(other.name.endswith(", trained") for other in trained.alternatives[1:])


@pytest.mark.parametrize("metric", METRICS)
def test_lengths_are_named(metric, few_queries):
    x = sts.normal(2000, 32) * np.exp(0.6 * sts.normal(2000, 1, seed=1))
    names = names_of(built(x, metric=metric).diagnose().causes)
    assert ("lengths" in names) == (metric == "ip")  # l2 finds short rows, whose errors are small


@pytest.mark.slow
def test_duplicates_are_named():
    x = np.repeat(sts.normal(200, 32), 5, axis=0)
    report = built(x, metric="cosine").diagnose()
    text = texts_of(report.causes)["duplicates"]
    assert text == "70.0 % of the results have the same codes as another."  # 4 copies, then two groups of 5, in part


@pytest.mark.slow
def test_alternatives_are_near_what_such_indexes_have():
    x, queries = glosses()
    report = built(x, 2, "cosine").diagnose(queries=queries, sample=x)
    now, *others = report.alternatives
    assert now == ("2 bits (now)", report.recall, 100)
    assert [other.code_size for other in others] == sorted(other.code_size for other in others)
    predicted = {other.name: other for other in others}
    assert set(predicted) == {
        "1 bit",
        "1 bit, trellis",
        "2 bits, trellis",
        "2 bits, trained",
        "3 bits",
        "3 bits, trellis",
    }
    for name, width, codebook, train in (
        ("2 bits, trellis", 2, "trellis", False),
        ("2 bits, trained", 2, "scalar", True),
        ("3 bits", 3, "scalar", False),
    ):
        other = built(x, width, "cosine", codebook, train)
        assert predicted[name].recall == pytest.approx(other.diagnose(queries=queries, sample=x).recall, abs=0.02)
        assert predicted[name].code_size == other.code_size


def test_alternatives_at_the_ends_of_the_widths(few_queries):
    x = sts.normal(300, 12)  # too few coordinates for the trellis
    assert [other.name for other in built(x, 8).diagnose().alternatives] == ["8 bits (now)", "7 bits"]
    assert [other.name for other in built(x, 1, "l2").diagnose().alternatives] == ["1 bit (now)", "2 bits"]
    assert built(x, 1, "l2").diagnose().alternatives[1].code_size == tqvec.Index(12, 2, "l2").code_size
    names = [other.name for other in built(x, 2.5).diagnose().alternatives]
    assert names == ["2.5 bits (now)", "2 bits", "3 bits"]


@pytest.mark.slow
def test_the_shortlist_holds_what_it_promises():
    x, queries = glosses()
    index = built(x, 1, "cosine")
    report = index.diagnose(queries=queries, sample=x)
    best = np.argsort(-scores("cosine", queries, x), axis=1)[:, :10]

    def held(m):
        return np.mean([np.isin(a, b).mean() for a, b in zip(best, index.search(queries, k=m)[1], strict=True)])

    assert held(report.shortlist) >= 0.99 > held(report.shortlist - 1)
    assert report.rerank == f"rerank: the best {report.shortlist:,} hold 99 % of the true 10"
    assert index.diagnose(queries=queries).shortlist == pytest.approx(report.shortlist, rel=0.35)


def test_prints_as_a_table():
    x = sts.normal(300, 16)
    report = built(x).diagnose(sample=x)
    lines = str(report).splitlines()
    low, high = report.interval
    assert lines[0] == f"recall 10@10: {report.recall:.3f} ({low:.3f} to {high:.3f})"
    assert lines[1:3] == ["measured on all 300 vectors; 300 of them as queries", "causes of lost recall"]
    assert f"  2 bits (now)            {report.recall:6.3f}      8" in lines


# ---- odd cases ---------------------------------------------------------------------------------------------------


def test_nothing_to_diagnose():
    index = tqvec.Index(8)
    with pytest.raises(InputError, match="^sample must be given, vectors like those to be stored: the index is empty"):
        index.diagnose()
    with pytest.raises(InputError, match="^sample must be given"):
        index.diagnose(queries=sts.normal(3, 8))
    with pytest.raises(InputError, match="^queries must be given: one vector alone has no neighbours"):
        index.diagnose(sample=sts.normal(1, 8))
    index.add(sts.normal(1, 8))
    with pytest.raises(InputError, match="^queries must be given"):
        index.diagnose()
    for name in ("queries", "sample"):
        with pytest.raises(InputError, match=f"^{name} must have at least one row, or be None"):
            index.diagnose(**{name: np.zeros((0, 8), np.float32)})


@pytest.mark.parametrize("metric", METRICS)
def test_one_vector_or_fewer_than_k(metric):
    queries = sts.normal(5, 16, seed=1)
    one = built(sts.normal(1, 16), metric=metric).diagnose(queries=queries)
    assert (one.recall, one.k, one.ntotal, one.shortlist) == (1, 1, 1, 1)
    assert np.all(one.gaps == np.inf)
    x = sts.normal(30, 16)
    for sample in (None, x):
        report = built(x, metric=metric).diagnose(sample=sample, k=2**31 - 1)
        assert (report.recall, report.k, report.shortlist) == (1, 29, 29)
        assert built(x, metric=metric).diagnose(queries=queries, sample=sample, k=500).k == 30


@pytest.mark.parametrize("metric", METRICS)
def test_zero_rows_alone_are_all_found(metric, few_queries):
    x = np.zeros((60, 16), np.float32)
    for sample in (None, x):
        report = built(x, metric=metric).diagnose(sample=sample)
        assert (report.recall, report.shortlist) == (1, 10)
        assert names_of(report.causes) == ["duplicates"]


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
def test_copies_tie(metric):
    """Of 12 copies of each row any 10 are right; codes alone tell most of it."""
    x = np.repeat(sts.normal(100, 32), 12, axis=0)
    index = built(x, 4, metric)
    assert index.diagnose(sample=x).recall == 1
    assert index.diagnose().recall == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize("metric", ["ip", "l2"])
@pytest.mark.parametrize("name", ["sample", "queries"])
def test_values_that_training_can_not_take(metric, name, few_queries):
    x = sts.normal(2500, 8)
    bad = x.copy()
    bad[2017, 3] = 2e18
    arguments = {"sample": x, "queries": x} | {name: bad}
    with pytest.raises(InputError, match=f"^{name} row 2017 is too long"):
        built(x, metric=metric).diagnose(**arguments)


@pytest.mark.parametrize("d", [1, 2, 3, 9, 10, 16])
def test_small_dimensions(d, few_queries):
    x = sts.normal(400, d)
    for nbits in (1, 4):
        report = built(x, nbits, "l2").diagnose()
        assert 0 <= report.interval[0] <= report.recall <= report.interval[1] <= 1
        assert np.all(report.gaps >= 0)


# ---- the pieces --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_exact_best(metric, monkeypatch):
    x, queries = sts.normal(100, 5), sts.normal(9, 5, seed=1)
    expected = scores(metric, queries, x)
    own = np.arange(9) * 11
    for block in (7, 100, 8192):
        monkeypatch.setattr(exact, "_BLOCK", block)
        best, ids = exact.best(metric, queries, x, 12)
        assert np.array_equal(ids, np.argsort(-expected, axis=1)[:, :12])
        assert np.allclose(best, np.take_along_axis(expected, ids, axis=1))
        ids = exact.best(metric, queries, x, 99, own)[1]
        assert all(sorted([*row, one]) == list(range(100)) for row, one in zip(ids, own, strict=True))


def test_of_equal_scores_the_smaller_number_comes_first():
    assert exact.best("ip", np.ones((1, 2), np.float32), np.ones((30, 2), np.float32), 30)[1].tolist() == [
        list(range(30))
    ]


def test_dropping_one_entry():
    drop = np.array([[False, True, False], [False, False, False], [True, False, False]])
    values = np.array([[3, 2, 1]] * 3)
    assert [part.tolist() for part in drop_one(drop, values, values)] == [[[3, 1], [3, 2], [2, 1]]] * 2


def pair(gap, std, noise, ordered, same=False, nq=20_000):
    """Two rows for each query."""
    shape = (nq, 2)
    position = np.broadcast_to([0.0, -gap], shape)
    equal = np.broadcast_to([False, same], shape)
    return Posterior(
        mean=position,
        std=np.full(shape, std),
        noise=np.full(shape, noise),
        same=equal,
        ordered=ordered,
        curvature=0.0,
        complete=True,
    )


@pytest.mark.parametrize("gap", [0.1, 0.4, 1.5])
def test_two_rows(gap):
    """The first stays first with probability Φ(gap/(√2 error))."""
    for error in (0.5, 1.0):
        expected = ndtr(gap / (np.sqrt(2) * error))
        known, factor = pair(gap, 0.0, 1.0, False), error
        assert simulate_recall(known, 1, factor, 0, DRAWS).value == pytest.approx(expected, abs=0.006)
        assert simulate_recall(pair(gap, error, 1.0, True), 1, 1.0, 0, DRAWS).value == pytest.approx(
            expected, abs=0.006
        )
    assert simulate_recall(pair(gap, 0.0, 1.0, False, same=True), 1, 3.0, 0, DRAWS).value == 1
    assert simulate_recall(pair(gap, 0.0, 1.0, False), 1, 0.0, 0, DRAWS).value == 1
    assert simulate_recall(pair(gap, 1.0, 1.0, True), 2, 1.0, 0, DRAWS).value == 1
    assert simulate_recall(pair(0.0, 0.0, 1.0, False), 1, 1.0, 0, DRAWS).value == 1  # they tie


def test_the_posterior_of_normal_scores_tells_the_recall_of_their_estimates():
    """Normal scores with normal errors: the posterior of each row is known, and tells the recall of the estimates."""
    nq, m, error = 400, 1000, 0.7
    truth = sts.normal(nq, m).astype(np.float64)
    estimates = -np.sort(-(truth + error * sts.normal(nq, m, seed=1)), axis=1)
    order = np.argsort(-(truth + error * sts.normal(nq, m, seed=1)), axis=1)
    best = np.argsort(-truth, axis=1)[:, :10]
    true = np.mean([np.isin(a, b).mean() for a, b in zip(best, order[:, :10], strict=True)])
    shape = (nq, m)
    kept = 1 / (1 + error**2)
    posterior = Posterior(
        mean=kept * estimates,
        std=np.full(shape, error * np.sqrt(kept)),
        noise=np.full(shape, error),
        same=np.zeros(shape, bool),
        ordered=True,
        curvature=0.0,
        complete=True,
    )
    recall = simulate_recall(posterior, 10, 1.0, 0, DRAWS)
    assert recall.value == pytest.approx(true, abs=4 * np.sqrt(recall.variance) + 0.01)


def test_tail_of_normal_and_of_exponential_densities():
    """Of a normal density the curvature is 1/σ² and the rate (edge − mean)/σ²; of an exponential one 0 and its rate."""
    rng = sts.rng(5)
    position = -np.sort(-rng.normal(-3, 2.0, (1, 400_000)), axis=1)
    tail = fit_tail(position, 200)
    assert tail.curvature.item() == pytest.approx(1 / 4, rel=0.1)
    assert tail.rate.item() == pytest.approx((tail.edge.item() + 3) / 4, rel=0.1)
    position = -np.sort(-rng.exponential(0.5, (1, 100_000)), axis=1)
    tail = fit_tail(position, 10)
    assert tail.curvature.item() == pytest.approx(0, abs=0.1)
    assert tail.rate.item() == pytest.approx(2, rel=0.1)
    flat = fit_tail(np.zeros((1, 50)), 10)
    assert (flat.rate.item(), flat.curvature.item()) == (0, 0)


def test_positions_count_standard_errors():
    scores = np.array([[5.0, 4.0, 4.0, 1.0]])
    assert positions(scores, np.full((1, 4), 0.5)).tolist() == [[0, -2, -2, -8]]
    assert positions(scores, np.array([[1.0, 3.0, 1.0, 1.0]]))[0, 1] == -0.5


def test_errors_of_rows_that_are_alike():
    """Of rows in independent directions they are independent; the more alike rows are, the less is their own."""
    codec = tqvec.TurboQuant(128, 1)
    alike = np.array([0.0, 0.5, 0.95])
    correlation = measure_error_correlation(codec, 0.0, np.repeat(alike, 100))
    variances = correlation.single[:, 0].reshape(3, 100).mean(axis=1)
    assert variances[0] == pytest.approx(1, abs=0.25)
    assert variances[0] > variances[1] > variances[2] > 0


@pytest.mark.parametrize("part", [8, 32, 64])
def test_dimensions_of_a_flat_spectrum(part):
    x = np.zeros((3000, 64), np.float32)
    x[:, :part] = sts.normal(3000, part)
    snapshot = built(x, 2)._snapshot(threads=1)
    assert _dimensions(snapshot, Vectors(x, 64, "sample")) == pytest.approx(part, rel=0.05)
    assert _dimensions(snapshot, None) == pytest.approx(part, rel=0.1)


def test_shifts_on_the_scale_of_log_odds():
    assert shift_logit(0.7, 0.7, 0.9) == pytest.approx(0.9)
    assert shift_logit(0.8, 0.6, 0.6) == pytest.approx(0.8)
    assert shift_logit(0.5, 0.8, 0.9) == pytest.approx(9 / 13)  # odds 1 · (9/1)/(4/1)
    assert 0 < shift_logit(0.0, 1.0, 0.5) < shift_logit(1.0, 0.0, 0.5) < 1


def test_shortlists_from_depths():
    nothing = np.zeros(0)
    recall = Recall(
        by_query=nothing,
        variance=0.0,
        posterior=pair(0, 0, 1, True, nq=1),
        gaps=nothing,
        depths=np.array([50, 30, 15, 4, 1]),
        rows=nothing,
    )
    assert [recall.shortlist(kept) for kept in (0.5, 0.8, 0.81, 0.99, 0.995)] == [1, 2, 3, 4, None]
