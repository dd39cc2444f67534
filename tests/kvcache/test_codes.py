"""What is stored: it follows from the tokens alone, however they came, and is what the words of the docs say."""

import numpy as np
import pytest
from cache_policies import POLICIES, ROPES, D, of_layer, tokens
from naive_cache import NaiveLayer, arrays_of

import tqvec
from tqvec.kvcache import KVCache, Policy

CUTS = {"one": [1] * 300, "all": [300], "parts": [3, 77, 1, 1, 8, 110, 100], "halves": [150, 150]}


def appended(policy, cuts, k, v, rope=None):
    cache = KVCache(2, 2, D, policy, rope)
    start = 0
    for n in cuts:
        cache.append(1, k[:, start : start + n], v[:, start : start + n], threads=1 + n % 2)
        start += n
    return cache


@pytest.mark.parametrize("rope", [None, ROPES["rope"]], ids=["no rope", "rope"])
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_any_cut_gives_the_same_bytes(policy, rope, tmp_path):
    k, v = tokens(300, rope=rope)
    files = set()
    for name, cuts in CUTS.items():
        appended(policy, cuts, k, v, rope).save(tmp_path / name)
        files.add((tmp_path / name).read_bytes())
    assert len(files) == 1


@pytest.mark.slow
@pytest.mark.parametrize("ropes", ROPES.values(), ids=ROPES)
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_is_what_a_naive_cache_has(policy, ropes):
    for layer in (0, 1):
        rope = of_layer(ropes, layer)
        k, v = tokens(300, rope=rope)
        plain = NaiveLayer(policy, 2, layer, 2, D, rope)
        plain.append(k, v)
        cache = KVCache(2, 2, D, policy, ropes)
        cache.append(layer, k, v)
        assert cache.token_counts(layer) == plain.token_counts()
        keys, values = plain.sides()
        np.testing.assert_allclose(cache.keys(layer), keys, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(cache.values(layer), values, rtol=1e-5, atol=1e-5)


def test_input_types_are_alike():
    """Halves are taken as they are; everything else is rounded to them."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    k, v = (x.astype(ml_dtypes.bfloat16).astype(np.float16) for x in tokens(120))
    for dtype in ("float16", "bfloat16"):
        kept = []
        for given in (np.float16, np.float32, np.float64, ml_dtypes.bfloat16):
            cache = KVCache(1, 2, D, Policy(recent=16, chunk=8, dtype=dtype))
            cache.append(0, k.astype(given), v.astype(given)[:, ::-1][:, ::-1])
            kept.append((cache.keys(0).tobytes(), cache.values(0).tobytes()))
        assert len(set(kept)) == 1


def test_given_arrays_are_not_kept():
    k, v = (np.asfortranarray(x.astype(np.float16)) for x in tokens(50))
    cache = KVCache(1, 2, D, Policy(recent=None))
    cache.append(0, k, v)
    before = cache.keys(0)
    k[:] = 0
    assert np.array_equal(cache.keys(0), before)
    assert before.any()


def test_the_mean_costs_little_and_helps_much():
    """Keys with a mean seven times their spread: without subtracting it the error is that of the whole length."""
    k, v = (x + 5 for x in tokens(600))
    errors = []
    for mean_tokens in (64, 0):
        cache = KVCache(1, 2, D, Policy(3, 3, mean_tokens=mean_tokens, recent=0))
        cache.append(0, k, v)
        errors.append(np.square(cache.keys(0) - k)[:, 4:576].mean())
    assert errors[0] < errors[1] / 8


@pytest.mark.parametrize("rule", ["unbiased", "least_squares"])
def test_rules_of_scales(rule):
    """Keys have the least error, values no bias: as the codec's own rules do, but for the rounding."""
    k, v = (x.astype(np.float16).astype(np.float32) for x in tokens(4000, seed=9))
    policy = Policy(2, 2, recent=0, chunk=1, sinks=0, mean_tokens=0)
    cache = KVCache(1, 2, D, policy)
    cache.append(0, k, v)
    tq = tqvec.TurboQuant(D, 2, scale=rule)
    x, found = (k, cache.keys(0)) if rule == "least_squares" else (v, cache.values(0))
    expected = tq.decode_unbiased(tq.encode(x.reshape(-1, D))).reshape(x.shape)
    ratio = np.linalg.norm(found, axis=2) / np.linalg.norm(expected, axis=2)
    assert np.all(np.abs(ratio - 1) <= 2**-8)
    assert abs(ratio.mean() - 1) < 1e-4  # to nearest: no bias


def test_codecs_are_shared():
    one, other = (KVCache(3, 2, D, Policy([3, 4, (3, 4)], 4, "trellis", seed=5)) for _ in range(2))
    codecs = {
        id(group.codec)
        for cache in (one, other)
        for layer in cache._layers
        for side in layer.codecs(()).coded
        for group in side.groups
    }
    assert len(codecs) == 3  # keys of 3 and 4 bits, values of 4


def test_fork_shares_memory():
    k, v = tokens(300)
    cache = appended(POLICIES["recoded"], [300], k, v)
    fork = cache.fork()
    mine, its = (arrays_of(one._layers[1].state) for one in (cache, fork))
    assert [id(x) for x in mine] == [id(x) for x in its]
    assert cache.nbytes == fork.nbytes
