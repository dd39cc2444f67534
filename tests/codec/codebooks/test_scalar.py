"""Properties 1-7 of the specification: the frozen codebooks against the reference and the exact table."""

import math
from itertools import pairwise

import numpy as np
import pytest

from tqvec.codec.codebooks import scalar
from tqvec.reference import codebook as reference

TABLE_DIMS = (64, 128, 200, 384, 768, 1536, 3072)
TABLE = {  # D(d, b), rows b, columns TABLE_DIMS
    1: (0.35839, 0.36089, 0.36179, 0.36255, 0.36297, 0.36317, 0.36328),
    2: (0.11453, 0.11600, 0.11653, 0.11699, 0.11723, 0.11736, 0.11742),
    3: (0.033391, 0.033966, 0.034175, 0.034353, 0.034450, 0.034499, 0.034523),
    4: (0.0091315, 0.0093148, 0.0093815, 0.0094386, 0.0094698, 0.0094854, 0.0094932),
    5: (0.0023992, 0.0024515, 0.0024705, 0.0024868, 0.0024957, 0.0025002, 0.0025024),
    6: (6.1596e-4, 6.2996e-4, 6.3507e-4, 6.3945e-4, 6.4184e-4, 6.4304e-4, 6.4364e-4),
    7: (1.5615e-4, 1.5977e-4, 1.6110e-4, 1.6224e-4, 1.6286e-4, 1.6317e-4, 1.6332e-4),
    8: (3.9317e-5, 4.0241e-5, 4.0579e-5, 4.0868e-5, 4.1026e-5, 4.1106e-5, 4.1145e-5),
}
GAUSSIAN = {1: 0.36338, 2: 0.11748, 3: 0.034548, 4: 0.0095010, 5: 0.0025047, 6: 6.4424e-4, 7: 1.6348e-4, 8: 4.1185e-5}
GAUSSIAN_ENTROPY = {2: 1.9111, 3: 2.8249, 4: 3.7653, 5: 4.7298, 6: 5.7101, 7: 6.6996, 8: 7.6941}
DIMS = (1, 2, 3, 4, 5, 10, 31, 63, 64, 65, 100, 128, 200, 384, 1000, 1536, 3072, 65536)
WIDTHS = range(1, 9)


@pytest.mark.parametrize("nbits", WIDTHS)
@pytest.mark.parametrize("d", DIMS)
def test_sorted_antisymmetric_and_midpoints(d, nbits):
    c = scalar.centroids(d, nbits)
    assert c.shape == (2**nbits,)
    assert c.dtype == np.float64
    assert np.all(np.diff(c) > 0)
    assert np.abs(c + c[::-1]).max() <= 1e-12
    np.testing.assert_array_equal(scalar.thresholds(d, nbits), (c[1:] + c[:-1]) / 2)


@pytest.mark.parametrize("nbits", WIDTHS)
@pytest.mark.parametrize("d", DIMS[1:])
def test_centroids_are_the_means_of_their_cells(d, nbits):
    half = scalar.centroids(d, nbits)[2 ** (nbits - 1) :]
    assert np.abs(half - reference.cell_means(half, d)).max() <= 1e-9 / math.sqrt(d)


@pytest.mark.slow
@pytest.mark.parametrize("nbits", WIDTHS)
@pytest.mark.parametrize("d", [2, 3, 7, 33, 64, 96, 128, 1536])
def test_equals_lloyds_iteration(d, nbits):
    gap = np.abs(scalar.centroids(d, nbits) - reference.lloyd_max(d, nbits, 1e-12))
    assert gap.max() <= 1e-8 / math.sqrt(d)  # at 8 bits the iteration's last step is about 1/10,000 of its error


@pytest.mark.parametrize("nbits", WIDTHS)
def test_reference_reads_the_same_numbers(nbits):
    for d in (*range(1, 131), *DIMS):
        ours, theirs = scalar.centroids(d, nbits), reference.frozen(d, nbits)
        np.testing.assert_array_equal(ours.astype(np.float32), theirs.astype(np.float32))
        np.testing.assert_allclose(ours, theirs, rtol=1e-14)


@pytest.mark.parametrize("nbits", WIDTHS)
@pytest.mark.parametrize("d", DIMS[1:])
def test_energy_is_one_minus_distortion(d, nbits):
    c = scalar.centroids(d, nbits)
    energy = 2 * d * np.sum(reference.probabilities(c[c > 0], d) * c[c > 0] ** 2)
    squared_error = reference.distortion(c, d)
    assert energy == pytest.approx(1 - squared_error, rel=1e-10)
    assert 1 - scalar.distortion(d, nbits) == pytest.approx(1 - squared_error, rel=1e-10)


@pytest.mark.parametrize("nbits", WIDTHS)
def test_distortion_equals_the_table(nbits):
    for d, expected in zip(TABLE_DIMS, TABLE[nbits], strict=True):
        assert scalar.distortion(d, nbits) == pytest.approx(expected, rel=1e-4)
    assert scalar.distortion(65536, nbits) == pytest.approx(GAUSSIAN[nbits], rel=2e-4)


@pytest.mark.parametrize("d", DIMS)
def test_one_bit_closed_form(d):
    assert abs(scalar.distortion(d, 1) - reference.one_bit_distortion(d)) <= 1e-12


@pytest.mark.parametrize("nbits", WIDTHS)
def test_three_dimensions_are_uniform(nbits):
    levels = 2**nbits
    np.testing.assert_allclose(scalar.centroids(3, nbits), (2 * np.arange(levels) + 1) / levels - 1, atol=1e-12)
    assert scalar.distortion(3, nbits) * 4**nbits == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("d", [4, 5, 8, 16, 33, 63, 64, 65, 96, 128, 200, 384, 768, 1536, 3072, 65536])
def test_distortion_lies_between_the_theorems(d):
    products = [scalar.distortion(d, nbits) * 4**nbits for nbits in WIDTHS]
    assert products[0] > 1
    assert products[-1] < math.sqrt(3) * math.pi / 2
    assert np.all(np.diff(products) > 0)


@pytest.mark.parametrize("nbits", WIDTHS)
def test_entropy(nbits):
    if nbits in GAUSSIAN_ENTROPY:
        assert scalar.entropy(65536, nbits) == pytest.approx(GAUSSIAN_ENTROPY[nbits], abs=1e-4)
    for d in (2, 3, 31, 64, 128, 1536):
        expected = reference.entropy(scalar.centroids(d, nbits), d)
        assert scalar.entropy(d, nbits) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("nbits", WIDTHS)
def test_neighbouring_dimensions_are_close(nbits):
    # The table ends at d = 63 and the series starts at 64: no jump between them.
    scaled = [scalar.centroids(d, nbits) * math.sqrt(d) for d in (62, 63, 64, 65)]
    steps = [np.abs(b - a).max() for a, b in pairwise(scaled)]
    assert steps[1] == pytest.approx((steps[0] + steps[2]) / 2, rel=0.02)
