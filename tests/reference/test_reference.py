"""The oracle is tested by facts that it was not written from."""

import math

import numpy as np
import pytest
import strategies as sts
from hypothesis import given
from hypothesis import strategies as st

from tqvec.reference import codebook, packing, prod, quantize, rotation, scoring, splitmix


def test_splitmix_matches_the_published_sequence():
    gamma = 0x9E3779B97F4A7C15  # Java's SplittableRandom(0); Vigna's splitmix64.c with state 0
    outputs = [splitmix.mix(gamma * i % 2**64) for i in (1, 2, 3)]
    assert outputs == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_streams_differ():
    words = {splitmix.word(seed, stream, i) for seed in (0, 1, 2**64 - 1) for stream in range(8) for i in (1, 2)}
    assert len(words) == 3 * 8 * 2


@pytest.mark.parametrize("d", [1, 2, 3, 31, 97, 128, 200])
def test_rotations_are_orthogonal(d):
    for matrix in (rotation.haar(d, sts.rng(d)), rotation.hadamard_matrix(d, seed=d)):
        assert np.abs(matrix @ matrix.T - np.eye(d)).max() <= 1e-12


def test_transform_is_the_hadamard_matrix():
    h = np.array([[1.0]])
    for _ in range(4):
        h = np.kron([[1, 1], [1, -1]], h)
    x = sts.normal(3, 16).astype(np.float64)
    np.testing.assert_allclose(rotation.transform_blocks(x, [16]), x @ h, atol=1e-13)


@pytest.mark.parametrize("d", [1, 7, 100, 200])
def test_hadamard_inverse(d):
    x = sts.unit(3, d, seed=d)
    np.testing.assert_allclose(rotation.hadamard_inverse(rotation.hadamard(x, 5), 5), x, atol=1e-13)


def test_haar_has_the_right_signs():
    # Without the sign fix LAPACK's Q has a diagonal that is mostly negative.
    corner = [rotation.haar(3, sts.rng(seed))[0, 0] for seed in range(2000)]
    assert abs(np.mean(corner)) <= 7 / math.sqrt(3 * 2000)


@pytest.mark.parametrize("d", [2, 3, 4, 9, 64, 1001])
def test_density_and_cdf(d):
    t = np.linspace(-0.9, 0.9, 7) * min(1, 4 / math.sqrt(d))
    h = 1e-6
    slope = (codebook.cdf(t + h, d) - codebook.cdf(t - h, d)) / (2 * h)
    np.testing.assert_allclose(slope, codebook.density(t, d), rtol=1e-6, atol=1e-6)
    assert codebook.probabilities(np.array([0.1]), d).sum() == pytest.approx(0.5, abs=1e-12)


def test_lloyd_max_on_the_uniform_density():
    c = codebook.lloyd_max(3, 5)  # d = 3: Archimedes, a coordinate is uniform on [-1, 1]
    np.testing.assert_allclose(c, (2 * np.arange(32) + 1) / 32 - 1, atol=1e-12)


def test_packing_example_of_the_format():
    assert packing.pack(np.array([[2, 1, 3]]), [(0, 3, 2)]).tolist() == [[0x35]]


@given(st.lists(st.tuples(st.integers(1, 12), sts.nbits), min_size=1, max_size=3), st.integers(0, 99))
def test_packing_round_trip(shape, seed):
    ends = np.cumsum([n for n, _ in shape])
    layout = [(int(end) - n, int(end), width) for end, (n, width) in zip(ends, shape, strict=True)]
    high = np.concatenate([np.full(n, 2**width) for n, width in shape])
    codes = sts.rng(seed).integers(0, high, (3, high.size))
    data = packing.pack(codes, layout)
    assert data.shape == (3, math.ceil(sum(n * width for n, width in shape) / 8))
    np.testing.assert_array_equal(packing.unpack(data, layout), codes)


def test_counting_thresholds_finds_the_nearest():
    c = codebook.frozen(64, 4)
    y = sts.unit(20, 64)
    np.testing.assert_array_equal(quantize.count_thresholds(y, codebook.thresholds(c)), quantize.nearest(y, c))


