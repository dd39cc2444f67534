"""Bytes: what a cache counts is what its arrays hold, and what the model says, at every step."""

import numpy as np
import pytest
import strategies as sts
from cache_policies import POLICIES
from naive_cache import arrays_of

from tqvec.kvcache import Bands, KVCache, Nbytes, Policy, Rope, bits_per_value, byte_model, nbytes


def grown(policy, total, steps):
    """A cache after each of some steps, and its number of tokens; only one of its layers has keys that turn."""
    cache, n = KVCache(2, 2, 20, policy, rope=[Rope(), None]), 0
    rng = sts.rng(7_700)
    while n < total:
        m = int(rng.choice(steps))
        for layer in range(2):
            cache.append(layer, *sts.normal(4 * m, 20, n).reshape(2, 2, m, 20))
        n += m
        yield cache, n


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("steps", [(1,), (1, 7, 40), (250,)])
def test_the_model_is_exact(policy, steps):
    for cache, n in grown(policy, 500 if steps == (250,) else 230, steps):
        size = cache.nbytes
        expected = nbytes(policy, 2, 2, 20, n)
        assert size.items() == expected.items()
        assert size == expected == sum(size.items().values())
        held = [array for layer in cache._layers for array in arrays_of(layer.state)]
        assert sum(array.nbytes for array in held) == size
        counts = [cache.token_counts(layer) for layer in range(2)]
        assert size.uncoded == sum(t.sinks + t.recent for t in counts) * 2 * 2 * 20 * 2
        assert size.scales == sum(t.recoded + t.coded for t in counts) * 2 * 2 * 2


@pytest.mark.parametrize(
    "policy",
    [
        Policy(3, 3),
        Policy(3, 3, max_tokens=40_000),
        Policy(4, 4, recode_after=3000, recoded_key_nbits=2, recoded_value_nbits=2),
    ],
)
def test_the_model_is_exact_over_many_segments(policy):
    cache = KVCache(1, 1, 8, policy)
    k = np.ones((1, 10_007, 8), np.float16)
    for i in range(1, 6):
        cache.append(0, k, k)
        assert cache.nbytes.items() == nbytes(policy, 1, 1, 8, i * 10_007).items()
        assert cache.nbytes.bookkeeping < 0.2 * cache.nbytes


def test_spare_memory_is_little():
    for n in (1, 7, 8, 9, 100, 1000, 5000, 8192):
        assert n <= byte_model.capacity(n) <= max(n + 7, n * 9 // 8 + 1)
    assert byte_model.capacity(0) == 0
    assert byte_model.capacity(byte_model.SEGMENT) == byte_model.SEGMENT


def test_four_times_less_than_float16():
    """3.5 bits, d = 128, 8K tokens: everything counted."""
    for policy in (Policy(3.5, 3.5), Policy(3, 3)):
        size = nbytes(policy, 32, 8, 128, 8192)
        assert size * 4 < 32 * 2 * 8 * 8192 * 128 * 2
    assert size.items().keys() == {"codes", "scales", "means", "uncoded", "bookkeeping"}


def test_bits_per_value():
    assert bits_per_value(Policy(3, 3), 4, 2, 128) == 3.125
    assert bits_per_value(Policy(4, 2), 4, 2, 128) == 3.125
    assert bits_per_value(Policy(3.5, 3.5), 4, 2, 128) == 3.375
    assert bits_per_value(Policy([2, 3, (3, 5), 4], Bands(((64, 3), (64, 5)))), 4, 2, 128) == (13 / 4 + 4) / 2 + 0.125
    assert bits_per_value(Policy(2, 2, protected=1, protected_nbits=8), 4, 2, 128) == 5.125
    assert bits_per_value(Policy.from_name("exact"), 4, 2, 128) == 16
    assert bits_per_value(Policy(3, 3), 1, 1, 50) == 8 * (19 + 2) / 50  # rows are whole bytes


def test_nbytes_adds_up_and_prints():
    total = Nbytes.total([Nbytes(1, 2, 3, 4, 5), Nbytes(10)])
    assert (total, total.codes, total.uncoded, total.bookkeeping) == (25, 11, 4, 5)
    assert Nbytes.total([]) == 0
    assert repr(total) == "Nbytes(25: codes 11, scales 2, means 3, uncoded 4, bookkeeping 5)"


def test_a_long_context_takes_no_time():
    assert nbytes(Policy(3, 3, max_tokens=10**9), 80, 8, 128, 10**12) > 0
