"""Reranking: exact scores of a shortlist, of which no other row is read."""

import numpy as np
import pytest
import strategies as sts
from index_cases import build_index

import tqvec
from tqvec.errors import InputError
from tqvec.eval.recall import exact_search, recall
from tqvec.eval.sample import load_sample
from tqvec.index.metrics import METRICS


@pytest.mark.parametrize("metric", METRICS)
def test_scores_are_exact_and_results_nearly_so(metric):
    sample = load_sample()
    base, queries = sample.base.astype(np.float32), sample.queries.astype(np.float32)
    index = build_index(sample.base, metric=metric)
    scores, ids, error = index.search(queries, k=10, rerank=sample.base, return_error=True)
    true, truth = exact_search(base, queries, 10, metric)
    assert recall(ids, truth, 10, 10) >= 0.995 - 3 * np.sqrt(0.01 / len(ids))
    same = np.all(ids == truth, axis=1)
    assert same.mean() > 0.9
    np.testing.assert_allclose(scores[same], true[same], rtol=1e-4, atol=1e-5)
    assert not error.any()
    assert (scores.shape, ids.shape, error.shape) == ((500, 10),) * 3
    few = index.search(queries, k=10, rerank=sample.base, confidence=0.2)[1]
    assert recall(few, truth, 10, 10) < recall(ids, truth, 10, 10)


@pytest.mark.parametrize("metric", METRICS)
def test_all_rows_reranked_are_the_exact_search(metric):
    x, queries = sts.normal(60, 20), sts.normal(9, 20, seed=1)
    x[3] = 0
    scores, ids = build_index(x, 1, metric).search(queries, k=60, rerank=x)
    true, truth = exact_search(x, queries, 60, metric)
    assert np.array_equal(ids, truth)
    np.testing.assert_allclose(scores, true, rtol=1e-4, atol=1e-5)


def test_only_the_shortlist_is_read(tmp_path):
    """Any other row may be anything."""
    x, queries = sts.normal(3000, 64), sts.normal(5, 64, seed=1)
    index = build_index(x, nbits=4)
    listed = np.unique(index.search(queries, k=3, confidence=0.99)[1])
    file = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float16, shape=x.shape)
    file[:] = np.nan
    file[listed[listed >= 0]] = x[listed[listed >= 0]]
    file.flush()
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    expected = index.search(queries, k=3, rerank=x.astype(np.float16))
    for one, two in zip(index.search(queries, k=3, rerank=mapped), expected, strict=True):
        assert np.array_equal(one, two)


def test_equal_scores_come_by_id():
    x = np.repeat(sts.normal(1, 16), 30, axis=0)
    assert build_index(x).search(x[:2], k=5, rerank=x)[1].tolist() == [[0, 1, 2, 3, 4]] * 2


def test_fewer_vectors_than_k():
    x = sts.normal(3, 20)
    for metric in METRICS:
        scores, ids, error = build_index(x, metric=metric).search(x[:2], k=5, rerank=x, return_error=True)
        assert ids[:, 3:].tolist() == [[-1, -1]] * 2
        assert np.all(np.isinf(scores[:, 3:]))
        assert error[:, :3].tolist() == [[0, 0, 0]] * 2
        empty = tqvec.Index(20, metric=metric)
        assert empty.search(x[:2], k=2, rerank=x[:0])[1].tolist() == [[-1, -1]] * 2


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros((9, 16), np.float32), "rerank must have the 10 vectors that were added, got 9 rows"),
        (np.zeros((10, 15), np.float32), "rerank must have shape"),
        (np.zeros((10, 16), np.int32), "rerank must hold floating-point numbers"),
        ("x", "rerank must hold floating-point"),
    ],
)
def test_bad_vectors(vectors, message):
    x = sts.normal(10, 16)
    with pytest.raises(InputError, match=message):
        build_index(x).search(x, rerank=vectors)


@pytest.mark.parametrize(("value", "message"), [(np.nan, "row 4 holds NaN"), (1e300, "row 4 holds a value too large")])
def test_bad_rows_that_are_read(value, message):
    x = sts.normal(10, 16).astype(np.float64)
    index = build_index(x)
    bad = x.copy()
    bad[4, 2] = value
    with pytest.raises(InputError, match="rerank " + message):
        index.search(x, k=10, rerank=bad)


# ---- vectors of other rows, and functions of ids ----------------------------------------------------------------


def updated(metric, nbits=4, d=32):
    """An index whose row 3 went to the end, and its vectors by id."""
    x = sts.normal(500, d)
    index = build_index(x, nbits, metric)
    x[3] = -x[3]
    index.update(ids=[3], x=x[3:4])
    return index, x


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("nbits", [2, 4, 8])
def test_vectors_of_other_rows_are_refused_and_the_remedies_help(metric, nbits):
    index, x = updated(metric, nbits)
    for queries in (x[10:12], x[10]):
        with pytest.raises(InputError, match=r"^rerank does not belong to these codes: .* hand over x\[index.ids\]"):
            index.search(queries, k=3, rerank=x)
        expected = index.search(queries, k=3, rerank=x[index.ids])
        for one, two in zip(index.search(queries, k=3, rerank=lambda ids: x[ids]), expected, strict=True):
            assert np.array_equal(one, two)
    with pytest.raises(InputError, match="^rerank does not belong to these codes: .* in their order"):
        index.search(x[10:12], k=3, rerank=lambda ids: x[ids + 1])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("nbits", [1, 4])
@pytest.mark.parametrize("train", [False, True])
def test_right_vectors_are_never_refused(metric, nbits, train):
    x = load_sample().base[:3000].astype(np.float32)
    index = build_index(x, nbits, metric, train=train)
    noise = np.where(np.arange(384) < 30, 3, 0.1) * sts.normal(300, 384, seed=2)
    index.add(noise.astype(np.float32))  # nothing like the sample
    vectors = np.concatenate([x, noise]).astype(np.float16)
    for row in range(0, 3300, 150):
        index.search(vectors[row], k=4, rerank=vectors)


def test_a_function_is_asked_for_the_shortlist_alone():
    index, x = updated("cosine")
    asked = []

    def fetch(ids):
        asked.extend(ids.tolist())
        return x[ids].tolist()

    index.remove_ids([100, 200])
    index.search(x[:4], k=3, rerank=fetch)
    listed = index.search(x[:4], k=3, confidence=0.99)[1]
    assert sorted(asked) == sorted(listed[listed >= 0].tolist())
    assert tqvec.Index(32).search(x[:2], k=2, rerank=fetch)[1].tolist() == [[-1, -1]] * 2


@pytest.mark.parametrize(
    ("fetch", "message"),
    [
        (lambda ids: None, "rerank must hold floating-point numbers, got None"),
        (lambda ids: np.zeros((len(ids) + 1, 32)), "rerank must return the vectors of [0-9]+ ids, got [0-9]+ rows"),
        (lambda ids: np.zeros((len(ids), 31)), "rerank must have shape"),
        (lambda ids: np.full((len(ids), 32), np.nan), "rerank row 0 holds NaN"),
    ],
    ids=range(4),
)
def test_functions_that_return_no_vectors(fetch, message):
    index, x = updated("ip")
    with pytest.raises(InputError, match=f"^{message}"):
        index.search(x[:2], k=3, rerank=fetch)
