"""tan θ in the low byte of a scale: what it costs the scale, what it keeps, and what has none."""

import numpy as np
import pytest
import strategies as sts

import tqvec
from tqvec.codec import error_byte
from tqvec.codec.axes import find_axes
from tqvec.codec.calibration import Budget, calibrate
from tqvec.codec.turboquant import encode_sums
from tqvec.reference import quantize as reference

N = 200_000
EXTREMES = np.array([0.0, 1e-45, 1e-40, 1.1754944e-38, 1.2e-38, 3.4028235e38, 1.0, 1.9999999, 2.0], np.float32)


def scales():
    rng = sts.rng(1)
    return (np.exp(rng.uniform(-86, 88, N)) * rng.choice([-1, 1], N)).astype(np.float32)


def test_scales_move_little_and_without_bias():
    scale, tangent = scales(), 2.0 ** sts.rng(2).uniform(-11, 4.8, N)
    change = error_byte.with_error_byte(scale, tangent).astype(np.float64) / scale - 1
    assert np.abs(change).max() <= 2.0**-16
    assert abs(change.mean()) <= 7 * change.std() / np.sqrt(N)


@pytest.mark.parametrize("n", [0, 1, 7, 33, N])
def test_scales_are_those_of_the_reference(n):
    rng = sts.rng(7)
    tangent = 2.0 ** rng.uniform(-14, 8, N)
    tangent[: 5 * 255] = np.outer([0.97, 0.9999, 1, 1.0001, 1.03], 2.0 ** (np.arange(255) / 16 - 11)).ravel()
    tangent[5000:5005] = np.nan, 0, np.inf, 1e-300, 1e300
    order = rng.permutation(N)[:n]
    scale = np.concatenate([EXTREMES, -EXTREMES, scales()])[:N]
    expected = reference.with_error_byte(scale[order], tangent[order])
    for threads in (1, 3):
        actual = error_byte.with_error_byte(scale[order], tangent[order], threads)
        assert np.array_equal(actual.view(np.uint32), expected.view(np.uint32))


def test_tangents_keep_a_thirty_second_of_an_octave():
    tangent = 2.0 ** sts.rng(3).uniform(-11, 4.8, N)
    kept = error_byte.read_error_byte(error_byte.with_error_byte(scales(), tangent))
    assert np.abs(np.log2(kept / tangent)).max() <= 1 / 32 + 1e-9
    ends = error_byte.with_error_byte(np.ones(4, np.float32), np.array([0, 1e-9, 1e9, np.inf]))
    assert error_byte.read_error_byte(ends).tolist() == [2.0**-11, 2.0**-11, 2.0**4.875, 2.0**4.875]


@pytest.mark.parametrize("tangent", [2.0**-11, 0.1, 1.0, 29.0, np.nan])
def test_extreme_scales(tangent):
    for sign in (1, -1):
        scale = (sign * EXTREMES).astype(np.float32)
        packed = error_byte.with_error_byte(scale, np.full(scale.size, tangent))
        assert np.isfinite(packed).all()
        assert np.array_equal(np.signbit(packed), np.signbit(scale))
        assert np.array_equal(packed[:3], scale[:3])  # zero, and what float32 holds with fewer bits
        np.testing.assert_allclose(packed[3:], scale[3:], rtol=2.0**-15)
        kept = error_byte.read_error_byte(packed)
        assert np.isnan(kept[:3]).all()
        assert np.isnan(kept[5:]).all() == np.isnan(tangent)


def test_unknown_tangents():
    scale = error_byte.with_error_byte(scales(), np.full(N, 0.3))
    gone = error_byte.clear_error_byte(scale)
    assert np.isnan(error_byte.read_error_byte(gone)).all()
    assert np.array_equal(error_byte.clear_error_byte(gone), gone)
    np.testing.assert_allclose(gone, scale, rtol=2.0**-16)


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("codebook", ["scalar", "trellis"])
@pytest.mark.parametrize("nbits", [1, 2.5, 4])
def test_tangents_are_of_the_angle_to_what_codes_stand_for(nbits, codebook, calibrated):
    codec = tqvec.TurboQuant(96, nbits=nbits, codebook=codebook, seed=3)
    if calibrated:
        x = sts.normal(2000, 96) / np.sqrt(np.arange(1, 97, dtype=np.float32))
        bits = sum((band.stop - band.start) * band.nbits for band in codec.bands)
        codec = codec.calibrated(calibrate(find_axes(x), Budget(bits, codebook, 3)))
    x = sts.normal(200, 96, seed=4)
    x[7] = codec.centre  # the zero residual has no angle
    codes = codec.encode(x)
    eye = np.eye(96, dtype=np.float32)
    stands_for = (codec.inner_product(eye, codes) - codec.transform.centre_products(eye)[:, None]).T.astype(np.float64)
    residual = x.astype(np.float64) - codec.centre
    lengths = np.linalg.norm(residual, axis=1) * np.linalg.norm(stands_for, axis=1)
    keep = np.arange(200) != 7
    cosine = np.sum(residual * stands_for, axis=1)[keep] / lengths[keep]
    found = encode_sums(codec, x).tan_theta()
    assert not np.isfinite(found[7])
    ratio = found[keep] / np.sqrt(1 / cosine**2 - 1)
    if calibrated:  # the angle of a vector rounded to bytes, which is right on average
        assert ratio.mean() == pytest.approx(1, abs=0.02)
        assert ratio.std() < 0.06
    else:
        np.testing.assert_allclose(ratio, 1, rtol=2e-3)
