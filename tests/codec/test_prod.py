"""Algorithm 2: a first stage of one bit less, and QJL on what it leaves over."""

import math

import numpy as np
import pytest
import strategies as sts
from hypothesis import given

from tqvec import Codes, Index, TurboQuant
from tqvec.codec.codebooks import scalar
from tqvec.codec.qjl import PROJECTIONS
from tqvec.errors import InputError
from tqvec.reference import packing, prod, rotation

SEED = 11
KINDS = ("gaussian", "hadamard")
FACTORS = {"gaussian": lambda d: math.sqrt(math.pi / 2) / d, "hadamard": prod.structured_factor}
ERRORS = {"gaussian": prod.gaussian_error, "hadamard": prod.structured_error}


def made(d, nbits, qjl="hadamard", **options):
    return TurboQuant(d, nbits=nbits, mode="prod", qjl=qjl, **options)


def matrices(tq):
    """Π, and S for the rotated basis, in float64."""
    basis = tq.transform.rotate(np.eye(tq.d, dtype=np.float32)).T.astype(np.float64)
    if tq.qjl == "gaussian":
        return basis, prod.seeded_gaussian(tq.d, tq.seed).astype(np.float64)
    return basis, prod.structured(tq.d, tq.seed)


def bytes_of(codes):
    return codes.data.tobytes(), codes.scale.tobytes(), codes.gamma.tobytes()


@pytest.mark.parametrize(("d", "nbits"), [(d, 1 + i % 8) for i, d in enumerate(sts.ODD_DIMS)] + [(64, 1), (100, 2.5)])
def test_bytes_equal_the_reference(d, nbits):
    x = sts.mixed(19, d, seed=d)
    tq = made(d, nbits, seed=SEED)
    codes, norm, gamma = prod.encode_rows(x, sts.bands(tq), SEED)
    expected = (packing.pack(codes, sts.bands(tq)), norm.astype(np.float32), gamma.astype(np.float32))
    assert bytes_of(tq.encode(x)) == tuple(part.tobytes() for part in expected)


@pytest.mark.parametrize("qjl", KINDS)
@pytest.mark.parametrize(("d", "nbits"), [(31, 1), (97, 3), (128, 8), (100, 3.5)])
def test_batches_and_threads_change_nothing(d, nbits, qjl):
    x = np.tile(sts.mixed(37, d, seed=d), (20, 1))  # several times the rows that a thread takes at least
    tq = made(d, nbits, qjl, seed=SEED)
    whole = tq.encode(x, threads=1)
    assert bytes_of(tq.encode(x, threads=3)) == bytes_of(whole)
    assert bytes_of(tq.encode(x[::-1]))[0] == whole.data[::-1].tobytes()
    for size in (1, 15, 17):
        parts = [bytes_of(tq.encode(x[i : min(i + size, 37)])) for i in range(0, 37, size)]
        assert tuple(b"".join(part) for part in zip(*parts, strict=True)) == bytes_of(whole[:37])
    assert len({tq.decode(whole, threads=threads).tobytes() for threads in (1, 3)}) == 1
    assert len({tq.inner_product(x[:3], whole, threads=threads).tobytes() for threads in (1, 3)}) == 1


@pytest.mark.parametrize("kind", ["hadamard", "haar"])
@pytest.mark.parametrize("qjl", KINDS)
@pytest.mark.parametrize(("d", "nbits"), [(48, 1), (48, 2), (48, 4), (130, 2)])  # four rounds and three
def test_equals_the_paper(d, nbits, qjl, kind):
    """Codes are those of Algorithm 2 with dense float64 matrices, off ties; so are vectors and scores."""
    x, y = sts.normal(60, d), sts.normal(7, d, seed=1)
    length = np.linalg.norm(x.astype(np.float64), axis=1)
    tq = made(d, nbits, qjl, seed=SEED, rotation=kind)
    basis, s = matrices(tq)
    expected = prod.encode(x / length[:, None], nbits, basis, s @ basis)
    codes = tq.encode(x)
    unpacked = sts.unpacked(tq, codes)
    agree = np.all(unpacked == 2 * expected.codes + (expected.signs > 0), axis=1)
    assert agree.mean() > 0.95
    np.testing.assert_allclose(codes.gamma[agree], (length * expected.gamma)[agree], rtol=1e-5)
    x_hat = length[:, None] * prod.decode(expected, nbits, basis, s @ basis, FACTORS[qjl](d))
    decoded = tq.decode(codes)
    assert np.all(np.abs(decoded - x_hat)[agree] <= 2e-5 * length[agree, None])
    scores = y.astype(np.float64) @ decoded.astype(np.float64).T
    scale = np.linalg.norm(y, axis=1)[:, None] * length
    assert np.all(np.abs(tq.inner_product(y, codes) - scores) <= 2e-5 * scale)


