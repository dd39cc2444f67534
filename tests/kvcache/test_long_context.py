"""Keys that share a large part before rotary embedding, at any length of the context and any seed of the rotation."""

import numpy as np
import pytest
import strategies as sts

from tqvec.kvcache import KVCache, Policy, Rope

D = 128


def shared_part(ratio):
    """A part in slowly turning pairs, `ratio` times as long as the rest of a key."""
    part, slow = np.zeros(D), np.r_[44:64, 108:128]
    part[slow] = sts.normal(1, slow.size, 8_400)[0]
    return part * ratio * np.sqrt(D) / np.linalg.norm(part)


def score_errors(n, rope, ratio, seed):
    """Root mean squares of the errors of scores, of tokens before the 500th and of the newest 500 coded ones."""
    k = rope.rotate(sts.normal(n, D, 8_401) + shared_part(ratio), np.arange(n))[None].astype(np.float32)
    q = rope.rotate(1.5 * sts.normal(16, D, 8_403)[:, None], [n - 1])[:, 0]
    cache = KVCache(1, 1, D, Policy(4, 8, sinks=0, recent=0, chunk=1, seed=seed), rope)
    cache.append(0, k, np.zeros_like(k))
    error = q @ (cache.keys(0) - k)[0].T
    return np.sqrt(np.square(error[:, :500]).mean()), np.sqrt(np.square(error[:, -500:]).mean())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("theta", "ratio"), [(1e4, 2), (1e4, 4), (5e5, 4)])
def test_the_error_of_scores_does_not_grow_with_the_context(theta, ratio, seed):
    """The error of the output may: attention falls on fewer of the tokens."""
    first, last = score_errors(32_000, Rope(theta), ratio, seed)
    assert last <= 1.1 * first


def biased(n, rope):
    """Keys with a constant of length 277 before the embedding, what else they have, of length 5, and late queries."""
    d, half = 64, 32
    length, phase = np.zeros(half), 2 * np.pi * sts.rng(8_410).random(half)
    length[24:], length[4:12] = 1, 0.17  # most of it in slow pairs, a sixth in fast ones
    bias = np.concatenate([length * np.cos(phase), length * np.sin(phase)])
    bias *= 277 / np.linalg.norm(bias)
    positions, rest = np.arange(n), sts.normal(n, d, 8_411) * 5 / np.sqrt(d)
    q = sts.normal(2, d, 8_412)[:, None] + 0.02 * bias + 0.5 * sts.normal(2 * n, d, 8_413).reshape(2, n, d)
    k, rest = (rope.rotate(x, positions)[None].astype(np.float32) for x in (rest + bias, rest))
    return k, rest, rope.rotate(q, positions)[:, -64:]


@pytest.mark.parametrize("codebook", ["scalar", "trellis"])
@pytest.mark.parametrize("seed", range(4))
def test_a_large_constant_before_the_embedding_costs_little(seed, codebook):
    """The rest alone, which a cache without means codes, has about the same error of scores."""
    rope = Rope(1e6)
    k, rest, q = biased(1024, rope)
    errors = []
    for keys, options, embedding in ((k, {}, rope), (rest, {"mean_tokens": 0}, None)):
        policy = Policy(4, 4, codebook, sinks=0, recent=0, chunk=1, seed=seed, **options)
        cache = KVCache(1, 1, 64, policy, embedding)
        cache.append(0, keys, np.zeros_like(keys))
        errors.append(np.sqrt(np.square(q @ (cache.keys(0) - keys)[0].T).mean()))
    assert errors[0] <= 1.25 * errors[1]
