"""Geometric retrieval: its geometry, its control, and what codes must do to it."""

from dataclasses import replace

import numpy as np
import pytest

from tqvec.errors import InputError, LossWarning
from tqvec.kvcache import KVCache, Policy, Rope
from tqvec.kvcache.quality.needle import (
    Haystack,
    _draw_duplicates,
    _draw_parts,
    _draw_queries,
    _fit_curves,
    _make_cache,
    _midpoint,
    measure_retrieval,
)

HAYSTACK = Haystack(3000, d=64, trials=60, duplicates=6)
RHOS = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 0.99)
ROPE = Rope(1000.0)


def draw(haystack, seed):
    """Queries, needles with their near-duplicates, and all keys by part."""
    rng = np.random.default_rng([seed, 0x6E656564])
    needles, queries = _draw_queries(haystack, RHOS, rng)
    near = np.concatenate([needles[:, None], _draw_duplicates(needles, haystack, rng)], axis=1)
    return queries, near, list(_draw_parts(haystack, near, seed))


def test_the_geometry_is_what_is_said():
    queries, near, (part,) = draw(HAYSTACK, 10_500)
    for x in (queries, near, part.keys):
        assert np.abs(np.linalg.norm(x, axis=-1) - 1).max() < 1e-5
    assert np.einsum("tkd,td->tk", near[:, 1:], near[:, 0]) == pytest.approx(0.9, abs=1e-5)
    lean = np.einsum("trd,td->tr", queries, near[:, 0]).mean(axis=0)
    assert np.abs(lean - RHOS).max() < 7 / np.sqrt(64 * 60)
    assert part.keys.shape == (3000 + 60 * 7, 64)
    assert (part.random, part.trials) == (3000, slice(0, 60))


def test_needles_are_all_over_the_haystack(monkeypatch):
    monkeypatch.setattr("tqvec.kvcache.quality.needle._KEYS", 700)
    _, near, parts = draw(HAYSTACK, 10_504)
    assert [part.random for part in parts] == [700] * 4 + [200]
    assert [part.trials for part in parts] == [slice(12 * i, 12 * i + 12) for i in range(5)]
    for part in parts:
        np.testing.assert_array_equal(part.keys[part.random :], near[part.trials].reshape(-1, 64))


def test_the_shared_part_turns_with_the_position(monkeypatch):
    """Turned back it is the same for all keys, of the length asked for, in the slowest third of the pairs."""
    monkeypatch.setattr("tqvec.kvcache.quality.needle._KEYS", 700)
    plain, turning, still = (
        np.concatenate([part.keys for part in draw(haystack, 10_505)[2]])
        for haystack in (HAYSTACK, HAYSTACK._replace(shared=1.5, rope=ROPE), HAYSTACK._replace(shared=1.5))
    )
    back = ROPE.rotate(turning - plain, -np.arange(len(plain)))
    assert np.abs(back - back[0]).max() < 1e-5
    assert np.linalg.norm(back[0]) == pytest.approx(1.5, abs=1e-5)
    slow = ROPE.pairs(64)[np.argsort(ROPE.frequencies(64))[:11]]
    assert set(np.flatnonzero(back[0])) == set(slow.ravel())
    assert np.abs((still - plain) - (still - plain)[0]).max() < 1e-5
    assert np.linalg.norm(turning.mean(axis=0)) < 0.7 * np.linalg.norm(still.mean(axis=0))


def test_float32_fails_and_succeeds_and_codes_shift_it():
    policies = {"8": Policy(8, 8), "2": Policy(2, 2), "1": Policy(1, 1)}
    plain, eight, two, one = measure_retrieval(HAYSTACK, policies, rhos=RHOS, seed=10_501)
    assert plain.name == "float32"
    assert plain.success[0] < 0.2
    assert plain.success[-1] == 1
    assert RHOS[0] < plain.half < RHOS[-1]
    assert (plain.shift, plain.low, plain.high) == (0, 0, 0)
    assert abs(eight.shift) < 0.05
    assert eight.half < two.half < one.half
    assert two.low <= two.shift <= two.high
    assert one.low > 0.02


