"""Scores, softmax and sums of values on codes, at every level of the machine, against the reference."""

import numpy as np
import pytest
import strategies as sts
from kernels.attending import DIMS, WIDTHS, Rows

from tqvec.kernels.attend.portable import BLOCK
from tqvec.kernels.dispatch import implementation, levels
from tqvec.reference import attention as reference

COUNTS = (1, 7, 31, 33, 97)
SCORES, SOFTMAX, VALUES = (levels(name) for name in ("code_scores", "softmax_rows", "add_values"))


def scores_of(level, rows, queries, start=0, stop=None):
    data, scale = rows.data[start:stop], rows.scale[start:stop]
    out = np.full((len(queries), len(data)), np.nan, np.float32)
    implementation("code_scores", level)(rows.tables, queries, data, scale, out)
    return out


def softmax_of(level, scores, seen=None):
    weights = scores.copy()
    largest, total = np.full((2, len(scores)), np.nan, np.float32)
    seen = np.full(len(scores), scores.shape[1]) if seen is None else np.array(seen)
    implementation("softmax_rows", level)(weights, seen, largest, total)
    return weights, largest, total


def values_of(level, rows, weights, least=0.0, out=None, start=0, stop=None):
    out = np.zeros((len(weights), rows.codec.d), np.float32) if out is None else out
    skipped = np.zeros(len(weights), np.float32)
    part = np.ascontiguousarray(weights[:, start:stop])
    data, scale = rows.data[start:stop], rows.scale[start:stop]
    implementation("add_values", level)(rows.tables, part, data, scale, np.float32(least), out, skipped)
    return out, skipped


