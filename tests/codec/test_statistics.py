"""Properties 19-23 of the specification: means and variances, with its tolerances.

Vectors are uniform on the sphere, and a pair at a fixed cosine is jointly uniform, so one rotation serves: the pair is
distributed as one pair under fresh Haar rotations would be. `test_fresh_rotations` does it the other way round.
"""

import math

import numpy as np
import pytest
import strategies as sts

from tqvec import TurboQuant
from tqvec.codec.codebooks import scalar
from tqvec.codec.turboquant import encode_sums
from tqvec.reference import scoring

N = 2048


@pytest.mark.parametrize(
    ("d", "n", "tolerances"),
    [
        (128, 2048, (0.023, 0.028, 0.036, 0.048)),
        (200, 5000, (0.012, 0.015, 0.018, 0.024)),
        (768, 5209, (0.007, 0.008, 0.010, 0.012)),
    ],
)
def test_mean_distortion(d, n, tolerances):
    x = sts.unit(n, d, seed=19).astype(np.float32)
    for nbits, tolerance in enumerate(tolerances, start=1):
        tq = TurboQuant(d, nbits=nbits, seed=1, scale="norm")
        error = x - tq.decode(tq.encode(x))
        mean = np.einsum("ij,ij->", error, error, dtype=np.float64) / n
        assert mean == pytest.approx(scalar.distortion(d, nbits), rel=tolerance)
        assert tq.distortion == scalar.distortion(d, nbits)


@pytest.mark.parametrize("cosine", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("nbits", [1, 2, 3, 4])
@pytest.mark.parametrize("d", [64, 128])
def test_unbiased_scores_and_their_error_bars(d, nbits, cosine):
    x, y = (v.astype(np.float32) for v in sts.pairs(N, d, cosine, seed=d + nbits))
    tq = TurboQuant(d, nbits=nbits, seed=2)
    sums = encode_sums(tq, x, threads=1)
    sigma = scoring.error_bar(np.full(N, cosine), scoring.tan_theta(sums.dot, sums.energy), d)
    error = sts.diagonal_scores(tq, y, tq.encode(x)) - cosine
    assert abs(error.sum()) / math.sqrt(np.sum(sigma**2)) <= 7
    assert abs(np.sum(error**2 - sigma**2)) / math.sqrt(2 * np.sum(sigma**4)) <= 9


@pytest.mark.parametrize("nbits", [1, 2, 3])
def test_fresh_rotations(nbits):
    """One fixed pair of vectors, 512 seeds."""
    d, n, cosine = 100, 512, 0.5
    x, y = (v.astype(np.float32) for v in sts.pairs(1, d, cosine, seed=31))
    errors, sigmas = np.empty(n), np.empty(n)
    for seed in range(n):
        tq = TurboQuant(d, nbits=nbits, seed=seed)
        sums = encode_sums(tq, x, threads=1)
        sigmas[seed] = scoring.error_bar(np.array([cosine]), scoring.tan_theta(sums.dot, sums.energy), d)[0]
        errors[seed] = tq.inner_product(y, tq.encode(x))[0, 0] - cosine
    assert abs(errors.sum()) / math.sqrt(np.sum(sigmas**2)) <= 7
    assert abs(np.sum(errors**2 - sigmas**2)) / math.sqrt(2 * np.sum(sigmas**4)) <= 9


@pytest.mark.parametrize("cosine", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("nbits", [1, 2, 3, 4])
def test_mse_scores_shrink(nbits, cosine):
    d = 128
    x, y = (v.astype(np.float32) for v in sts.pairs(N, d, cosine, seed=22 + nbits))
    tq = TurboQuant(d, nbits=nbits, seed=3, scale="norm")
    error = sts.diagonal_scores(tq, y, tq.encode(x)) - cosine
    assert abs(error.mean() + scalar.distortion(d, nbits) * cosine) <= 7 * error.std() / math.sqrt(N)


@pytest.mark.parametrize("nbits", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("d", [64, 200])
def test_projection_equals_energy_on_average(d, nbits):
    sums = encode_sums(TurboQuant(d, nbits=nbits, seed=5), sts.unit(N, d, seed=23).astype(np.float32), threads=1)
    gap = sums.dot - sums.energy
    assert abs(gap.mean()) <= 7 * gap.std() / math.sqrt(N)
    assert abs(sums.energy.mean() - (1 - scalar.distortion(d, nbits))) <= 7 * sums.energy.std() / math.sqrt(N) + 1e-7