def test_the_projection_has_random_bits_of_its_own():
    for seed in (0, 1, 2**64 - 1):
        first, second = made(64, 2, seed=seed), PROJECTIONS["hadamard"](64, seed).tables
        turned = first.transform.rotate(np.eye(64, dtype=np.float32))
        again = rotation.hadamard(np.eye(64), seed, first=prod.STRUCTURED)
        assert np.abs(turned @ again.T).max() < 0.9  # 1 where they are the same; both are orthogonal
        assert not np.array_equal(second.perm, first.transform.tables.perm)
    drawn = [PROJECTIONS["gaussian"](8, seed).tables.matrix.tobytes() for seed in (0, 1, 2**32, 2**64 - 1)]
    assert len(set(drawn)) == 4


@given(sts.rows(), sts.nbits, sts.seeds)
def test_zeros_powers_and_lengths(x, nbits, seed):
    tq = made(x.shape[1], nbits, seed=seed)
    codes, scaled = tq.encode(x), tq.encode(np.ldexp(x, 9))
    alive = x.any(axis=1)
    assert np.array_equal(codes.scale > 0, alive)
    assert np.all(codes.gamma[~alive] == 0)
    assert np.all(tq.decode(codes)[~alive] == 0)
    assert np.array_equal(codes.data, scaled.data)
    assert np.array_equal(np.ldexp(codes.gamma, 9), scaled.gamma)
    np.testing.assert_allclose(codes.scale, np.linalg.norm(x.astype(np.float64), axis=1), rtol=1e-6)


def test_bytes_a_vector_and_names():
    assert [made(128, b).code_size for b in (1, 2, 2.5, 4)] == [24, 40, 44, 72]
    codes = made(128, 2).encode(sts.normal(10, 128))
    assert codes.nbytes == 400
    assert len(codes[2:5]) == len(codes[2:5].gamma) == 3
    assert made(128, 2).scale_rule == "norm"
    assert made(128, 2, scale="norm").qjl == "hadamard"
    assert TurboQuant(128, mode="prod").qjl == "gaussian"
    assert TurboQuant(128).qjl is None
    assert "mode='prod', qjl='hadamard'" in repr(made(128, 2))


def test_fingerprints():
    codecs = [made(32, b, qjl, seed=seed) for b in (2, 3) for qjl in KINDS for seed in (0, 1)]
    prints = {tq.fingerprint for tq in (*codecs, TurboQuant(32, nbits=2), TurboQuant(32, nbits=1))}
    assert len(prints) == 10
    assert made(32, 2).fingerprint in prints


def test_lengths_near_the_end_of_float32():
    x = np.full((1, 4), 1.5e38)
    for qjl in KINDS:
        tq = made(4, 1, qjl)
        codes = tq.encode(x)
        assert np.all(np.isfinite(codes.gamma))
        tq.decode(codes)  # may be infinite, but doesn't warn
        tq.inner_product(x, codes)


def test_nothing_and_one_dimension():
    for qjl in KINDS:
        tq = made(10, 2, qjl)
        codes = tq.encode(np.zeros((0, 10), np.float32))
        assert tq.decode(codes).shape == (0, 10)
        assert tq.inner_product(np.ones(10, np.float32), codes).shape == (1, 0)
        one = made(1, 2, qjl)
        sample = one.encode(np.array([[3.0], [-2.0], [0.0]]))
        np.testing.assert_allclose(one.decode(sample), [[3], [-2], [0]], atol=1e-6)


@pytest.mark.parametrize("rule", ["unbiased", "least_squares", "best", 3])
def test_other_scales_are_refused(rule):
    with pytest.raises(InputError, match="^scale of mode 'prod' must be one of 'norm'"):
        made(8, 2, scale=rule)


