"""Keys that share a large part before rotary embedding, at any length of the context and any seed of the rotation."""

import numpy as np
import pytest
import strategies as sts
from naive_cache import attention

from tqvec.kvcache import KVCache, Policy, Rope
from tqvec.kvcache.quality import measure_fidelity

D = 128


def shared_part(ratio):
    """A part in slowly turning pairs, `ratio` times as long as the rest of a key."""
    part, slow = np.zeros(D), np.r_[44:64, 108:128]
    part[slow] = sts.normal(1, slow.size, 8_400)[0]
    return part * ratio * np.sqrt(D) / np.linalg.norm(part)


def attention_error(n, rope, ratio, seed):
    """Relative error of the output of the newest token's queries over `n` tokens."""
    k = rope.rotate(sts.normal(n, D, 8_401) + shared_part(ratio), np.arange(n))[None].astype(np.float32)
    v = sts.normal(n, D, 8_402)[None]
    q = rope.rotate(1.5 * sts.normal(16, D, 8_403)[:, None], [n - 1]).astype(np.float32)
    cache = KVCache(1, 1, D, Policy(4, 8, seed=seed), rope)
    cache.append(0, k, v)
    exact = attention(q, k, v)
    return np.linalg.norm(cache.attend(0, q) - exact) / np.linalg.norm(exact)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("theta", "ratio"), [(1e4, 2), (1e4, 4), (5e5, 4)])
def test_the_error_does_not_grow_with_the_context(theta, ratio, seed):
    short, *longer = (attention_error(n, Rope(theta), ratio, seed) for n in (500, 2000, 8000, 32_000))
    assert max(longer) <= 1.1 * short


def biased(n, rope):
    """Keys, values and late queries whose keys have a constant of length 277 before the embedding, the rest about 5."""
    d, half = 64, 32
    length, phase = np.zeros(half), 2 * np.pi * sts.rng(8_410).random(half)
    length[24:], length[4:12] = 1, 0.17  # most of it in slow pairs, a sixth in fast ones
    bias = np.concatenate([length * np.cos(phase), length * np.sin(phase)])
    bias *= 277 / np.linalg.norm(bias)
    positions = np.arange(n)
    k = rope.rotate(sts.normal(n, d, 8_411) * 5 / np.sqrt(d) + bias, positions)[None]
    q = sts.normal(2, d, 8_412)[:, None] + 0.02 * bias + 0.5 * sts.normal(2 * n, d, 8_413).reshape(2, n, d)
    return k, sts.normal(n, d, 8_414)[None], rope.rotate(q, positions)[:, -64:]


@pytest.mark.parametrize("codebook", ["scalar", "trellis"])
@pytest.mark.parametrize("seed", range(4))
def test_a_large_constant_before_the_embedding_costs_nothing(seed, codebook):
    """As if keys had none: then the same policy codes the rest alone, with no mean to subtract."""
    rope = Rope(1e6)
    k, v, q = biased(1024, rope)
    cache = KVCache(1, 1, 64, Policy(4, 4, codebook, seed=seed), rope)
    cache.append(0, k, v)
    found = measure_fidelity(q, (k, v), (cache.keys(0), cache.values(0)))
    mean = k - (rope.rotate(sts.normal(1024, 64, 8_411) * 5 / 8, np.arange(1024)))[None]
    rest = KVCache(1, 1, 64, Policy(4, 4, codebook, seed=seed, mean_tokens=0))
    rest.append(0, k - mean, v)
    least = measure_fidelity(q, (k, v), (rest.keys(0) + mean, rest.values(0)))
    print(seed, codebook, found, least)
