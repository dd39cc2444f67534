"""Truncating and forking: a cache is always what its tokens make it."""

import numpy as np
import pytest
import strategies as sts
from cache_policies import POLICIES, D, tokens
from naive_cache import attention

from tqvec.kvcache import KVCache, Policy


def cache_of(policy, n, seed=0):
    cache = KVCache(2, 2, D, policy)
    k, v = tokens(n, seed)
    for layer in range(2):
        cache.append(layer, k, v)
    return cache


def contents(cache):
    return [
        (cache.keys(layer).tobytes(), cache.values(layer).tobytes(), cache.token_counts(layer)) for layer in range(2)
    ]


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_forks_are_independent(policy):
    cache = cache_of(policy, 200)
    before = contents(cache)
    forks = [cache.fork() for _ in range(3)]
    assert all(contents(fork) == before for fork in forks)
    for i, fork in enumerate(forks[:2]):
        k, v = tokens(150, seed=i + 1)
        for start in range(0, 150, 50 * i + 10):
            rows = slice(start, start + 50 * i + 10)
            fork.append(0, k[:, rows], v[:, rows])
    assert contents(cache) == contents(forks[2]) == before
    k, v = tokens(150, seed=5)
    cache.append(0, k, v)
    again = cache_of(policy, 200)
    again.append(0, k, v)
    assert contents(cache) == contents(again)
    for i in range(2):
        again = cache_of(policy, 200)
        again.append(0, *tokens(150, seed=i + 1))
        assert contents(forks[i]) == contents(again)
    assert contents(forks[2]) == before


def test_forks_of_forks_stay_in_few_segments():
    """As in a beam search, where every token is followed by forks."""
    cache = KVCache(1, 1, D, Policy(3, 3, recent=8, chunk=4, mean_tokens=8))
    k, v = tokens(3000)
    for t in range(3000):
        cache = cache.fork()
        cache.append(0, k[:1, t : t + 1], v[:1, t : t + 1])
    assert len(cache._layers[0].state.coded) <= 8
    once = KVCache(1, 1, D, cache.policy)
    once.append(0, k[:1], v[:1])
    assert np.array_equal(cache.keys(0), once.keys(0))


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_truncating_keeps_the_first_tokens(policy):
    cache = cache_of(policy, 300)
    keys, values, n = cache.keys(1), cache.values(1), cache.n_tokens
    fork = cache.fork()
    for left in (n, n - 1, n - 10, n * 2 // 3, 20, 3, 1, 0):
        cache.truncate(left)
        assert cache.n_tokens == left
        assert np.array_equal(cache.keys(1), keys[:, :left])
        assert np.array_equal(cache.values(1), values[:, :left])
        if left:
            q = sts.normal(4, D, 7_801).reshape(4, 1, D)
            expected = attention(q, cache.keys(1), cache.values(1))
            np.testing.assert_allclose(cache.attend(1, q), expected, atol=1e-2 * np.abs(expected).max())
    assert np.array_equal(fork.keys(1), keys)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_rejected_draft_leaves_no_trace(policy):
    """As long as it made no token leave the recent tokens: what follows is coded as if it had never been."""
    cache, n = cache_of(policy, 90), 90
    k, v = tokens(80, seed=3)
    rejected = 0
    for t in range(0, 80, 2):
        counts = cache.token_counts(1)
        draft = cache.fork()
        draft.append(1, *tokens(2, seed=4))
        if draft.token_counts(1)[1:3] == counts[1:3] and draft.token_counts(1).evicted == counts.evicted:
            cache.append(1, *tokens(2, seed=4))
            cache._layers[1].truncate(n)
            rejected += 1
        cache.append(1, k[:, t : t + 2], v[:, t : t + 2])
        n = min(n + 2, policy.max_tokens or n + 2)
    again = cache_of(policy, 90)
    again.append(1, k, v)
    assert contents(cache)[1] == contents(again)[1]
    assert rejected or policy.chunk == 1 or policy.max_tokens


@pytest.mark.parametrize("left", [0, 3])
def test_emptied_caches_are_new(left):
    """The means are forgotten with the last coded token."""
    cache = cache_of(Policy(3, 3, recent=10, chunk=4, mean_tokens=8), 100)
    cache.truncate(left)
    assert cache.nbytes.means == 0
    fresh = KVCache(2, 2, D, cache.policy)
    k, v = tokens(100, seed=8)
    for one in (cache, fresh):
        for layer in range(2):
            if one is fresh:
                one.append(layer, *(x[:, :left] for x in tokens(100)))
            one.append(layer, k, v)
    assert contents(cache) == contents(fresh)
    assert cache.nbytes == fresh.nbytes


def test_layers_may_differ_in_length():
    cache = KVCache(2, 2, D, "turbo3")
    cache.append(0, *tokens(10))
    assert (cache.n_tokens, cache.token_counts(0).sinks + cache.token_counts(0).recent) == (0, 10)
    cache.append(1, *tokens(7))
    assert cache.n_tokens == 7
    cache.truncate(5)
    assert cache.keys(0).shape == cache.keys(1).shape == (2, 5, D)


def test_appending_nothing_changes_nothing():
    cache = cache_of(POLICIES["plain"], 100)
    before = contents(cache)
    cache.append(0, *tokens(0))
    assert contents(cache) == before