def test_a_value_on_a_threshold_goes_down():
    assert quantize.count_thresholds(np.array([0.0, -0.0, 1.0]), np.array([0.0])).tolist() == [0, 0, 1]


def test_lane_sum():
    terms = sts.rng(0).standard_normal((5, 37))
    np.testing.assert_allclose(quantize.lane_sum(terms), terms.sum(axis=1), atol=1e-13)
    order = np.array([[1.0, 0, 0, 0, 2.0**-53, 2.0**-53, 0, 0]])  # p0 + p4 rounds before p5 arrives
    assert quantize.lane_sum(order)[0] == 1.0


@pytest.mark.parametrize("k", [1, 3, 8])
def test_top_k(k):
    values = sts.rng(1).integers(0, 4, (5, 8)).astype(float)
    best, ids = scoring.top_k(values, k)
    for row in range(5):
        expected = sorted(range(8), key=lambda i: (-values[row, i], i))[:k]
        assert ids[row].tolist() == expected
        assert best[row].tolist() == values[row, expected].tolist()


@pytest.mark.parametrize("cosine", [0.0, 0.6])
def test_qjl_moments(cosine):
    """Property 24: mean within 7 σ/√N, variance ratio 1 ± 0.08, 20,000 pairs (200 a fresh S)."""
    d, per, draws = 16, 200, 100
    estimates = []
    for draw in range(draws):
        s = prod.gaussian(d, sts.rng(draw))
        x, y = sts.pairs(per, d, cosine, seed=1000 + draw)
        x_hat = prod.qjl_inverse(prod.qjl(x, s), s, np.ones(per))
        estimates.append(np.einsum("ij,ij->i", x_hat, y))
    values = np.concatenate(estimates)
    variance = prod.qjl_variance(cosine, d)
    assert abs(values.mean() - cosine) <= 7 * math.sqrt(variance / values.size)
    assert abs(values.var() / variance - 1) <= 0.08


@pytest.mark.parametrize("d", [2, 3, 8, 16])
def test_qjl_with_an_orthogonal_projection(d):
    """Its factor is below the Gaussian one by 1/(4d), its squared error D/(1 − D) at one bit; 4,000 fresh S."""
    factor = prod.structured_factor(d)
    assert factor == pytest.approx(math.sqrt(math.pi / 2) / d * (1 - 1 / (4 * d)), rel=0.06 / d**2)
    x, products = sts.unit(1, d, seed=d), []
    for draw in range(4000):
        s = math.sqrt(d) * rotation.haar(d, sts.rng(draw))
        x_hat = prod.qjl_inverse(prod.qjl(x, s), s, np.ones(1), factor)
        assert (x_hat**2).sum() - 1 == pytest.approx(prod.structured_error(d), rel=1e-9)
        products.append((x_hat * x).sum())
    assert abs(np.mean(products) - 1) <= 7 * np.std(products) / math.sqrt(len(products))


@pytest.mark.parametrize("nbits", [1, 2, 3])
def test_prod_is_unbiased_and_has_the_variance_of_theorem_2(nbits):
    d, per, draws, cosine = 32, 100, 60, 0.5
    errors = []
    for draw in range(draws):
        matrix = rotation.haar(d, sts.rng(2 * draw))
        s = prod.gaussian(d, sts.rng(2 * draw + 1))
        x, y = sts.pairs(per, d, cosine, seed=5000 + draw)
        errors.append(prod.inner_product(y, prod.encode(x, nbits, matrix, s), nbits, matrix, s) - cosine)
    error = np.concatenate(errors)
    assert abs(error.mean()) <= 7 * error.std() / math.sqrt(error.size)
    first = codebook.distortion(codebook.lloyd_max(d, nbits - 1), d) if nbits > 1 else 1.0
    assert error.var() <= 1.1 * math.pi / (2 * d) * first
    assert error.var() >= 0.6 * math.pi / (2 * d) * first


def test_error_bound_has_the_constant_of_theorem_1():
    assert quantize.error_bound(1) * 4 == pytest.approx(2.7207, abs=1e-4)
