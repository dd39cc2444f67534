"""Rotations of calibrated codes. Source: "File format" page, section 8."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tqvec.reference import codebook, packing, quantize, rotation

Floats = NDArray[np.float32]


def dense(u: Floats, matrix: Floats) -> Floats:
    """Rotate rows by a float32 matrix, each sum in the order of the coordinates (step 2)."""
    y = np.zeros_like(u)
    for j in range(u.shape[1]):
        y = y + u[:, j : j + 1] * matrix[None, :, j]
    return y


def spread(u: NDArray, dtype: type = np.float32) -> NDArray:
    """Rotate rows before a matrix of bytes: two rounds of seed 0 (step 2, version 7)."""
    return rotation.hadamard(u, 0, dtype, n_rounds=2)


def in_bytes(u: Floats, matrix: NDArray[np.int8], steps: Floats) -> Floats:
    """Rotate rows, rounded to bytes, by a matrix of bytes (step 2, version 7)."""
    v = spread(u)
    top = np.abs(v).max(axis=1, keepdims=True)
    factor = np.divide(np.float32(127), top, out=np.zeros_like(top), where=top > 0)
    w = np.rint(v * factor).astype(np.int64)
    sums = (w @ matrix.T.astype(np.int64)).astype(np.float32)
    return np.asarray(sums * (top / np.float32(127)) * steps)


def whole(matrix: NDArray[np.int8], steps: Floats) -> NDArray[np.float64]:
    """The map of queries, which are not rounded to bytes, as one matrix (section 8, scores, version 7)."""
    rows = steps[:, None] * matrix.astype(np.float64)
    return np.asarray(rows @ spread(np.eye(rows.shape[0]), np.float64).T)


def residuals(x: Floats, centre: Floats, unit: bool = False) -> Floats:
    """What is encoded in place of rows (step 1); `unit` for metric cosine."""
    return np.asarray((quantize.directions(x) if unit else x) - centre)


def encode(r: Floats, y: Floats, bands: packing.Bands, spreads: Floats) -> quantize.Quantized:
    """Codes of residuals `r` whose rotated directions are `y`, by scalar codebooks (steps 3 and 4)."""
    parts = []
    for (first, end, width), spread_ in zip(bands, spreads.astype(np.float64), strict=True):
        centroids = codebook.frozen(y.shape[1], width)
        thresholds = (codebook.thresholds(centroids) * spread_).astype(np.float32)
        codes = quantize.count_thresholds(y[:, first:end], thresholds)
        parts.append((codes, (centroids * spread_).astype(np.float32)[codes]))
    codes, levels = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    exact = levels.astype(np.float64)
    dot = quantize.lane_sum(y[:, : codes.shape[1]].astype(np.float64) * exact)
    return quantize.Quantized(codes, quantize.lengths(r), dot, quantize.lane_sum(exact * exact))
