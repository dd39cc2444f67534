"""Attention against float64 attention on what a cache holds, for all kinds of tokens, groups of queries and cuts."""

import numpy as np
import pytest
import strategies as sts
from naive_cache import attention

from tqvec.kvcache import PRESETS, Bands, KVCache, Policy

POLICIES = {
    "mean values too": Policy(4, 4, value_means=True),
    **{name: PRESETS[name] for name in ("turbo4", "turbo2", "k4v2", "quality", "small", "exact")},
    "everything coded": Policy(3, 3, recent=0, sinks=0, chunk=1, mean_tokens=0),
    "recoded": Policy(4, 4, recode_after=100, recoded_key_nbits=3, recoded_value_nbits=2, chunk=16, recent=20),
    "evicting": Policy(5, 4, max_tokens=300, chunk=10, recent=30, mean_tokens=16),
    "by head": Policy([3, (8, 2.5)], [(1, 6), 4]),
    "bands": Policy(Bands(((16, 4), (24, 2))), 3, dtype="bfloat16"),
}


def tensors(n, heads=2, d=40, seed=0, offset=2.0):
    """Keys and values with a mean of their own in each head, as real ones have."""
    return (
        sts.normal(heads * n, d, 7_000 + seed).reshape(heads, n, d)
        + offset * sts.normal(heads, d, 7_100 + seed)[:, None],
        sts.normal(heads * n, d, 7_200 + seed).reshape(heads, n, d)
        + offset * sts.normal(heads, d, 7_300 + seed)[:, None],
    )


def filled(policy, n=420, layer=1):
    cache = KVCache(2, 2, 40, policy)
    k, v = tensors(n)
    cache.append(layer, k, v)
    return cache, k, v


def close(out, expected, relative=4e-3):
    """Bytes and words in place of floats cost that much (kernels/attend/README.md)."""
    error = np.linalg.norm(out - expected, axis=-1)
    assert np.all(error <= relative * np.linalg.norm(expected, axis=-1).max()), error.max()


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize(("n_heads", "nq"), [(2, 1), (6, 1), (4, 7), (2, 90)])
def test_is_that_of_the_decoded_tokens(policy, n_heads, nq):
    cache, _, _ = filled(policy)
    q = sts.normal(n_heads * nq, 40, 7_400).reshape(n_heads, nq, 40)
    out = cache.attend(1, q)
    assert out.shape == q.shape
    assert out.dtype == np.float32
    close(out, attention(q, cache.keys(1), cache.values(1)))
    close(cache.attend(1, q, scale=0.01), attention(q, cache.keys(1), cache.values(1), 0.01))


@pytest.mark.parametrize("policy", ["mean values too", "turbo4", "quality", "exact"])
def test_is_near_the_true_one(policy):
    """Close enough to notice a wrong mean, scale or order; how close it is for real tensors is docs' matter."""
    cache, k, v = filled(POLICIES[policy])
    q = sts.normal(4, 40, 7_401).reshape(4, 1, 40)
    error = cache.attend(1, q) - attention(q, k, v)
    limit = {"mean values too": 0.15, "turbo4": 0.35, "quality": 0.25, "exact": 1e-3}[policy]
    spread = np.linalg.norm(attention(q, k, v) - np.repeat(v.mean(axis=1), 2, axis=0)[:, None])
    assert np.linalg.norm(error) < limit * spread


def test_any_number_of_queries_in_any_blocks(monkeypatch):
    """All tokens at once, as after a prompt, when the scores of few queries fit at a time."""
    cache, _, _ = filled(POLICIES["recoded"])
    q = sts.normal(4 * 420, 40, 7_402).reshape(4, 420, 40)
    out = cache.attend(1, q)
    close(out, attention(q, cache.keys(1), cache.values(1)))
    for j in (0, 1, 5, 419):
        close(cache.attend(1, q[:, j:])[:, 0], out[:, j], 1e-2)
    monkeypatch.setattr("tqvec.kvcache.attention._SCORES", 3000)
    np.testing.assert_allclose(cache.attend(1, q), out, rtol=1e-5, atol=5e-6)  # sums of float32 in another order


@pytest.mark.parametrize("policy", ["turbo4", "by head", "recoded"])
def test_does_not_depend_on_threads(policy):
    cache, _, _ = filled(POLICIES[policy])
    q = sts.normal(8, 40, 7_403).reshape(8, 1, 40)
    assert np.array_equal(cache.attend(1, q, threads=1), cache.attend(1, q, threads=2))


