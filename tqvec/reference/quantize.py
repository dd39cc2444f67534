"""Algorithm 1 of arXiv 2504.19874, with scale rules and order of operations of the "File format" page, section 3."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqvec.reference import codebook, packing, rotation, trellis

Array = NDArray[np.float64]


class Quantized(NamedTuple):
    """Codes (n, d), and ‖x‖, ⟨u, ũ⟩ and ‖ũ‖² of each row ("File format" page, section 3)."""

    codes: NDArray[np.int64]
    norm: Array
    dot: Array
    energy: Array


def lane_sum(terms: Array) -> Array:
    """Sum of each row of (n, d) float64 terms in the format's order ("File format" page, section 3, step 1)."""
    p = [np.zeros(len(terms)) for _ in range(8)]
    for j in range(terms.shape[1]):
        p[j % 8] = p[j % 8] + terms[:, j]
    return ((p[0] + p[4]) + (p[2] + p[6])) + ((p[1] + p[5]) + (p[3] + p[7]))


def lengths(x: NDArray[np.float32]) -> Array:
    """‖x‖ of each row ("File format" page, section 3, step 1)."""
    return np.sqrt(lane_sum(x.astype(np.float64) ** 2))


def directions(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """x/‖x‖, and 0 for the zero vector ("File format" page, section 3, step 2)."""
    inverse = np.array([1 / norm if norm > 0 else 0.0 for norm in lengths(x).tolist()])
    return (x.astype(np.float64) * inverse[:, None]).astype(np.float32)


def count_thresholds(y: NDArray, thresholds: NDArray) -> NDArray[np.int64]:
    """Codes: the number of thresholds less than each value ("File format" page, section 3, step 4)."""
    codes = np.zeros(y.shape, np.int64)
    for threshold in thresholds:
        codes += y > threshold
    return codes


def nearest(y: NDArray, centroids: NDArray) -> NDArray[np.int64]:
    """Codes: argmin_k |y_j − c_k| (arXiv 2504.19874 Algorithm 1, line 6)."""
    return np.asarray(np.argmin(np.abs(y[..., None] - centroids), axis=-1), np.int64)


def encode(
    x: NDArray[np.float32], nbits: int, seed: int, dtype: DTypeLike = np.float32, centroids: Array | None = None
) -> Quantized:
    """Encode rows ("File format" page, section 3; arXiv 2504.19874 Algorithm 1, QUANT).

    Parameters
    ----------
    x : (n, d) float32
    nbits, seed : int
    dtype : float32 or float64
        float32 gives the format's bits.
    centroids : (2**nbits,) float64, optional
        Default: the frozen ones.
    """
    c = codebook.frozen(x.shape[1], nbits) if centroids is None else centroids
    y = rotation.hadamard(directions(x), seed, dtype)
    return _with_sums(x, y, *codes_and_levels(y, c))


def encode_bands(x: NDArray[np.float32], bands: packing.Bands, seed: int) -> Quantized:
    """Encode rows whose bands have codebooks of their own ("File format" page, section 3); as `encode`, in float32."""
    y = rotation.hadamard(directions(x), seed, np.float32)
    return _with_sums(x, y, *banded(y, bands))


def encode_trellis(x: NDArray[np.float32], bands: packing.Bands, seed: int) -> Quantized:
    """Encode rows by the trellis codebook ("File format" page, section 7)."""
    y = rotation.hadamard(directions(x), seed, np.float32)
    tables = [trellis.frozen(x.shape[1], width).astype(np.float32) for _, _, width in bands]
    codes = [trellis.encode(y[:, first:end], table) for (first, end, _), table in zip(bands, tables, strict=True)]
    levels = [trellis.levels(part, table) for part, table in zip(codes, tables, strict=True)]
    return _with_sums(x, y, np.concatenate(codes, axis=1), np.concatenate(levels, axis=1))


def banded(y: NDArray, bands: packing.Bands) -> tuple[NDArray[np.int64], NDArray]:
    """Codes and centroids of rotated rows, each band by its own codebook ("File format" page, section 3, step 4)."""
    parts = [codes_and_levels(y[:, first:end], codebook.frozen(y.shape[1], width)) for first, end, width in bands]
    codes, levels = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    return codes, levels


def codes_and_levels(y: NDArray, centroids: Array) -> tuple[NDArray[np.int64], NDArray]:
    """Codes of values and what they stand for ("File format" page, section 3, steps 4 and 5)."""
    codes = count_thresholds(y, codebook.thresholds(centroids).astype(y.dtype))
    return codes, centroids.astype(y.dtype)[codes]


def _with_sums(x: NDArray[np.float32], y: NDArray, codes: NDArray[np.int64], levels: NDArray) -> Quantized:
    exact = levels.astype(np.float64)
    return Quantized(codes, lengths(x), lane_sum(y.astype(np.float64) * exact), lane_sum(exact * exact))


def scale_norm(q: Quantized) -> Array:
    """‖x‖ (arXiv 2504.19874 section 3.1)."""
    return q.norm


def scale_unbiased(q: Quantized) -> Array:
    """‖x‖/⟨u, ũ⟩, 0 for the zero vector (derived; DRIVE, EDEN and RaBitQ have it too)."""
    return np.array([n / d if n > 0 else 0.0 for n, d in zip(q.norm.tolist(), q.dot.tolist(), strict=True)])


def scale_least_squares(q: Quantized) -> Array:
    """‖x‖⟨u, ũ⟩/‖ũ‖², 0 for the zero vector: minimises ‖x − s ũ‖ (derived)."""
    products = (q.norm * q.dot).tolist()
    return np.array([p / e if p > 0 else 0.0 for p, e in zip(products, q.energy.tolist(), strict=True)])


def with_error_byte(scale: NDArray[np.float32], tangent: Array) -> NDArray[np.float32]:
    """The nearest scales whose low bytes are 1 + round(16 log2(tangent 2^11)), within 1 … 255, or 0 for NaN."""
    with np.errstate(divide="ignore"):
        steps = np.rint(16 * np.log2(tangent * 2.0**11)) + 1
    code = np.where(np.isnan(steps), 0, np.clip(steps, 1, 255)).astype(np.int64)
    bits = scale.view(np.uint32).astype(np.int64)
    size = bits & 0x7FFFFFFF
    coded = (size - code + 128 & ~255) + code
    coded = np.where(coded >= 0x7F800000, coded - 256, coded)  # infinity
    coded = np.where(size < 0x00800000, size, coded)  # zero and subnormal numbers stay
    return (coded | bits & 0x80000000).astype(np.uint32).view(np.float32)


SCALES = {"norm": scale_norm, "unbiased": scale_unbiased, "least_squares": scale_least_squares}


def decode(codes: NDArray[np.int64], scale: Array, centroids: Array, seed: int) -> Array:
    """x̃ = scale · Πᵀ c_codes in float64 (arXiv 2504.19874 Algorithm 1, DEQUANT)."""
    return np.asarray(rotation.hadamard_inverse(centroids[codes], seed) * scale[:, None])


def error_bound(nbits: int) -> float:
    """Upper limit of D: (√3·π/2)·4^−b (arXiv 2504.19874 Theorem 1)."""
    return math.sqrt(3) * math.pi / 2 * 4.0**-nbits
