"""The centre and the principal axes of a sample; the "Calibration" page has the derivations."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import linalg

from tqvec._types import Doubles, Floats

_MEDIAN_STEPS = 10
_BLOCK = 4096  # rows multiplied at a time: sums of float32 products stay short


class Axes(NamedTuple):
    """What a sample teaches: most of the time of a calibration.

    Attributes
    ----------
    centre : (d,) float32
    axes : (d, d) float32
        Principal axes, one per column.
    shares : (d,) float64
        Falling; their sum is 1.
    """

    centre: Floats
    axes: Floats
    shares: Doubles


def find_axes(rows: Floats) -> Axes:
    """Find the centre and the principal axes of a sample, (n, d) float32."""
    centre = spatial_median(rows)
    return Axes(centre, *principal_axes(rows - centre))


def spatial_median(rows: Floats) -> Floats:
    """Return the point with the least sum of distances to the rows, (d,) float32.

    It takes ten steps of Weiszfeld's iteration.

    A few far rows move it little, where they would carry the mean away.
    """
    centre = rows.mean(axis=0, dtype=np.float64)
    blocks = [slice(first, first + _BLOCK) for first in range(0, rows.shape[0], _BLOCK)]  # a sample may be large
    for _ in range(_MEDIAN_STEPS):
        distance = np.empty(rows.shape[0])
        for block in blocks:
            away = rows[block] - centre.astype(np.float32)
            distance[block] = np.sqrt(np.einsum("ij,ij->i", away, away, dtype=np.float64))
        near = np.max(distance) * 1e-6  # a row in the centre itself must not get all the weight
        if near == 0:
            break
        weight = 1 / np.maximum(distance, near)
        weight /= weight.sum()
        centre = sum((weight[block].astype(np.float32) @ rows[block]).astype(np.float64) for block in blocks)
    median: Floats = centre.astype(np.float32)
    return median


def _second_moments(rows: Floats) -> Doubles:
    """Return the mean of u uᵀ over the directions u of the rows, (d, d) float64; zero rows don't count."""
    length = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    alive = np.flatnonzero(length > 0)
    total = np.zeros((rows.shape[1], rows.shape[1]))
    for first in range(0, alive.size, _BLOCK):
        block = alive[first : first + _BLOCK]
        part = rows[block] / length[block, None].astype(np.float32)
        total += part.T @ part
    return total / max(1, alive.size)


def principal_axes(residuals: Floats) -> tuple[Floats, Doubles]:
    """Return the principal axes of the directions of rows, and the share of the squared length along each.

    Directions make it robust: a far row counts no more than others. The second moments M of n rows are mixed with
    those of the uniform distribution, I/d, in the proportion of Ledoit and Wolf (2004), which for trace 1 is
    ρ = (1 − ‖M‖²) / ((n − 1) (‖M‖² − 1/d)), at most 1: all of I/d for isotropic data, little for many rows.

    Returns
    -------
    axes : (d, d) float32
        An axis a column, by falling share.
    shares : (d,) float64
        They add up to 1.
    """
    n, d = residuals.shape
    moments = _second_moments(residuals)
    energy = float(np.sum(moments * moments))
    excess = (n - 1) * (energy - 1 / d)
    mix = min(1.0, (1 - energy) / excess) if excess > 0 else 1.0
    moments *= 1 - mix
    moments[np.diag_indices(d)] += mix / d
    shares, axes = linalg.eigh(moments.astype(np.float32), driver="evd")  # in float64 twice the time, and no use
    shares = np.maximum(shares[::-1].astype(np.float64), 1e-12)
    return np.ascontiguousarray(axes[:, ::-1]), shares / shares.sum()
