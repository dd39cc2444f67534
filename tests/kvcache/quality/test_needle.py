"""Geometric retrieval: its geometry, its control, and what codes must do to it."""

from dataclasses import replace

import numpy as np
import pytest

from tqvec.errors import InputError
from tqvec.kvcache import Policy
from tqvec.kvcache.quality.needle import (
    Haystack,
    _codec,
    _draw_duplicates,
    _draw_keys,
    _draw_queries,
    _fit_curves,
    _keep_float32,
    _midpoint,
    measure_retrieval,
)

HAYSTACK = Haystack(3000, d=64, trials=60, duplicates=6)
RHOS = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 0.99)


def test_the_geometry_is_what_is_said():
    rng = np.random.default_rng(10_500)
    needles, queries = _draw_queries(HAYSTACK, RHOS, rng)
    near = _draw_duplicates(needles, HAYSTACK, rng)
    for x in (needles, queries, near, np.concatenate(list(_draw_keys(HAYSTACK, 3)))):
        assert np.abs(np.linalg.norm(x, axis=-1) - 1).max() < 1e-5
    assert np.einsum("tkd,td->tk", near, needles) == pytest.approx(0.9, abs=1e-5)
    lean = np.einsum("trd,td->tr", queries, needles).mean(axis=0)
    assert np.abs(lean - RHOS).max() < 7 / np.sqrt(64 * 60)
    assert np.concatenate(list(_draw_keys(HAYSTACK, 3))).shape == (3000, 64)


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


def test_it_is_the_search_that_a_plain_one_finds():
    """Float32 by brute force, with all keys at once."""
    (plain,) = measure_retrieval(HAYSTACK, {}, rhos=RHOS, seed=10_502)
    rng = np.random.default_rng([10_502, 0x6E656564])
    needles, queries = _draw_queries(HAYSTACK, RHOS, rng)
    near = _draw_duplicates(needles, HAYSTACK, rng)
    keys = np.concatenate(list(_draw_keys(HAYSTACK, 10_502)))
    hits = np.zeros(len(RHOS))
    for needle, rows, others in zip(needles, queries, near, strict=True):
        scores = rows.astype(np.float64) @ np.concatenate([needle[None], others, keys]).T.astype(np.float64)
        hits += scores.argmax(axis=1) == 0
    assert plain.success == pytest.approx(tuple(hits / HAYSTACK.trials))


def test_codes_score_as_the_cache_does():
    """Scores are those of the decoded keys, and another seed gives others."""
    keys = next(_draw_keys(HAYSTACK, 4))[:50]
    queries = next(_draw_keys(HAYSTACK, 5))[:7]
    scores = _codec("4", Policy(4, 4), 64).encode(keys)(queries)
    assert np.abs(scores - _keep_float32(keys)(queries)).max() < 0.1
    assert np.abs(scores - _keep_float32(keys)(queries)).max() > 0
    assert not np.array_equal(scores, _codec("4", replace(Policy(4, 4), seed=9), 64).encode(keys)(queries))


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
        (HAYSTACK, (0.5, 0.4), "rhos must rise"),
        (HAYSTACK, (0.5, 1.5), "rhos must rise"),
        (HAYSTACK, (0.95, 0.99), "float32 finds half of the needles nowhere"),
    ],
)
def test_bad_input(haystack, rhos, message):
    with pytest.raises(InputError, match=message):
        measure_retrieval(haystack, {}, rhos=rhos)
