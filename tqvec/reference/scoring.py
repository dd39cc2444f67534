"""Scores against codes, what is known about their error, and exact selection."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def scores(rotated: Array, levels: Array, scale: Array) -> Array:
    """scale_i Σ_j q′_j c_ij, (nq, n), of rotated queries and centroids ("File format" page, section 5, last line)."""
    return np.asarray((rotated.astype(np.float64) @ levels.astype(np.float64).T) * scale.astype(np.float64))


def magnitude(rotated: Array, levels: Array, scale: Array) -> Array:
    """scale_i Σ_j |q′_j c_ij|, (nq, n): what rounding errors of `scores` are measured against (derived)."""
    return scores(np.abs(rotated), np.abs(levels), np.abs(scale))


def tan_theta(dot: Array, energy: Array) -> Array:
    """tan of the angle between u and ũ, from ⟨u, ũ⟩ and ‖ũ‖² of unit vectors u (derived)."""
    return np.sqrt(np.maximum(energy - dot * dot, 0.0)) / dot


def error_bar(cosine: Array, tangent: Array, d: int) -> Array:
    """Standard deviation of the `unbiased` estimate for unit vectors: √((1−s²)/(d−1))·tan θ (derived)."""
    return np.asarray(np.sqrt((1 - cosine * cosine) / (d - 1)) * tangent)


def top_k(values: NDArray, k: int) -> tuple[NDArray, NDArray[np.int64]]:
    """The `k` largest of each row and their columns, best first, ties by column ("File format" page, section 5)."""
    columns = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    order = np.lexsort((columns, -values), axis=1)[:, :k]
    return np.take_along_axis(values, order, axis=1), order
