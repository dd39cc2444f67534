"""Properties 8 and 25, and the rotation against the reference's matrix."""

import math

import numpy as np
import pytest
import strategies as sts

from tqvec import TurboQuant
from tqvec.codec.transforms import compose, dense, hadamard
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.fwht.portable import forward_tile_portable
from tqvec.reference import codebook, rotation


@pytest.mark.parametrize("d", sts.ODD_DIMS)
def test_equals_the_reference(d):
    x = sts.unit(18, d, seed=d).astype(np.float32)
    y = TurboQuant(d, seed=7).transform.rotate(x)
    np.testing.assert_array_equal(y, rotation.hadamard(x, 7, np.float32))
    assert np.abs(y - rotation.hadamard(x, 7)).max() <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hadamard", "haar"])
@pytest.mark.parametrize("d", [d for d in sts.ODD_DIMS if d <= 384])
def test_orthogonal(d, kind):
    matrix = TurboQuant(d, seed=3, rotation=kind).transform.rotate(np.eye(d, dtype=np.float32)).astype(np.float64)
    assert np.abs(matrix @ matrix.T - np.eye(d)).max() <= 1e-5


@pytest.mark.parametrize("kind", ["dense", "dense after rounds", "rounds after dense"])
@pytest.mark.parametrize("d", [1, 3, 16, 33, 97, 200, 384])
def test_one_vector_is_rotated_as_a_tile_is(d, kind):
    """Encoding takes tiles, queries and reconstruction single vectors: dense sums have the same order in both."""
    matrix, rounds = dense(sts.normal(d, d, seed=1)), hadamard(d, 5)
    tables = {"dense": matrix, "dense after rounds": compose(rounds, matrix)}.get(kind) or compose(matrix, rounds)
    np.testing.assert_array_equal(tables.columns, tables.matrix.T)
    x, rows = sts.normal(16, d, seed=2), np.empty((16, d), np.float32)
    kernel("rotate_rows")(x, tables, 0, 16, rows)
    tile = forward_tile_portable(np.ascontiguousarray(x.T), np.empty((d, 16), np.float32), tables)
    np.testing.assert_array_equal(rows, tile.T)


@pytest.mark.parametrize("d", [768, 1000, 1536])
def test_lengths_and_angles_survive(d):
    x = sts.unit(40, d, seed=d).astype(np.float32)
    y = TurboQuant(d, seed=3).transform.rotate(x).astype(np.float64)
    assert np.abs(y @ y.T - x.astype(np.float64) @ x.astype(np.float64).T).max() <= 1e-5


def test_seeds_give_different_rotations():
    x = sts.unit(1, 64).astype(np.float32)
    seeds = [*range(20), 2**32, 2**63, 2**64 - 1]
    assert len({TurboQuant(64, seed=seed).transform.rotate(x).tobytes() for seed in seeds}) == len(seeds)


@pytest.mark.slow
@pytest.mark.parametrize(("d", "where"), [(64, 0), (100, 99), (128, 5), (200, 199)])
def test_one_coordinate_over_independent_rotations(d, where):
    """sup|F_n − F_Beta| ≤ √(10.71/n), of a generic vector: one fixed coordinate, a new seed each time."""
    n = 1000
    x = sts.unit(1, d, seed=d).astype(np.float32)
    rotated = (TurboQuant(d, nbits=1, seed=seed).transform.rotate(x) for seed in range(n))
    values = np.sort([y[0, where] for y in rotated]).astype(np.float64)
    expected = codebook.cdf(values, d)
    gap = max(np.abs(expected - np.arange(n) / n).max(), np.abs(expected - np.arange(1, n + 1) / n).max())
    assert gap <= math.sqrt(10.71 / n)
