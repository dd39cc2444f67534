"""The frozen trellis codebooks: their structure, and what they achieve on vectors that training never saw."""

import math

import numpy as np
import pytest
import strategies as sts

from tqvec.codec.codebooks import scalar, trellis
from tqvec.codec.offline import trellis_training
from tqvec.kernels._jit import LANES
from tqvec.kernels.trellis.portable import encode_tile_portable
from tqvec.reference import trellis as reference

WIDTHS = range(1, trellis.MAX_NBITS + 1)
LIMITS = {1: 0.31, 2: 0.0885, 3: 0.0235, 4: 0.0068, 5: 0.0018}


def encode(y, d, nbits):
    """Codes (n, d) of unit rows `y`, n a multiple of LANES, and their levels."""
    tables = trellis.tables(d, nbits)
    codes = np.empty(y.shape, np.uint8)
    out = np.empty((d, LANES), np.uint8)
    for first in range(0, len(y), LANES):
        rows = slice(first, first + LANES)
        encode_tile_portable(np.ascontiguousarray(y[rows].T), tables, out)
        codes[rows] = out.T
    return codes, reference.levels(codes.astype(np.int64), trellis.table(d, nbits))


def sample(n, d, seed):
    return sts.unit(n, d, seed).astype(np.float32)


@pytest.mark.parametrize("nbits", WIDTHS)
def test_structure(nbits):
    table = trellis.table(100, nbits)
    assert table.shape == (2 ** (nbits - 1), 2 * trellis.states(nbits))
    assert table.size == 128
    assert np.all(np.diff(table, axis=0) > 0)
    np.testing.assert_array_equal(table, -table[::-1, ::-1])
    np.testing.assert_array_equal(table * 10, trellis.table(1, nbits))
    if nbits > 1:
        half = len(table) // 2
        assert np.all(table[:half] < 0)
        assert np.all(table[half:] > 0)


@pytest.mark.parametrize("nbits", WIDTHS)
@pytest.mark.parametrize("d", [1, 64, 97, 1536])
def test_kernels_and_reference_take_the_same_numbers(d, nbits):
    tables = trellis.tables(d, nbits)
    table = reference.frozen(d, nbits).astype(np.float32)
    assert tables.levels.tobytes() == table.tobytes()
    assert tables.thresholds.tobytes() == reference.thresholds(table.astype(np.float64)).astype(np.float32).tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("nbits", WIDTHS)
@pytest.mark.parametrize(("d", "n"), [(64, 4096), (100, 2560), (128, 2048), (384, 640), (1536, 160)])
def test_distortion(d, n, nbits):
    """On a quarter of a million coordinates (property 19 of the specification)."""
    y = sample(n, d, seed=nbits)
    mean = float(np.mean(np.sum((y - encode(y, d, nbits)[1]) ** 2, axis=1)))
    assert mean == pytest.approx(trellis.distortion(d, nbits), rel=0.015)
    assert mean <= LIMITS[nbits] * (1.06 if d < 128 else 1)
    assert trellis.distortion(d, nbits) < 0.8 * scalar.distortion(d, nbits)


@pytest.mark.parametrize("nbits", WIDTHS)
@pytest.mark.parametrize("d", [18, 40])
def test_distortion_between_the_measured_dimensions(d, nbits):
    y = sample(8192, d, seed=nbits)
    mean = float(np.mean(np.sum((y - encode(y, d, nbits)[1]) ** 2, axis=1)))
    assert mean == pytest.approx(trellis.distortion(d, nbits), rel=0.03)


@pytest.mark.parametrize("nbits", WIDTHS)
def test_levels_are_the_means_of_what_chose_them(nbits):
    """The centroid condition of k-means: one more step on fresh samples moves the levels by sampling noise only."""
    levels = trellis.table(1, nbits)
    moved = trellis_training.refine(levels, 1, 4, sts.rng(nbits))
    p = trellis.probabilities(nbits)
    variance = trellis.distortion(4096, nbits) / (2 * 4 * trellis_training.LENGTH * LANES)
    assert np.sum(p * (moved - levels) ** 2) <= 3 * levels.size * variance
    np.testing.assert_array_equal(moved, -moved[::-1, ::-1])


