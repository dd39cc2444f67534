"""Means that turn with the position: cosines and sines, keys less their mean, and the mean's part of scores."""

import math

import numpy as np
import pytest
import strategies as sts

from tqvec.kernels.dispatch import implementation, kernel, levels
from tqvec.kernels.rope.portable import MEAN_BLOCK
from tqvec.kvcache import Rope
from tqvec.kvcache.key_basis import KeyBasis, layout

COUNTS = (1, 31, 127, 128, 129, 1000)
POSITIONS = (0, 4, 12_345, 1_000_000)
THETAS = (1e4, 5e5, 5e6)
MEAN_ERROR = 4e-6  # of the sum of absolute products (README.md)


def ropes(d):
    """Embeddings of a head: all coordinates, some of them, none."""
    if d < 4:
        return [None, Rope(1e4)]
    return [None, *(Rope(theta) for theta in THETAS), Rope(1e6, dim=d // 2, interleaved=True), Rope(1e4, dim=2)]


def flags(n, seed=0):
    """Scales of tokens, some of which have no mean subtracted."""
    scale = sts.rng(seed).integers(0x3000, 0x4000, n).astype(np.uint16)
    scale[sts.rng(seed + 1).random(n) < 0.2] |= np.uint16(1 << 15)
    return scale


@pytest.mark.parametrize("first", [0, 1, -100, 2**20 - 40, -(2**20)])
def test_tables_are_those_of_the_library(first):
    frequencies = np.array([0.0, 1.0, 0.7, 1e-3, 1e-7, *Rope(1e6).frequencies(64)])
    found = np.empty((2, 40, frequencies.size), np.float32)
    kernel("turn_tables")(frequencies, first, *found)
    for function, table in zip((math.cos, math.sin), found, strict=True):
        exact = np.array([[function(f * (first + t)) for f in frequencies.tolist()] for t in range(40)])
        assert np.all(np.abs(table - exact) <= np.spacing(np.abs(exact).astype(np.float32)))


def test_tables_in_every_quarter():
    """Near multiples of π/4, where the polynomials end and the quarters meet."""
    turns = np.arange(-64, 65) * math.pi / 4
    frequencies = np.concatenate([np.nextafter(turns, -9), turns, np.nextafter(turns, 9), turns + 1e-9])
    found = np.empty((2, 2, frequencies.size), np.float32)
    kernel("turn_tables")(frequencies, 0, *found)
    assert np.array_equal(found[:, 0], [np.ones_like(frequencies), np.zeros_like(frequencies)])
    for function, table in zip((math.cos, math.sin), found, strict=True):
        exact = np.array([function(f) for f in frequencies.tolist()])
        assert np.all(np.abs(table[1] - exact) <= np.spacing(np.abs(exact).astype(np.float32)) + 2.0**-60)


def basis(d, seed=0):
    """A basis of two heads, and keys (2, n, d) of which some are near its turned mean."""
    rng = sts.rng(seed)
    order = np.stack([rng.permutation(d) for _ in range(2)]).astype(np.uint16)
    gains = rng.uniform(0.1, 1, (2, d)).astype(np.float32)
    means = (3 * rng.standard_normal((2, d))).astype(np.float32)
    return KeyBasis(means, order, gains, spread=np.ones(2, np.float32), guarded=np.zeros(2, np.uint8))


def mean_at(mean, rope, positions):
    """A mean at positions, (n, d) float64."""
    rows = np.repeat(mean[None].astype(np.float64), len(positions), axis=0)
    if rope is not None:
        pairs, angles = rope.pairs(len(mean)), np.outer(positions, rope.frequencies(len(mean)).astype(np.float32))
        turned = (rows[:, pairs[:, 0]] + 1j * rows[:, pairs[:, 1]]) * np.exp(1j * angles)
        rows[:, pairs[:, 0]], rows[:, pairs[:, 1]] = turned.real, turned.imag
    return rows


@pytest.mark.parametrize("d", [2, 15, 16, 17, 64, 100, 256])
@pytest.mark.parametrize("first", [0, 999_990])
def test_keys_are_centred_where_that_makes_them_shorter(d, first):
    for number, rope in enumerate(ropes(d)):
        if rope is not None and d % 2 and rope.dim is None:
            continue
        turning, learned = layout(rope, d), basis(d)
        positions = np.arange(first, first + 33)
        keys = np.stack([mean_at(mean, rope, positions) for mean in learned.means])
        keys[:, ::3] = 0
        keys = (keys + sts.normal(2 * 33, d, number).reshape(2, 33, d)).astype(np.float32)
        rows, plain = learned.centre(keys, first, turning, None)
        for head in range(2):
            unit = np.empty(d)
            unit[learned.order[head]] = learned.gains[head]
            rest = unit * (keys[head] - mean_at(learned.means[head], rope, positions))
            whole = unit * keys[head]
            shorter = np.square(rest).sum(axis=1) < np.square(whole).sum(axis=1)
            assert np.array_equal(plain[head], ~shorter)
            expected = np.where(shorter[:, None], rest, whole)[:, learned.order[head]]
            np.testing.assert_allclose(rows[head], expected, rtol=1e-6, atol=5e-6)
        np.testing.assert_allclose(learned.restore(rows, plain, first, turning), keys, rtol=1e-6, atol=1e-5)
        if d > 2:
            assert 0 < plain.mean() < 1


def test_a_key_of_the_mean_s_length_keeps_it():
    """Equal lengths: nothing is subtracted. A zero key has no direction that a mean would help."""
    learned = basis(16)._replace(means=np.zeros((2, 16), np.float32))
    keys = sts.normal(6, 16).reshape(2, 3, 16)
    keys[:, 1] = 0
    rows, plain = learned.centre(keys, 0, layout(None, 16), None)
    assert plain.all()
    assert not rows[:, 1].any()


def scores_of(level, rope, d, *, g, n, position, seed=0):
    """What a level adds to scores, what it should add, and the sum of absolute products; and the scales."""
    queries, mean, turning = sts.normal(g, d, seed), sts.normal(1, d, seed + 1)[0], layout(rope, d)
    scale, start = flags(n, seed + 2), sts.normal(g, n, seed + 3)
    out = start.copy()
    products = turning.products(queries, mean)
    implementation("add_means", level)(products, turning.waves, position, scale, out)
    rows = mean_at(mean, rope, np.arange(position, position + n))
    exact = start + np.where(scale >> 15, 0, queries.astype(np.float64) @ rows.T)
    bound = np.abs(queries).astype(np.float64) @ np.abs(mean)
    return out, exact, bound[:, None] + np.abs(start), start, scale


@pytest.mark.parametrize("level", levels("add_means"))
@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("d", [2, 17, 64, 80, 256])
def test_the_mean_s_part_of_scores(level, n, d):
    for number, rope in enumerate(ropes(d)):
        if rope is not None and d % 2 and rope.dim is None:
            continue
        for position in POSITIONS:
            out, exact, size, start, scale = scores_of(
                level, rope, d, g=1 + (n + number) % 5, n=n, position=position, seed=number
            )
            assert np.all(np.abs(out - exact) <= MEAN_ERROR * size)
            assert np.array_equal(out[:, scale >> 15 == 1], start[:, scale >> 15 == 1])


@pytest.mark.parametrize("level", levels("add_means"))
@pytest.mark.parametrize("g", range(1, 10))
def test_any_number_of_queries(level, g):
    for n in (5, 200):
        out, exact, size, _, _ = scores_of(level, Rope(1e4), 32, g=g, n=n, position=77, seed=g)
        assert np.all(np.abs(out - exact) <= MEAN_ERROR * size)


@pytest.mark.parametrize("level", levels("add_means"))
def test_phases_stay_right_over_a_long_context(level):
    """They are products of the phases before, one per block."""
    n = 1000 * MEAN_BLOCK + 3
    for theta in THETAS:
        out, exact, size, _, _ = scores_of(level, Rope(theta), 16, g=2, n=n, position=900_000)
        assert np.all(np.abs(out - exact) <= MEAN_ERROR * size)
