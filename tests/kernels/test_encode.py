"""Encoding, decoding and scoring of rows against the reference: bytes and scales exactly, floats closely."""

import numpy as np
import pytest
import strategies as sts

from tqvec import Codes, TurboQuant
from tqvec.codec.turboquant import encode_sums
from tqvec.reference import codebook, packing, quantize, rotation, scoring

CASES = [(d, nbits) for d in sts.ODD_DIMS for nbits in (range(1, 9) if d <= 128 else (1, 2, 4, 7, 8))]
SEED = 11


@pytest.mark.parametrize(("d", "nbits"), CASES)
def test_bytes_and_scales_equal_the_reference(d, nbits):
    x = sts.mixed(19, d, seed=d)
    expected = quantize.encode(x, nbits, SEED)
    for rule, scale in quantize.SCALES.items():
        codes = TurboQuant(d, nbits=nbits, seed=SEED, scale=rule).encode(x)
        np.testing.assert_array_equal(codes.data, packing.pack(expected.codes, [(0, d, nbits)]))
        assert codes.scale.tobytes() == scale(expected).astype(np.float32).tobytes()
    sums = encode_sums(TurboQuant(d, nbits=nbits, seed=SEED), x, threads=1)
    for name in ("norm", "dot", "energy"):
        assert getattr(sums, name).tobytes() == getattr(expected, name).tobytes()


@pytest.mark.parametrize("d", [64, 97, 200])
@pytest.mark.parametrize("nbits", [1, 4])
def test_float32_codes_differ_from_accurate_ones_only_at_ties(d, nbits):
    x = sts.normal(200, d, seed=d)
    codes = sts.unpacked(tq := TurboQuant(d, nbits=nbits, seed=SEED), tq.encode(x))
    accurate = quantize.encode(x, nbits, SEED, np.float64, codebook.lloyd_max(d, nbits))
    y = rotation.hadamard(quantize.directions(x), SEED)
    gaps = np.abs(y[..., None] - codebook.thresholds(codebook.frozen(d, nbits))).min(axis=-1)
    assert np.all(gaps[codes != accurate.codes] <= 1e-6)
    assert (codes != accurate.codes).mean() <= 1e-3


@pytest.mark.parametrize("rule", sts.RULES)
@pytest.mark.parametrize("d", sts.ODD_DIMS)
def test_decode(d, rule):
    nbits = 1 + d % 8
    tq = TurboQuant(d, nbits=nbits, seed=SEED, scale=rule)
    codes = tq.encode(sts.mixed(19, d, seed=d))
    shrink = 1 - tq.distortion if rule == "unbiased" else 1.0
    scale = codes.scale.astype(np.float64) * shrink
    expected = quantize.decode(sts.unpacked(tq, codes), scale, codebook.frozen(d, nbits), SEED)
    assert np.all(np.abs(tq.decode(codes) - expected) <= 1e-5 * scale[:, None])


@pytest.mark.parametrize(("d", "nbits"), [(d, 1 + d % 8) for d in sts.ODD_DIMS] + [(100, b) for b in range(1, 9)])
def test_scores_equal_dense_ones(d, nbits):
    tq = TurboQuant(d, nbits=nbits, seed=SEED)
    codes = tq.encode(sts.mixed(35, d, seed=d))
    queries = sts.normal(7, d, seed=d + 1)
    rotated = rotation.hadamard(queries, SEED, np.float32)
    levels = codebook.frozen(d, nbits).astype(np.float32)[sts.unpacked(tq, codes)]
    expected = scoring.scores(rotated, levels, codes.scale)
    terms = scoring.magnitude(rotated, levels, codes.scale)
    assert np.all(np.abs(tq.inner_product(queries, codes) - expected) <= 1e-5 * terms)


@pytest.mark.parametrize("d", [1, 31, 128, 200])
def test_scores_of_each_query_and_row_stand_alone(d):
    tq = TurboQuant(d, nbits=3, seed=SEED)
    codes = tq.encode(sts.normal(37, d))
    queries = sts.normal(6, d, seed=1)
    together = tq.inner_product(queries, codes)
    for q in range(6):
        np.testing.assert_array_equal(tq.inner_product(queries[q], codes)[0], together[q])
    parts = [tq.inner_product(queries, codes[i : i + 5]) for i in range(0, 37, 5)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), together)


def test_nothing_is_encoded_from_nothing():
    tq = TurboQuant(10, nbits=2)
    codes = tq.encode(np.zeros((0, 10), np.float32))
    assert codes.data.shape == (0, 3)
    assert tq.decode(codes).shape == (0, 10)
    assert tq.inner_product(np.zeros((2, 10), np.float32), codes).shape == (2, 0)


def test_forged_codes_decode_to_something_finite():
    tq = TurboQuant(13, nbits=5)
    data = np.full((3, tq.code_size - 4), 255, np.uint8)  # padding bits set as well
    clean = data.copy()
    clean[:, -1] = 1  # 65 bits: one in the last byte
    scale = np.ones(3, np.float32)
    np.testing.assert_array_equal(tq.decode(Codes(data, scale)), tq.decode(Codes(clean, scale)))