def weights_of(g, n, seed=5):
    return sts.rng(seed).random((g, n)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("level", SCORES)
@pytest.mark.parametrize(("kind", "nbits"), WIDTHS)
@pytest.mark.parametrize("d", DIMS)
def test_scores(level, kind, nbits, d):
    for n in COUNTS:
        rows = Rows(kind, nbits, d, n)
        queries = sts.normal(3, d, seed=n)
        error = np.abs(scores_of(level, rows, queries) - rows.scores(queries))
        assert np.all(error <= rows.score_bound(queries, level))


@pytest.mark.slow
@pytest.mark.parametrize("level", VALUES)
@pytest.mark.parametrize(("kind", "nbits"), WIDTHS)
@pytest.mark.parametrize("d", DIMS)
def test_values(level, kind, nbits, d):
    for n, g in zip(COUNTS, (1, 2, 3, 4, 6), strict=True):
        rows, weights = Rows(kind, nbits, d, n), weights_of(g, n)
        out, skipped = values_of(level, rows, weights)
        assert np.all(np.abs(out - rows.values(weights)) <= rows.value_bound(weights, level))
        assert not skipped.any()


@pytest.mark.slow
@pytest.mark.parametrize("level", SCORES)
@pytest.mark.parametrize(("kind", "nbits"), WIDTHS)
def test_odd_sizes(level, kind, nbits):
    """Rows of a byte, of strips that are not full, and rows that are too long for vectors."""
    for d in (1, 7, 33, 129, 300, 640, 648) if kind == "scalar" else (16, 24, 136, 200, 648):
        if kind == "trellis" and nbits in (2.5, 3.5) and d < 64:
            continue  # bands of less than 16 coordinates
        rows, queries, weights = Rows(kind, nbits, d, 35), sts.normal(2, d), weights_of(3, 35)
        error = np.abs(scores_of(level, rows, queries) - rows.scores(queries))
        assert np.all(error <= rows.score_bound(queries, level))
        out, _ = values_of(level, rows, weights)
        assert np.all(np.abs(out - rows.values(weights)) <= rows.value_bound(weights, level))


@pytest.mark.skipif("avx512" not in SCORES, reason="needs two levels with vector instructions")
@pytest.mark.parametrize(
    ("kind", "nbits"), [("scalar", 1), ("scalar", 3.5), ("scalar", 4), ("scalar", 7), ("trellis", 3)]
)
@pytest.mark.parametrize("d", [64, 96, 128])
def test_levels_with_vectors_give_the_same_scores(kind, nbits, d):
    rows, queries = Rows(kind, nbits, d, 75), sts.normal(3, d)
    assert rows.has_vectors("avx512")
    assert rows.has_vectors("avx2")
    np.testing.assert_array_equal(scores_of("avx2", rows, queries), scores_of("avx512", rows, queries))


@pytest.mark.parametrize(
    "nbits",
    [
        [(8, 6), (56, 2)],
        [(24, 8), (40, 1), (64, 3)],
        [(3, 2), (61, 4)],
        [(40, 4), (88, 4)],
        [(131, 2), (5, 8), (150, 1)],
    ],
)
@pytest.mark.parametrize("level", SCORES)
def test_bands(level, nbits):
    rows = Rows("scalar", nbits, sum(count for count, _ in nbits), 40)
    queries, weights = sts.normal(2, rows.codec.d), weights_of(2, 40)
    assert np.all(np.abs(scores_of(level, rows, queries) - rows.scores(queries)) <= rows.score_bound(queries, level))
    out, _ = values_of(level, rows, weights)
    assert np.all(np.abs(out - rows.values(weights)) <= rows.value_bound(weights, level))


@pytest.mark.parametrize("level", SCORES)
@pytest.mark.parametrize("g", [1, 5, 16, 17, 40])
def test_queries_of_any_size_and_number(level, g):
    rows, queries = Rows("scalar", 3, 128, 50), sts.normal(g, 128)
    queries[0] = 0
    queries[-1] *= np.float32(1e6)
    actual = scores_of(level, rows, queries)
    assert np.all(np.abs(actual - rows.scores(queries)) <= rows.score_bound(queries, level))
    alone = np.concatenate([scores_of(level, rows, query[None]) for query in queries])
    np.testing.assert_array_equal(alone, actual)


@pytest.mark.parametrize("level", SCORES)
@pytest.mark.parametrize("nbits", [3, 6])
def test_a_score_depends_on_its_row_alone(level, nbits):
    rows, queries = Rows("scalar", nbits, 64, 2 * BLOCK + 5), sts.normal(2, 64)
    whole = scores_of(level, rows, queries)
    for start, stop in ((0, 1), (3, 50), (BLOCK - 1, 2 * BLOCK + 1), (2 * BLOCK + 4, 2 * BLOCK + 5)):
        np.testing.assert_array_equal(scores_of(level, rows, queries, start, stop), whole[:, start:stop])


@pytest.mark.parametrize("level", VALUES)
@pytest.mark.parametrize("kind", ["scalar", "trellis"])
def test_parts_of_whole_blocks_add_up_to_the_same_bits(level, kind):
    n = 3 * BLOCK + 11
    rows, weights = Rows(kind, 3, 128, n), weights_of(5, n)
    whole, _ = values_of(level, rows, weights)
    parts = np.zeros_like(whole)
    for start, stop in ((0, BLOCK), (BLOCK, 3 * BLOCK), (3 * BLOCK, n)):
        values_of(level, rows, weights, out=parts, start=start, stop=stop)
    np.testing.assert_array_equal(parts, whole)
    assert np.all(np.abs(whole - rows.values(weights)) <= rows.value_bound(weights, level))


@pytest.mark.parametrize("level", VALUES)
def test_values_do_not_depend_on_other_queries(level):
    """Not even on the rows that others see."""
    n = BLOCK + 75
    rows, weights = Rows("scalar", 3, 128, n), weights_of(7, n) * (sts.rng(6).random((7, n)) < 0.4)
    weights = weights.astype(np.float32)
    whole, _ = values_of(level, rows, weights)
    alone = np.concatenate([values_of(level, rows, weights[q : q + 1])[0] for q in range(7)])
    np.testing.assert_array_equal(alone, whole)


@pytest.mark.parametrize("level", VALUES)
@pytest.mark.parametrize("least", [0.3, 0.9])
def test_light_rows_are_skipped(level, least):
    rows, weights = Rows("scalar", 4, 128, 2 * BLOCK + 9), weights_of(2, 2 * BLOCK + 9)
    light = (weights < least).all(axis=0)
    out, skipped = values_of(level, rows, weights, least)
    kept = np.where(light, np.float32(0), weights)
    np.testing.assert_array_equal(out, values_of(level, rows, kept)[0])
    np.testing.assert_allclose(skipped, np.where(light, weights, 0).sum(axis=1), rtol=1e-5)
    assert 0 < light.sum() < len(light)


@pytest.mark.parametrize("level", VALUES)
def test_all_rows_may_be_skipped(level):
    rows, weights = Rows("trellis", 2, 96, 45), weights_of(3, 45)
    before = sts.normal(3, 96)
    out, skipped = values_of(level, rows, weights, least=2.0, out=before.copy())
    np.testing.assert_array_equal(out, before)
    np.testing.assert_allclose(skipped, weights.sum(axis=1), rtol=1e-6)
    out, skipped = values_of(level, rows, np.zeros((3, 45), np.float32), out=before.copy())
    np.testing.assert_array_equal(out, before)
    assert not skipped.any()


@pytest.mark.slow
@pytest.mark.parametrize("level", SOFTMAX)
def test_exponentials(level):
    x = np.linspace(-100, 0, 200_001, dtype=np.float32)[None]
    weights, largest, total = softmax_of(level, x)
    exact = np.exp(x.astype(np.float64))
    high = x >= -87
    assert np.abs(weights[high] / exact[high] - 1).max() < 3e-7
    assert np.abs(weights - exact).max() < 2e-7
    assert not weights[x < -87].any()
    assert (largest[0], weights[0, -1]) == (0, 1)
    assert total[0] == pytest.approx(exact.sum(), rel=1e-6)


@pytest.mark.parametrize("level", SOFTMAX)
@pytest.mark.parametrize("n", [*COUNTS, 2 * BLOCK + 3])
@pytest.mark.parametrize("size", [1, 1e4, 1e30])
def test_softmax(level, n, size):
    scores = sts.normal(4, n, seed=n) * np.float32(size)
    seen = np.array([n, n - 1, 0, -3])
    weights, largest, total = softmax_of(level, scores, seen)
    exact, highest, sums = reference.weights(scores.astype(np.float64), seen)
    np.testing.assert_allclose(weights, exact, atol=2e-7 if size < 10 else 2e-3)  # of x - largest, in float32
    np.testing.assert_array_equal(largest, highest.astype(np.float32))
    np.testing.assert_allclose(total, weights.sum(axis=1), rtol=1e-6)
    assert sums[2] == total[2] == total[3] == 0
    assert not weights[2:].any()


@pytest.mark.parametrize("level", SOFTMAX)
def test_softmax_of_equal_and_of_infinitely_low_scores(level):
    scores = np.full((3, 40), -1e4, np.float32)
    scores[1] = 1e4
    scores[2, 1:] = -np.inf
    weights, largest, total = softmax_of(level, scores)
    np.testing.assert_array_equal(weights[:2], np.ones((2, 40)))
    np.testing.assert_array_equal(weights[2], np.eye(40)[0])
    np.testing.assert_array_equal(largest, [-1e4, 1e4, -1e4])
    np.testing.assert_array_equal(total, [40, 40, 1])


@pytest.mark.parametrize("level", levels("cap_scores"))
@pytest.mark.parametrize("cap", [1e-30, 0.7, 50.0, 1e30])
def test_capped_scores(level, cap):
    sizes = np.concatenate([np.logspace(-8, 2, 20_001), np.linspace(0, 20, 20_001)[1:]])
    scores = (np.stack([sizes, -sizes]) * cap).astype(np.float32)
    out = scores.copy()
    implementation("cap_scores", level)(out, np.float32(cap))
    exact = reference.capped(scores.astype(np.float64), float(np.float32(cap)))
    np.testing.assert_allclose(out, exact, rtol=1e-6)
    largest = np.array([[np.finfo(np.float32).max, 0.0]], np.float32)
    implementation("cap_scores", level)(largest, np.float32(cap))
    np.testing.assert_allclose(largest, [[np.float32(cap), 0]], rtol=1e-6)


@pytest.mark.parametrize("level", [level for level in SCORES if level != "portable"])
def test_rounding_of_byte_scores_is_small(level):
    """The standard error of kernels/attend/README.md, as a share of that which the codes leave anyhow."""
    for kind, nbits, most in (("scalar", 2, 0.03), ("scalar", 3, 0.05), ("scalar", 4, 0.1), ("trellis", 4, 0.15)):
        rows = Rows(kind, nbits, 128, 2000, seed=7)
        queries = sts.normal(20, 128, seed=8)
        error = (scores_of(level, rows, queries) - rows.scores(queries)) / rows.factor
        lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(rows.levels, axis=1)
        left = np.sqrt(rows.codec.distortion / 128)
        assert np.std(error / lengths) < most * left