@pytest.mark.parametrize("haystack", [HAYSTACK, HAYSTACK._replace(shared=0.8, rope=ROPE)])
def test_it_is_the_search_that_a_plain_one_finds(haystack, monkeypatch):
    """By brute force, with all keys at once, in one cache that never drops any."""
    monkeypatch.setattr("tqvec.kvcache.quality.needle._KEYS", 700)
    policy = Policy(3, 3, "trellis")
    queries, near, parts = draw(haystack, 10_502)
    keys = np.concatenate([part.keys for part in parts])
    cache = KVCache(1, 1, 64, replace(policy, recent=0, sinks=0, chunk=1), haystack.rope)
    cache.append(0, keys[None], keys[None])
    assert cache.token_counts(0).coded == len(keys)
    size = near.shape[1]
    located = list(zip(np.cumsum([0, *(len(part.keys) for part in parts[:-1])]), parts, strict=True))
    firsts = np.concatenate([start + part.random + size * np.arange(12) for start, part in located])
    others = np.concatenate([start + np.arange(part.random) for start, part in located])
    for curve, held in zip(
        measure_retrieval(haystack, {"3": policy}, rhos=RHOS, seed=10_502), (keys, cache.keys(0)[0]), strict=True
    ):
        hits = np.zeros(len(RHOS))
        for first, rows in zip(firsts, queries, strict=True):
            seen = np.r_[first : first + size, others]
            hits += (rows.astype(np.float64) @ held[seen].T.astype(np.float64)).argmax(axis=1) == 0
        assert curve.success == pytest.approx(tuple(hits / haystack.trials))


def test_a_shared_part_does_no_harm_where_its_mean_is_subtracted():
    policies = {"mean": Policy(3, 3), "none": Policy(3, 3, mean_tokens=0)}
    _, mean, none = measure_retrieval(HAYSTACK._replace(shared=3.0), policies, rhos=RHOS, seed=10_506)
    assert none.shift > mean.shift + 0.05


def test_means_that_turn_are_followed():
    """A cache that is told of no embedding has a mean that is stale for most keys, and says so."""
    haystack = HAYSTACK._replace(shared=3.0, rope=ROPE)
    _, _, (part,) = draw(haystack, 10_507)
    known = _make_cache(Policy(4, 4), haystack)(part.keys)
    with pytest.warns(LossWarning, match="no longer fit"):
        blind = _make_cache(Policy(4, 4), haystack._replace(rope=None))(part.keys)
    errors = [np.linalg.norm(held - part.keys, axis=1).mean() for held in (known, blind)]
    assert errors[0] < 0.8 * errors[1]


def test_half():
    rhos = np.array([0.0, 0.5, 1.0])
    assert _midpoint(np.array([0.0, 0.25, 0.75]), rhos) == 0.75
    assert _midpoint(np.array([0.0, 0.5, 0.4]), rhos) == 0.5
    assert _midpoint(np.array([0.6, 0.7, 0.8]), rhos) == 0.0
    assert _midpoint(np.array([0.0, 0.1, 0.2]), rhos) == 1.0


def test_the_interval_covers_the_shift():
    """Trials that succeed from a random ρ on, codes 0.1 later: 95 % intervals hold 0.1 in most of 40 experiments."""
    rng = np.random.default_rng(10_503)
    rhos = np.linspace(0, 1, 21)
    held = 0
    for seed in range(40):
        first = rng.normal(0.4, 0.1, 100)
        found = {name: (rhos > (first + by)[:, None]).astype(float) for name, by in (("float32", 0), ("codes", 0.1))}
        curve = _fit_curves(found, rhos, seed)[1]
        held += curve.low <= 0.1 <= curve.high
        assert curve.low <= curve.shift <= curve.high
    assert held >= 32


@pytest.mark.parametrize(
    ("haystack", "rhos", "message"),
    [
        (HAYSTACK._replace(n=0), RHOS, "n must be an integer from 1"),
        (HAYSTACK._replace(duplicate_cosine=1.0), RHOS, "duplicate_cosine must be a number above 0 and below 1"),
        (HAYSTACK._replace(shared=-1), RHOS, "shared must be at least 0"),
        (HAYSTACK._replace(rope=1000.0), RHOS, "rope of layer 0 must be a Rope or None, got float"),
        (HAYSTACK._replace(rope=Rope(dim=128)), RHOS, "head_dim must be at least 128"),
        (HAYSTACK, (0.5, 0.4), "rhos must rise"),
        (HAYSTACK, (0.5, 1.5), "rhos must rise"),
        (HAYSTACK, (0.95, 0.99), "float32 finds half of the needles nowhere"),
    ],
)
def test_bad_input(haystack, rhos, message):
    with pytest.raises(InputError, match=message):
        measure_retrieval(haystack, {}, rhos=rhos)


def test_a_policy_that_codes_nothing_is_refused():
    with pytest.raises(InputError, match=r"policies\['exact'\] must code tokens, but has recent=None"):
        measure_retrieval(HAYSTACK, {"exact": Policy(recent=None)}, rhos=RHOS)
