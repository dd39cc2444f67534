import numpy as np
import pytest

from tqvec.eval.recall import exact_search, recall
from tqvec.exact import normalize


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("k", [1, 7, 60])
def test_exact_search_is_a_full_sort(metric, k, monkeypatch):
    monkeypatch.setattr("tqvec.eval.recall._QUERIES", 3)
    monkeypatch.setattr("tqvec.exact._BLOCK", 17)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((60, 11)).astype(np.float32)
    queries = rng.standard_normal((8, 11)).astype(np.float32)
    if metric == "l2":
        dense = ((queries[:, None, :] - x[None]) ** 2).sum(2)
    elif metric == "cosine":
        dense = -normalize(queries) @ normalize(x).T
    else:
        dense = -queries @ x.T
    scores, ids = exact_search(x, queries, k, metric)
    assert np.array_equal(ids, np.argsort(dense, axis=1)[:, :k])
    np.testing.assert_allclose(scores, np.sort(dense, axis=1)[:, :k] * (1 if metric == "l2" else -1), atol=1e-4)


def test_recall():
    truth = np.array([[1, 2, 3], [4, 5, 6]])
    found = np.array([[1, 3, 9], [5, 4, -1]])
    assert recall(found, truth, 1, 1) == 0.5
    assert recall(found, truth, 1, 3) == 1.0
    assert recall(found, truth, 3, 3) == pytest.approx(4 / 6)
    assert recall(np.full((2, 3), -1), truth, 3, 3) == 0


def test_normalize_keeps_zero_rows():
    x = np.array([[3, 4], [0, 0]], np.float32)
    np.testing.assert_allclose(normalize(x), [[0.6, 0.8], [0, 0]])
