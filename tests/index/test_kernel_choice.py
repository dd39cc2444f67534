"""The staged and the batched search give the full scan's results, with the very same scores."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

import tqvec
from tqvec.eval.sample import load_sample
from tqvec.index import scan
from tqvec.kernels.dispatch import available

pytestmark = pytest.mark.skipif(not available("search_few"), reason="no staged search at this level")


def searches(index, queries, k, monkeypatch, threads=None):
    """Results of the full scan, of single queries and of a batch; each (scores, ids)."""
    with monkeypatch.context() as patch:
        patch.setattr(scan, "available", lambda operation: False)
        full = index.search(queries, k=k, threads=threads)
    with monkeypatch.context() as patch:
        patch.setattr(scan, "_FEW", 10**6)
        single = index.search(queries, k=k, threads=threads)
    return full, single, index.search(queries, k=k, threads=threads)


def check(full, found):
    """At most one result in a thousand is missing (and one by bad luck), and scores are equal to the last bit."""
    missing = sum(np.sum(~np.isin(truth, ids)) for truth, ids in zip(full[1], found[1], strict=True))
    assert missing <= 1 + full[1].size / 1000
    same = full[1] == found[1]
    assert np.mean(same) > 0.95
    assert np.array_equal(full[0][same], found[0][same])


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize(
    ("codebook", "nbits"), [*(("scalar", b) for b in (1, 2, 3, 4, 5, 8)), *(("trellis", b) for b in (1, 2, 3, 4, 5))]
)
def test_real_embeddings(metric, codebook, nbits, monkeypatch):
    sample = load_sample()
    index = tqvec.Index(384, nbits=nbits, metric=metric, codebook=codebook, seed=3)
    index.add(sample.base)
    for k in (1, 10, 100):
        full, single, batch = searches(index, sample.queries[:200], k, monkeypatch, threads=k % 2 + 1)
        check(full, single)
        check(full, batch)


@pytest.mark.parametrize(
    ("d", "codebook", "nbits"),
    [*((d, "scalar", 4) for d in (64, 72, 256, 768)), *((d, "trellis", b) for d in (64, 200) for b in (1, 2, 3, 5))],
)
def test_isotropic_vectors(d, codebook, nbits, monkeypatch):
    rng = np.random.default_rng(17)
    x = rng.standard_normal((20_000, d)).astype(np.float32)
    index = tqvec.Index(d, nbits=nbits, codebook=codebook, seed=4)
    index.add(x)
    queries = rng.standard_normal((100, d)).astype(np.float32)
    for k in (1, 10, 100):
        full, single, batch = searches(index, queries, k, monkeypatch)
        check(full, single)
        check(full, batch)


def test_vectors_added_between_searches(monkeypatch):
    x = np.random.default_rng(18).standard_normal((9_000, 64)).astype(np.float32)
    index = tqvec.Index(64, nbits=2, metric="l2", seed=5)
    for start, stop in ((0, 3_000), (3_000, 3_001), (3_001, 9_000)):
        index.add(x[start:stop])
        full, single, batch = searches(index, x[:40], 10, monkeypatch)
        check(full, single)
        check(full, batch)
        assert np.array_equal(full[1][:, 0], np.arange(40))


def test_saved_and_loaded(tmp_path):
    x = np.random.default_rng(19).standard_normal((4_000, 64)).astype(np.float32)
    index = tqvec.Index(64, seed=6)
    index.add(x)
    index.save(tmp_path / "a.tqv")
    again = tqvec.Index.load(tmp_path / "a.tqv")
    for count in (1, 50):
        for one, two in zip(index.search(x[:count], 10), again.search(x[:count], 10), strict=True):
            assert np.array_equal(one, two)


def test_zero_vectors_queries_and_duplicates():
    x = np.random.default_rng(20).standard_normal((5_000, 64)).astype(np.float32)
    x[100:200] = 0
    x[300:400] = x[300]
    for metric in ("ip", "l2"):
        index = tqvec.Index(64, metric=metric, seed=7)
        index.add(x)
        for count in (1, 40):
            scores, ids = index.search(np.zeros((count, 64), np.float32), k=20)
            assert np.all(np.isfinite(scores))
            assert all(len(set(row)) == 20 for row in ids.tolist())
            scores, ids = index.search(np.repeat(x[300:301], count, axis=0), k=50)
            assert all(len(set(row)) == 50 for row in ids.tolist())
            if metric == "l2":
                assert ids[0].tolist() == list(range(300, 350))


def test_concurrent_first_searches():
    x = np.random.default_rng(21).standard_normal((6_000, 128)).astype(np.float32)
    expected = None
    for _ in range(3):
        index = tqvec.Index(128, seed=8)
        index.add(x)  # sign blocks are built by whichever search comes first
        with ThreadPoolExecutor(8) as pool:
            results = pool.map(partial(index.search, k=5, threads=2), x[:32])
            found = [ids[0].tolist() for _, ids in results]
        expected = expected or found
        assert found == expected