@pytest.mark.parametrize("nbits", WIDTHS)
def test_projection_equals_energy(nbits):
    d = 256
    y = sample(1024, d, seed=nbits)
    levels = encode(y, d, nbits)[1]
    gap = np.sum((y - levels) * levels, axis=1)
    assert abs(gap.mean()) <= 7 * gap.std() / math.sqrt(len(gap)) + 1e-3


@pytest.mark.parametrize("nbits", WIDTHS)
def test_prefix_means(nbits):
    """E[y | first bits] and its energy, on vectors; energies grow with the bits, up to 1 − D."""
    d = 1024
    y = sample(512, d, seed=nbits)
    codes, _ = encode(y, d, nbits)
    windows = reference.windows(codes.astype(np.int64) & 1, trellis.states(nbits).bit_length() - 1)
    parity = np.array([bin(w).count("1") % 2 for w in range(128)])
    masks = {1: (trellis.parity_masks(1)), 2: trellis.parity_masks(2)[1:]}.get(nbits, ())  # of path bits
    bits = [codes >> shift & 1 for shift in range(nbits - 1, 0, -1)] + [parity[windows & mask] for mask in masks]
    energies = []
    for planes in range(1, len(bits) + 1):
        prefix = sum(bits[i] << (planes - 1 - i) for i in range(planes))
        number = np.bincount(prefix.ravel())
        found = np.bincount(prefix.ravel(), y.ravel()) / number
        means, energy = trellis.prefix_means(d, nbits, planes)
        np.testing.assert_allclose(found, means, atol=6 / math.sqrt(d * number.min()))
        assert d * np.sum(number * found**2) / y.size == pytest.approx(energy, rel=0.01)
        energies.append(energy)
    assert np.all(np.diff([*energies, 1 - trellis.distortion(d, nbits)]) > 0)
    assert trellis.sign_correlation(nbits) == pytest.approx(math.sqrt(energies[0]), rel=2e-3)


@pytest.mark.parametrize("nbits", [1, 2])
def test_the_second_bit_is_the_best_parity(nbits):
    """Of all 127, with the first; complementing an index changes both, so four means are -b, -a, a, b."""
    first, second = trellis.parity_masks(nbits)
    levels, p = trellis.table(1, nbits).ravel(), trellis.probabilities(nbits).ravel()
    signs = 1 - 2 * np.array([[bin(i & mask).count("1") % 2 for i in range(128)] for mask in range(128)])
    explained = np.zeros(128)
    for mask in set(range(1, 128)) - {first}:
        both = signs[[first, mask]]
        moments = both @ (p * levels)
        explained[mask] = moments @ np.linalg.solve(both * p @ both.T, moments)
    assert explained.argmax() == second
    means = trellis.prefix_means(1, nbits, 2)[0]
    np.testing.assert_allclose(means, -means[::-1], rtol=1e-6)


def test_the_sign_plane_is_nearly_as_good_as_the_sign():
    assert trellis.sign_correlation(1) > 0.7
    assert all(trellis.sign_correlation(nbits) > 0.77 for nbits in (2, 3, 4, 5))


def test_training_lowers_the_error():
    rng = sts.rng(5)
    levels = trellis_training.start(2, 3, rng)
    assert sorted(set(levels.ravel().tolist())) == pytest.approx(scalar.centroids(65536, 3) * 256)
    trained = trellis_training.refine(levels, 5, 1, rng)
    before, after = (trellis_training.measure(c, 512, 8, 1).distortion for c in (levels, trained))
    assert after < 0.98 * before


def test_entropy_is_below_the_width():
    for nbits in WIDTHS:
        assert nbits - 0.25 < trellis.entropy(nbits) <= nbits
