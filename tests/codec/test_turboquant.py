"""Properties 9-12 and 14-18 of the specification: what holds for every single vector."""

import numpy as np
import pytest
import strategies as sts
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tqvec import TurboQuant
from tqvec.codec.codebooks import scalar
from tqvec.codec.turboquant import encode_sums
from tqvec.reference import quantize, scoring


def directions_off_ties(tq, x, margin=1e-5):
    """Rotated directions (float64), and which of their coordinates are farther from a threshold than rounding goes."""
    y = tq.transform.rotate(quantize.directions(x)).astype(np.float64)
    gaps = np.abs(y[..., None] - scalar.thresholds(tq.d, tq.nbits)).min(axis=-1)
    return y, gaps > margin * np.abs(scalar.centroids(tq.d, tq.nbits)).min()


@given(sts.rows(), sts.nbits, sts.seeds)
def test_every_code_is_the_nearest_centroid(x, nbits, seed):
    tq = TurboQuant(x.shape[1], nbits=nbits, seed=seed)
    y, clear = directions_off_ties(tq, x)
    codes = sts.unpacked(tq, tq.encode(x))
    np.testing.assert_array_equal(codes[clear], quantize.nearest(y, scalar.centroids(tq.d, nbits))[clear])


@given(sts.rows(), sts.nbits, sts.seeds)
def test_quantizing_twice_changes_nothing(x, nbits, seed):
    tq = TurboQuant(x.shape[1], nbits=nbits, seed=seed, scale="norm")
    codes = tq.encode(x)
    again = tq.transform.rotate(tq.decode(type(codes)(codes.data, np.ones(len(codes), np.float32))))
    np.testing.assert_array_equal(
        quantize.count_thresholds(again, scalar.thresholds(tq.d, nbits)), sts.unpacked(tq, codes)
    )


@given(sts.rows(), sts.nbits, sts.seeds, st.integers(-60, 60), st.sampled_from(sts.RULES))
def test_powers_of_two_change_only_the_scale(x, nbits, seed, power, rule):
    tq = TurboQuant(x.shape[1], nbits=nbits, seed=seed, scale=rule)
    codes, scaled = tq.encode(x), tq.encode(np.ldexp(x, power))
    np.testing.assert_array_equal(codes.data, scaled.data)
    np.testing.assert_array_equal(np.ldexp(codes.scale, power), scaled.scale)


@given(sts.rows(), sts.nbits, sts.seeds)
def test_negation_mirrors_the_codes(x, nbits, seed):
    tq = TurboQuant(x.shape[1], nbits=nbits, seed=seed)
    y = tq.transform.rotate(quantize.directions(x))
    ties = np.isin(y, scalar.thresholds(tq.d, nbits).astype(np.float32))
    codes, mirrored = tq.encode(x), tq.encode(-x)
    expected = 2**nbits - 1 - sts.unpacked(tq, codes)
    np.testing.assert_array_equal(sts.unpacked(tq, mirrored)[~ties], expected[~ties])
    if not ties.any():
        np.testing.assert_array_equal(codes.scale, mirrored.scale)


@given(sts.rows(), sts.nbits, sts.seeds)
def test_inner_product_with_itself(x, nbits, seed):
    tq = TurboQuant(x.shape[1], nbits=nbits, seed=seed)
    squares = np.einsum("ij,ij->i", x, x, dtype=np.float64)
    np.testing.assert_allclose(np.diag(tq.inner_product(x, tq.encode(x))), squares, rtol=1e-5)


@given(sts.rows(), sts.nbits, sts.seeds, st.integers(-126, 100))
def test_every_vector_lies_on_its_codes_side(x, nbits, seed, power):
    x = np.ldexp(x, power)  # down to subnormal numbers
    tq = TurboQuant(x.shape[1], nbits=nbits, seed=seed)
    encoded = encode_sums(tq, x, threads=1)
    alive = x.any(axis=1)
    assert np.all(encoded.dot[alive] > 0)
    assert np.all(encoded.dot[~alive] == 0)
    scale = tq.encode(x).scale
    assert np.all(scale[alive] > 0)
    assert np.all(scale[~alive] == 0)