def test_bad_arguments():
    with pytest.raises(InputError, match="^qjl must be one of 'gaussian', 'hadamard'"):
        made(8, 2, "haar")
    with pytest.raises(InputError, match="^qjl belongs to mode='prod'"):
        TurboQuant(8, qjl="hadamard")
    with pytest.raises(InputError, match="^d must be at most 8192 with qjl='gaussian', got 8193"):
        made(8193, 2, "gaussian")
    with pytest.raises(TypeError):
        Index(8, mode="prod")
    with pytest.raises(InputError, match="x row 1 is too long"):
        made(8, 2).encode(np.array([[1.0] * 8, [3e38] * 8]))
    with pytest.raises(InputError, match="x row 0 holds NaN"):
        made(8, 2).encode(np.full((1, 8), np.nan))
    codes, plain = made(8, 2).encode(np.ones((2, 8))), TurboQuant(8, nbits=2).encode(np.ones((2, 8)))
    with pytest.raises(InputError, match=r"^codes.gamma must be None"):
        TurboQuant(8, nbits=2).decode(codes)
    for gamma in (None, codes.gamma[:1], codes.gamma.astype(np.float64)):
        with pytest.raises(InputError, match=r"^codes.gamma must be \(2,\) float32"):
            made(8, 2).inner_product(np.ones(8), Codes(plain.data, plain.scale, gamma))


@pytest.mark.parametrize("qjl", KINDS)
@pytest.mark.parametrize("nbits", [1, 2, 3, 4, 2.5])
def test_mean_distortion(nbits, qjl):
    """E‖x − x̃‖² is D of the first stage times that of the projection, over eight draws of S."""
    d, n = 128, 1024
    x = sts.unit(n, d, seed=19).astype(np.float32)
    squares = []
    for seed in range(8):
        tq = made(d, nbits, qjl, seed=seed)
        error = x - tq.decode(tq.encode(x))
        squares.append(np.einsum("ij,ij->i", error, error, dtype=np.float64))
    first = sum((b.stop - b.start) / d * scalar.distortion(d, b.nbits - 1) for b in tq.bands)
    assert tq.distortion == pytest.approx(first * ERRORS[qjl](d), rel=1e-9)
    assert np.mean(squares) == pytest.approx(tq.distortion, rel=0.02)


def errors_of(tq, x, y):
    """Errors of the estimated products of row i and row i."""
    estimate = np.einsum("ij,ij->i", y, tq.decode(tq.encode(x)), dtype=np.float64)
    return estimate - np.einsum("ij,ij->i", y, x, dtype=np.float64)


@pytest.mark.slow
@pytest.mark.parametrize("qjl", KINDS)
@pytest.mark.parametrize("nbits", [1, 2, 4])
@pytest.mark.parametrize("cosine", [0.0, 0.6, 1.0])
def test_unbiased(cosine, nbits, qjl):
    """200 draws of the rotations and of S. One Gaussian S has a bias of its own, so draws are what counts."""
    d, n, draws = 64, 64, 200
    means = []
    for seed in range(draws):
        x, y = (v.astype(np.float32) for v in sts.pairs(n, d, cosine, seed=seed))
        means.append(errors_of(made(d, nbits, qjl, seed=seed), x, y).mean())
    assert abs(np.mean(means)) <= 7 * np.std(means) / math.sqrt(draws)


@pytest.mark.parametrize("cosine", [0.0, 0.6])
def test_qjl_alone(cosine):
    """Property 24, at one bit: 20,000 pairs, 200 a draw of S."""
    d, n, draws = 64, 200, 100
    errors = []
    for seed in range(draws):
        x, y = (v.astype(np.float32) for v in sts.pairs(n, d, cosine, seed=1000 + seed))
        errors.append(errors_of(made(d, 1, "gaussian", seed=seed), x, y))
    values, variance = np.concatenate(errors), prod.qjl_variance(cosine, d)
    assert abs(values.mean()) <= 7 * math.sqrt(variance / values.size)
    assert abs(values.var() / variance - 1) <= 0.08


@pytest.mark.slow
@pytest.mark.parametrize(("nbits", "expected"), [(1, 2.75), (2, 4.29), (3, 5.16), (4, 5.66)])
def test_variance_over_that_of_the_unbiased_scale(nbits, expected):
    """Section 3 of the specification, Gaussian S at s = 0, within 8 %; an orthogonal S is 2.75 times better."""
    d, n, draws = 128, 2000, 10
    variance = dict.fromkeys(("unbiased", *KINDS), 0.0)
    for seed in range(draws):
        x, y = (v.astype(np.float32) for v in sts.pairs(n, d, 0.0, seed=300 + seed))
        plain = TurboQuant(d, nbits=nbits, seed=seed)
        codes = plain.encode(x)
        error = sts.diagonal_scores(plain, y, codes)
        variance["unbiased"] += float(np.mean(error**2))
        for qjl in KINDS:
            variance[qjl] += float(np.mean(errors_of(made(d, nbits, qjl, seed=seed), x, y) ** 2))
    assert variance["gaussian"] / variance["unbiased"] == pytest.approx(expected, rel=0.08)
    assert variance["gaussian"] / variance["hadamard"] == pytest.approx(2.75, rel=0.08)
