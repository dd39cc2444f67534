"""Algorithm 2 of arXiv 2504.19874: Algorithm 1 at b − 1 bits, and one bit a coordinate for what it left over."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec.reference import codebook, packing, quantize, rotation
from tqvec.reference.splitmix import word

Array = NDArray[np.float64]

STRUCTURED = 4  # first round of the structured S ("File format" page, section 2)


class Prod(NamedTuple):
    """First-stage codes (n, d), signs z (n, d) of ±1, residual lengths γ (n,) (arXiv 2504.19874 Algorithm 2)."""

    codes: NDArray[np.int64]
    signs: Array
    gamma: Array


def seeded_gaussian(d: int, seed: int) -> NDArray[np.float32]:
    """S of ``qjl="gaussian"``, for the rotated basis: NumPy's generator on the first words of stream 8."""
    words = [word(seed, 8, i) for i in range(1, 5)]
    return np.random.default_rng(words).standard_normal((d, d), np.float32)


def gaussian(d: int, rng: np.random.Generator) -> Array:
    """S, i.i.d. N(0, 1). Draw it independently of the rotation (arXiv 2504.19874 Algorithm 2, line 3)."""
    return rng.standard_normal((d, d))


def qjl(r: Array, s: Array) -> Array:
    """sign(S r) of each row (arXiv 2504.19874 Definition 1); 0 counts as −1."""
    return np.where(r @ s.T > 0, 1.0, -1.0)


def qjl_inverse(z: Array, s: Array, gamma: Array, factor: float | None = None) -> Array:
    """factor · γ · Sᵀ z of each row; default: √(π/2)/d, for Gaussian S (arXiv 2504.19874 Definition 1)."""
    factor = math.sqrt(math.pi / 2) / s.shape[0] if factor is None else factor
    return np.asarray(factor * gamma[:, None] * (z @ s))


def _first_stage(codes: NDArray[np.int64], nbits: int, matrix: Array) -> Array:
    return np.asarray(codebook.lloyd_max(matrix.shape[0], nbits - 1)[codes] @ matrix)


def encode(u: Array, nbits: int, matrix: Array, s: Array) -> Prod:
    """QUANT of Algorithm 2 for unit rows `u` (n, d), rotation Π = `matrix` and `s` (d, d)."""
    centroids = codebook.lloyd_max(matrix.shape[0], nbits - 1)
    codes = quantize.nearest(u @ matrix.T, centroids)
    residual = u - _first_stage(codes, nbits, matrix)
    return Prod(codes, qjl(residual, s), np.linalg.norm(residual, axis=1))


def decode(code: Prod, nbits: int, matrix: Array, s: Array, factor: float | None = None) -> Array:
    """DEQUANT of Algorithm 2: first stage plus the QJL estimate of the residual."""
    return _first_stage(code.codes, nbits, matrix) + qjl_inverse(code.signs, s, code.gamma, factor)


def inner_product(y: Array, code: Prod, nbits: int, matrix: Array, s: Array) -> Array:
    """Estimate of ⟨y_i, u_i⟩ for rows i, unbiased over S (arXiv 2504.19874 Theorem 2)."""
    return np.asarray(np.einsum("ij,ij->i", y, decode(code, nbits, matrix, s)))


def qjl_variance(s: float, d: int) -> float:
    """Variance of the QJL estimate for unit vectors at cosine `s`: (π/2 − s²)/d (derived; Lemma 4 bounds it)."""
    return (math.pi / 2 - s * s) / d


def structured(d: int, seed: int) -> Array:
    """S = √d · O of ``qjl="hadamard"``, for the rotated basis ("File format" page, section 6)."""
    return math.sqrt(d) * rotation.hadamard(np.eye(d), seed, first=STRUCTURED).T


def structured_factor(d: int) -> float:
    """What √(π/2)/d becomes for S = √d · Haar: 1/(d√d·m), m = Γ(d/2)/(√π Γ((d+1)/2)) = E|coordinate| (derived)."""
    return math.sqrt(math.pi) * codebook.gamma_ratio(d + 1) / (d * math.sqrt(d))


def gaussian_error(d: int) -> float:
    """E‖r − r̃‖² for ‖r‖ = 1 and Gaussian S: π/2 − 1/d (derived)."""
    return math.pi / 2 - 1 / d


def structured_error(d: int) -> float:
    """E‖r − r̃‖² for ‖r‖ = 1 and S = √d · Haar: 1/(d m²) − 1 = D(d, 1)/(1 − D(d, 1)) (derived)."""
    return codebook.one_bit_distortion(d) / (1 - codebook.one_bit_distortion(d))


def encode_rows(x: NDArray[np.float32], bands: packing.Bands, seed: int) -> tuple[NDArray[np.int64], Array, Array]:
    """Codes with their QJL bit, ‖x‖ and γ of rows, by bits ("File format" page, section 6)."""
    y = rotation.hadamard(quantize.directions(x), seed, np.float32)
    codes, levels = quantize.banded(y, [(first, end, width - 1) for first, end, width in bands])
    residual = y - levels
    bits = rotation.hadamard(residual, seed, np.float32, STRUCTURED) > 0
    norm = quantize.lengths(x)
    return 2 * codes + bits, norm, norm * quantize.lengths(residual)
