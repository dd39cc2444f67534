"""Integer dot products at every level, and the search built on them."""

import math

import numpy as np
import pytest
import strategies as sts

from tqvec import Index
from tqvec.codec.bands import integer_levels
from tqvec.kernels._jit import LANES
from tqvec.kernels.dispatch import implementation, levels
from tqvec.reference import codebook, quantize, rotation, scoring

LEVELS = sorted({*levels("dot_tiles"), "neon"})  # that one is generic LLVM, so it runs anywhere


def exact(tiles, queries):
    n_tiles, pairs, _ = tiles.shape
    rows = tiles.reshape(n_tiles, pairs, LANES, 2).transpose(0, 2, 1, 3).reshape(n_tiles * LANES, 2 * pairs)
    return queries.astype(np.int64) @ rows.astype(np.int64).T


def check(level, tiles, queries):
    acc = np.full((len(queries), tiles.shape[0] * LANES), -77, np.int32)
    implementation("dot_tiles", level)(tiles, queries, acc)
    np.testing.assert_array_equal(acc, exact(tiles, queries))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("nq", range(1, 10))
@pytest.mark.parametrize("n_tiles", range(1, 8))
def test_dot_tiles(level, n_tiles, nq):
    generator = sts.rng(100 * n_tiles + nq)
    for pairs in (1, 2, 3, 4, 5, 7, 8, 16, 31, 40):
        limit = math.isqrt(2**31 // (2 * pairs)) - 1  # no total can leave int32
        limit = min(limit, 32767)
        tiles = generator.integers(-limit, limit, (n_tiles, pairs, 2 * LANES), endpoint=True).astype(np.int16)
        queries = generator.integers(-limit, limit, (nq, 2 * pairs), endpoint=True).astype(np.int16)
        check(level, tiles, queries)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("sign", [1, -1])
def test_dot_tiles_at_the_extremes(level, sign):
    # One pair of ±32767 twice: 2·32767² = 2,147,352,578 < 2^31, the largest total that the README's bound allows for.
    tiles = np.zeros((4, 5, 2 * LANES), np.int16)
    queries = np.zeros((5, 10), np.int16)
    tiles[:, 2], queries[:, 4:6] = 32767, sign * 32767
    check(level, tiles, queries)
    assert abs(exact(tiles, queries)).max() == 2 * 32767**2


@pytest.mark.parametrize("level", LEVELS)
def test_dot_tiles_may_overflow_on_the_way(level):
    # Partial sums wrap around modulo 2^32 and come back: only the total counts.
    tiles = np.full((3, 4, 2 * LANES), 32767, np.int16)
    queries = np.array([[32767, 32767, 32767, 32767, -32767, -32767, -32767, 5]] * 4, np.int16)
    check(level, tiles, queries)


@pytest.mark.parametrize("nbits", [1, 2, 4, 5, 8])
@pytest.mark.parametrize("d", [1, 3, 33, 64, 200, 1000])
def test_integer_search_stays_within_its_error_bound(d, nbits):
    """Every score of `Index.search` against float64, with the bound of kernels/scan/README.md."""
    x, queries = sts.normal(70, d, seed=d), sts.normal(5, d, seed=d + 1)
    index = Index(d, nbits=nbits, seed=6)
    index.add(x)
    scores, ids = index.search(queries, k=70)
    assert np.all(np.sort(ids, axis=1) == np.arange(70))
    encoded = quantize.encode(x, nbits, 6)
    centroids = codebook.frozen(d, nbits)
    rotated = rotation.hadamard(queries, 6)
    scale = quantize.scale_unbiased(encoded)
    dense = np.take_along_axis(scoring.scores(rotated, centroids[encoded.codes], scale), ids, axis=1)
    length = np.linalg.norm(queries.astype(np.float64), axis=1)[:, None]
    per_query = 32767 / length
    per_level = 1 / integer_levels(d, index.codec.quantizer).unit
    reach = np.sqrt(encoded.energy)
    bound = math.sqrt(d) / 2 * (reach / per_query + length / per_level) + d / (4 * per_query * per_level)
    bound = bound + 2e-6 * length * reach  # float32: the rotation, the last two products
    assert np.all(np.abs(scores - dense) <= np.take_along_axis(bound * scale, ids, axis=1))
    ordered = np.lexsort((ids, -scores), axis=1)
    assert np.all(ordered == np.arange(70))


def test_overflow_bound_holds_for_the_worst_codes():
    for d in (1, 2, 64, 1536, 16384):
        for nbits in (1, 4, 8):
            index = Index(d, nbits=nbits)
            words = integer_levels(d, index.codec.quantizer).levels[0, : 2**nbits]
            worst = np.abs(words.astype(np.uint16).view(np.int16).astype(np.int64)).max()
            assert worst * math.sqrt(d) * (32767 + math.sqrt(d) / 2) < 2**31
