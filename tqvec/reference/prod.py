"""Algorithm 2 of arXiv 2504.19874: Algorithm 1 at b − 1 bits, and one bit a coordinate for what it left over."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec.reference import codebook, quantize

Array = NDArray[np.float64]


class Prod(NamedTuple):
    """First-stage codes (n, d), signs z (n, d) of ±1, residual lengths γ (n,) (arXiv 2504.19874 Algorithm 2)."""

    codes: NDArray[np.int64]
    signs: Array
    gamma: Array


def gaussian(d: int, rng: np.random.Generator) -> Array:
    """S, i.i.d. N(0, 1). Draw it independently of the rotation (arXiv 2504.19874 Algorithm 2, line 3)."""
    return rng.standard_normal((d, d))


def qjl(r: Array, s: Array) -> Array:
    """sign(S r) of each row (arXiv 2504.19874 Definition 1); 0 counts as +1."""
    return np.where(r @ s.T >= 0, 1.0, -1.0)


def qjl_inverse(z: Array, s: Array, gamma: Array) -> Array:
    """(√(π/2)/d) · γ · Sᵀ z of each row (arXiv 2504.19874 Definition 1)."""
    return np.asarray(math.sqrt(math.pi / 2) / s.shape[0] * gamma[:, None] * (z @ s))


def _first_stage(codes: NDArray[np.int64], nbits: int, matrix: Array) -> Array:
    return np.asarray(codebook.lloyd_max(matrix.shape[0], nbits - 1)[codes] @ matrix)


def encode(u: Array, nbits: int, matrix: Array, s: Array) -> Prod:
    """QUANT of Algorithm 2 for unit rows `u` (n, d), rotation Π = `matrix` and `s` (d, d)."""
    centroids = codebook.lloyd_max(matrix.shape[0], nbits - 1)
    codes = quantize.nearest(u @ matrix.T, centroids)
    residual = u - _first_stage(codes, nbits, matrix)
    return Prod(codes, qjl(residual, s), np.linalg.norm(residual, axis=1))


def decode(code: Prod, nbits: int, matrix: Array, s: Array) -> Array:
    """DEQUANT of Algorithm 2: first stage plus the QJL estimate of the residual."""
    return _first_stage(code.codes, nbits, matrix) + qjl_inverse(code.signs, s, code.gamma)


def inner_product(y: Array, code: Prod, nbits: int, matrix: Array, s: Array) -> Array:
    """Estimate of ⟨y_i, u_i⟩ for rows i, unbiased over S (arXiv 2504.19874 Theorem 2)."""
    return np.asarray(np.einsum("ij,ij->i", y, decode(code, nbits, matrix, s)))


def qjl_variance(s: float, d: int) -> float:
    """Variance of the QJL estimate for unit vectors at cosine `s`: (π/2 − s²)/d (derived; Lemma 4 bounds it)."""
    return (math.pi / 2 - s * s) / d
