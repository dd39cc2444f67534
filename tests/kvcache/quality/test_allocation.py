"""Widths by sensitivity: bytes go where the attention errs most."""

import itertools
from dataclasses import replace

import numpy as np
import strategies as sts

from tqvec.kvcache import KVCache, Policy, Rope, allocate, bits_per_value
from tqvec.kvcache.quality import synthesize_layer
from tqvec.kvcache.quality.fidelity import output_errors

D, N = 32, 300
POLICY = Policy(recent=4, chunk=4, mean_tokens=8, sinks=0)


def captured(spread):
    """A layer; queries of head 0 are long, so its keys matter, and those of head 1 short, so they hardly do."""
    k, v = sts.normal(2 * 2 * N, D, 8_400).reshape(2, 2, N, D)
    q = sts.normal(2 * 20, D, 8_401).reshape(2, 20, D) * np.array([spread, 0.1], np.float32)[:, None, None]
    return k, v, q


def test_sensitive_sides_get_more():
    found = allocate([captured(4.0), captured(1.0)], bytes_per_token=8 * 12 + 16, policy=POLICY)
    keys, values = found.policy.key_nbits, found.policy.value_nbits
    assert keys[0][0] > keys[1][0] >= keys[1][1]
    assert keys[0][0] > keys[0][1]
    assert values[0][1] >= keys[0][1]
    assert found.policy.layers(2, 2)[0].keys == keys[0]
    assert found.errors.shape == (2, 2, 2, 4)


def test_the_front_ends_at_the_budget():
    for budget in (8 * 8 + 16, 8 * 12 + 16, 8 * 20 + 16, 10_000):
        found = allocate([captured(4.0), captured(1.0)], budget, policy=POLICY)
        sizes, errors = zip(*found.pareto_front, strict=True)
        assert list(sizes) == sorted(set(sizes))
        assert list(errors) == sorted(set(errors), reverse=True)
        assert sizes[0] == 8 * 8 + 16
        assert sizes[-1] <= budget
        assert bits_per_value(found.policy, 2, 2, D) * 2 * 2 * 2 * D / 8 == sizes[-1]
        chosen = sum(
            found.errors[layer, head, side, (2, 3, 4, 5).index(widths[layer][head])]
            for side, widths in enumerate((found.policy.key_nbits, found.policy.value_nbits))
            for layer, head in itertools.product(range(2), range(2))
        )
        assert np.isclose(errors[-1], chosen / 4)


def test_no_other_choice_of_that_size_is_better():
    """Of all choices of widths, for one layer, with no more bytes than a point of the front has."""
    found = allocate([captured(3.0)], 10_000, policy=POLICY)
    curves = found.errors[0].reshape(4, 4)
    size = 4 * np.arange(2, 6)  # bytes of 2 to 5 bits
    choices = np.array(list(itertools.product(range(4), repeat=4)))
    sizes, errors = size[choices].sum(axis=1) + 8, curves[np.arange(4), choices].sum(axis=1) / 2
    for step in found.pareto_front:
        assert errors[sizes <= step.bytes_per_token].min() >= step.error - 1e-12


def test_it_beats_one_width_at_equal_bytes():
    layers = [captured(4.0), captured(1.0)]
    found = allocate(layers, 8 * 12 + 16, policy=POLICY)
    errors = []
    for policy in (found.policy, Policy(3, 3, recent=4, chunk=4, mean_tokens=8, sinks=0)):
        assert bits_per_value(policy, 2, 2, D) <= 3.5
        cache = KVCache(2, 2, D, policy)
        total = 0.0
        for layer, (k, v, q) in enumerate(layers):
            cache.append(layer, k, v)
            total += np.square(output_errors(q, (k, v), (cache.keys(layer), cache.values(layer)))).mean()
        errors.append(total)
    assert errors[0] < 0.9 * errors[1]


def test_keys_are_coded_as_by_a_cache_that_knows_how_they_turn():
    """Only the layer whose keys turn gains, only on the side of keys, and what is chosen is what such a cache does."""
    rope = Rope(1000.0)
    turning, still = (synthesize_layer(D, 1000, 2, 20, rope=each) for each in (rope, None))
    layers = [(k, v, q) for q, k, v in (turning, still)]
    blind = allocate(layers, 10_000, policy=POLICY)
    found = allocate(layers, 10_000, policy=POLICY, rope=[rope, None])
    assert (found.errors[0, :, 0].sum(axis=1) < 0.75 * blind.errors[0, :, 0].sum(axis=1)).all()
    np.testing.assert_array_equal(found.errors[0, :, 1], blind.errors[0, :, 1])
    np.testing.assert_array_equal(found.errors[1], blind.errors[1])
    cache = KVCache(2, 2, D, replace(POLICY, key_nbits=2, value_nbits=2), [rope, None])
    cache.append(0, *layers[0][:2])
    error = output_errors(layers[0][2], layers[0][:2], (cache.keys(0), layers[0][1]))
    np.testing.assert_allclose(found.errors[0, :, 0, 0], np.square(error).reshape(2, -1).mean(axis=1))


def test_the_factor_of_the_scores_counts():
    plain, sharp = (allocate([captured(1.0)], 10_000, policy=POLICY, scale=scale) for scale in (None, 1.0))
    same = allocate([captured(1.0)], 10_000, policy=POLICY, scale=D**-0.5)
    np.testing.assert_allclose(plain.errors, same.errors)
    assert (sharp.errors[0, 0, 0] > plain.errors[0, 0, 0]).all()