@pytest.mark.parametrize("policy", ["mean values too", "by head", "recoded", "everything coded"])
def test_slices_of_tokens(policy, monkeypatch):
    """Many per run, the last of which may be short; queries whose windows begin and end within them."""
    cache, _, _ = filled(POLICIES[policy], n=1300)
    few, many = (sts.normal(4 * nq, 40, 7_406).reshape(4, nq, 40) for nq in (1, 300))
    whole = [cache.attend(1, q) for q in (few, many)]
    monkeypatch.setattr("tqvec.kvcache.coded_attention._MOST", 256)
    for q, out in zip((few, many), whole, strict=True):
        slices = cache.attend(1, q, threads=1)
        np.testing.assert_allclose(slices, out, rtol=1e-4, atol=2e-5)  # sums of float32 in another order
        assert np.array_equal(cache.attend(1, q, threads=3), slices)
        windowed = cache.attend(1, q, window=500, threads=1)
        close(windowed, attention(q, cache.keys(1), cache.values(1), positions=np.arange(1300), window=500), 8e-3)
        assert np.array_equal(cache.attend(1, q, window=500, threads=3), windowed)
        sparse, skipped = cache.attend(1, q, skip_below=1e-3, return_skipped=True, threads=1)
        assert np.all((skipped >= 0) & (skipped < 1))
        assert q is many or skipped.max() > 0  # each token matters to some of many queries
        again = cache.attend(1, q, skip_below=1e-3, return_skipped=True, threads=3)
        assert np.array_equal(again[0], sparse)
        assert np.array_equal(again[1], skipped)


@pytest.mark.parametrize("factor", [1e4, 1e8])
def test_large_scores(factor):
    """One token gets all the attention."""
    cache, _, _ = filled(POLICIES["turbo4"])
    q = sts.normal(4, 40, 7_404).reshape(4, 1, 40) * factor
    out = cache.attend(1, q)
    values = np.repeat(cache.values(1), 2, axis=0)
    nearest = np.linalg.norm(values - out, axis=2).min(axis=1)
    assert np.all(nearest < 1e-3 * np.linalg.norm(out, axis=2)[:, 0])


def test_zero_vectors():
    """All keys equal: their residuals are zero, and so are their scales."""
    cache = KVCache(1, 1, 40, "turbo3")
    cache.append(0, np.ones((1, 400, 40)), np.zeros((1, 400, 40)))
    assert np.array_equal(cache.keys(0), np.ones((1, 400, 40)))
    assert np.array_equal(cache.attend(0, np.ones((1, 1, 40))), np.zeros((1, 1, 40)))


def peaked():
    """A query that a few tokens get nearly all attention of."""
    k, v = tensors(2000)
    q = np.repeat(k[:, 700:701], 2, axis=0) * np.float32(1.5)
    cache = KVCache(1, 2, 40, POLICIES["mean values too"])
    cache.append(0, k, v)
    return cache, q


def test_skipping_reports_what_it_skips():
    cache, q = peaked()
    out, none = cache.attend(0, q, return_skipped=True)
    assert np.array_equal(none, np.zeros((4, 1)))
    before = 0.0
    for limit in (1e-6, 1e-4, 1e-2, 0.5):
        sparse, skipped = cache.attend(0, q, skip_below=limit, return_skipped=True)
        assert np.all(skipped >= before)
        assert np.all(skipped <= 1)
        weights = attention(q, cache.keys(0), np.repeat(np.eye(2000)[None], 2, axis=0))
        coded = weights[..., 4 : 4 + cache.token_counts(0).coded].reshape(2, -1, cache.token_counts(0).coded)
        mine = np.where((coded < limit).all(axis=1, keepdims=True), coded, 0).sum(axis=2).reshape(4, 1)
        np.testing.assert_allclose(skipped, mine, atol=1e-2)  # scores have errors of their own
        spread = np.linalg.norm(cache.values(0) - cache.values(0).mean(axis=1, keepdims=True), axis=2).max()
        assert np.all(np.linalg.norm(sparse - out, axis=2) <= skipped * spread * 1.5 + 1e-5)
        before = skipped
    assert before.max() > 0.05


def test_nothing_is_skipped_by_chance():
    """Flat attention: every share is 1/n, above or below `skip_below` all alike."""
    cache = KVCache(1, 1, 40, Policy(4, 4, recent=0, sinks=0, chunk=1, mean_tokens=0))
    cache.append(0, np.zeros((1, 500, 40)), sts.normal(500, 40, 7_405)[None])
    q = np.ones((1, 1, 40))
    for limit, expected in ((1 / 501, 0), (1 / 499, 1)):
        _, skipped = cache.attend(0, q, skip_below=limit, return_skipped=True)
        assert skipped[0, 0] == pytest.approx(expected, abs=1e-5)