@given(sts.rows(), sts.nbits, sts.seeds)
def test_least_squares_never_loses(x, nbits, seed):
    errors = {}
    for rule in ("norm", "least_squares"):
        tq = TurboQuant(x.shape[1], nbits=nbits, seed=seed, scale=rule)
        errors[rule] = np.linalg.norm(x.astype(np.float64) - tq.decode(tq.encode(x)), axis=1)
    slack = 1e-5 * np.linalg.norm(x.astype(np.float64), axis=1)
    assert np.all(errors["least_squares"] <= errors["norm"] + slack)


@pytest.mark.parametrize("nbits", range(1, 9))
@pytest.mark.parametrize("d", [2, 31, 64, 200])
def test_least_squares_is_the_best_multiple(d, nbits):
    x = sts.normal(50, d, seed=d)
    tq = TurboQuant(d, nbits=nbits, seed=4, scale="least_squares")
    x_hat = tq.decode(tq.encode(x)).astype(np.float64)
    residual = np.einsum("ij,ij->i", x - x_hat, x_hat)
    assert np.abs(residual).max() <= 1e-5 * np.einsum("ij,ij->i", x_hat, x_hat).max()


@example(np.array([[1.84375, 4.1640625]], np.float32), 6, 5, 10)  # an angle of 0.0005
@given(sts.rows(), sts.nbits, sts.seeds, st.integers(0, 10**6))
def test_errors_stay_within_their_bounds(x, nbits, seed, query_seed):
    d = x.shape[1]
    assume(d > 1)
    y = sts.normal(3, d, seed=query_seed)
    x64, y64 = x.astype(np.float64), y.astype(np.float64)
    lengths, y_lengths = np.linalg.norm(x64, axis=1), np.linalg.norm(y64, axis=1)
    true = y64 @ x64.T
    slack = 3e-5 * y_lengths[:, None] * lengths

    tq = TurboQuant(d, nbits=nbits, seed=seed, scale="norm")
    codes = tq.encode(x)
    missing = np.linalg.norm(x64 - tq.decode(codes), axis=1)
    assert np.all(np.abs(tq.inner_product(y, codes) - true) <= y_lengths[:, None] * missing + slack)

    tq = TurboQuant(d, nbits=nbits, seed=seed)
    codes, sums = tq.encode(x), encode_sums(tq, x, threads=1)
    alive = lengths > 0
    tangent = scoring.tan_theta(sums.dot[alive], sums.energy[alive])
    tangent = np.sqrt(tangent**2 + 2.0**-22)  # the sums are float32: their rounding hides smaller angles
    across = y_lengths[:, None] ** 2 - (true[:, alive] / lengths[alive]) ** 2
    bound = lengths[alive] * np.sqrt(np.maximum(across, 0)) * tangent
    error = np.abs(tq.inner_product(y, codes) - true)
    assert np.all(error[:, alive] <= bound + slack[:, alive] * (1 + tangent))
    assert np.all(error[:, ~alive] == 0)


@pytest.mark.parametrize("rule", sts.RULES)
@pytest.mark.parametrize("rotation", ["hadamard", "haar"])
def test_scores_are_inner_products_with_what_is_decoded(rotation, rule):
    d = 50
    tq = TurboQuant(d, nbits=3, seed=9, rotation=rotation, scale=rule)
    x, y = sts.mixed(40, d), sts.normal(5, d, seed=1)
    codes = tq.encode(x)
    shrink = 1 - tq.distortion if rule == "unbiased" else 1.0
    expected = y.astype(np.float64) @ (tq.decode(codes).astype(np.float64) / shrink).T
    size = np.linalg.norm(y, axis=1)[:, None] * np.abs(codes.scale)
    assert np.all(np.abs(tq.inner_product(y, codes) - expected) <= 1e-5 * size)


def test_haar_encodes_as_its_matrix_says():
    d = 24
    tq = TurboQuant(d, nbits=4, seed=2, rotation="haar")
    x = sts.normal(100, d)
    matrix = tq.transform.rotate(np.eye(d, dtype=np.float32)).astype(np.float64)  # row i: the rotated e_i
    y = quantize.directions(x).astype(np.float64) @ matrix
    clear = np.abs(y[..., None] - scalar.thresholds(d, 4)).min(axis=-1) > 1e-5
    codes = sts.unpacked(tq, tq.encode(x))
    np.testing.assert_array_equal(codes[clear], quantize.nearest(y, scalar.centroids(d, 4))[clear])
    assert clear.mean() > 0.99
