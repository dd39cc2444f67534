"""Density of a coordinate, and its Lloyd-Max codebook. Source: arXiv 2504.19874 Lemma 1 and eq. (4).

Integrals run over φ with t = sin φ, where the density is C·cos^(d−2) φ: smooth for every d ≥ 2, even where f is not.
"""

from __future__ import annotations

import json
import math
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_PANELS = 8  # of 16 nodes, in each cell
_REACH = 12.0  # in units of 1/√d: the density beyond is e^-72 of its peak


def gamma_ratio(d: int) -> float:
    """Γ(d/2) / Γ((d−1)/2) for d ≥ 2, from Γ(z+1) = z Γ(z) (derived)."""
    ratio = 1 / math.sqrt(math.pi) if d % 2 == 0 else math.sqrt(math.pi) / 2
    for m in range(2 + d % 2, d, 2):
        ratio *= m / (m - 1)
    return ratio


def density(t: Array, d: int) -> Array:
    """f(t), d ≥ 2 (arXiv 2504.19874 Lemma 1)."""
    return np.asarray(gamma_ratio(d) / math.sqrt(math.pi) * (1 - t * t) ** ((d - 3) / 2))


def cell_edges(positive: Array) -> Array:
    """Bounds of the cells of the positive centroids: 0, the midpoints, 1 (arXiv 2504.19874 section 3.1)."""
    return np.concatenate([[0.0], (positive[1:] + positive[:-1]) / 2, [1.0]])


def _quadrature(edges: Array, d: int) -> tuple[Array, Array]:
    """Nodes t and weights, the density included, for each interval between edges: (intervals, nodes) each."""
    phi = np.arcsin(np.minimum(edges, max(_REACH / math.sqrt(d), float(edges[-2]))))
    steps = np.linspace(phi[:-1], phi[1:], _PANELS + 1, axis=1)
    middle, half = (steps[:, 1:] + steps[:, :-1]) / 2, (steps[:, 1:] - steps[:, :-1]) / 2
    nodes = (middle[:, :, None] + half[:, :, None] * _NODES).reshape(len(phi) - 1, -1)
    weights = (half[:, :, None] * _WEIGHTS).reshape(nodes.shape)
    factor = gamma_ratio(d) / math.sqrt(math.pi)
    return np.sin(nodes), weights * factor * np.cos(nodes) ** (d - 2)


def probabilities(positive: Array, d: int) -> Array:
    """Probability of each positive cell (arXiv 2504.19874 section 3.1)."""
    return np.asarray(_quadrature(cell_edges(positive), d)[1].sum(axis=1))


def cell_means(positive: Array, d: int) -> Array:
    """E[t | cell]: the centroid condition of eq. (4) of arXiv 2504.19874."""
    t, w = _quadrature(cell_edges(positive), d)
    return np.asarray((t * w).sum(axis=1) / w.sum(axis=1))


def lloyd_max(d: int, nbits: int, tolerance: float = 1e-13, history: int = 12) -> Array:
    """All 2^nbits centroids by Lloyd's iteration (c ← `cell_means`) with Anderson's acceleration.

    Source: arXiv 2504.19874 eq. (4); d ≥ 2. Stops when a plain Lloyd step moves no centroid by `tolerance`/√d.
    """
    if nbits == 0:
        return np.zeros(1)
    k = 2 ** (nbits - 1)
    c = np.minimum(1.0, 4.0 / math.sqrt(d)) * (np.arange(k) + 0.5) / k
    for _ in range(20):
        c = cell_means(c, d)
    points: list[Array] = []
    steps: list[Array] = []
    for _ in range(20_000):
        step = cell_means(c, d) - c
        if np.max(np.abs(step)) * math.sqrt(d) < tolerance:
            return np.concatenate([-c[::-1], c])
        points, steps = [*points[-history:], c], [*steps[-history:], step]
        new = c + step
        if len(steps) > 1:
            moves = np.diff(steps, axis=0).T
            mix = np.linalg.lstsq(moves, step, rcond=None)[0]
            new = new - (np.diff(points, axis=0).T + moves) @ mix
        if np.any(np.diff(new) <= 0) or new[0] <= 0 or new[-1] >= 1:  # out of order: a plain step, a new start
            new, points, steps = c + step, [], []
        c = new
    raise ArithmeticError(f"Lloyd's iteration did not converge for d={d}, nbits={nbits}")


def distortion(centroids: Array, d: int) -> float:
    """D = d·E(t − c)², by integrating the squared error (arXiv 2504.19874 Theorem 1)."""
    positive = centroids[len(centroids) // 2 :]
    t, w = _quadrature(cell_edges(positive), d)
    return float(2 * d * np.sum(w * (t - positive[:, None]) ** 2))


def entropy(centroids: Array, d: int) -> float:
    """Entropy of a code in bits (arXiv 2504.19874 section 3.1, entropy encoding)."""
    p = probabilities(centroids[len(centroids) // 2 :], d)
    return float(-2 * np.sum(p * np.log2(p)))


def one_bit_distortion(d: int) -> float:
    """D(d, 1) = 1 − d·[Γ(d/2) / (√π Γ((d+1)/2))]², d ≥ 1 (derived)."""
    return 1 - d / (math.pi * gamma_ratio(d + 1) ** 2)


def cdf(t: Array, d: int) -> Array:
    """Distribution function of a coordinate for |t| < 1 (derived from the density)."""
    order = np.argsort(np.abs(t))
    edges = np.concatenate([[0.0], np.abs(t)[order], [1.0]])
    out = np.empty(len(t))
    out[order] = np.cumsum(_quadrature(edges, d)[1].sum(axis=1))[:-1]
    return 0.5 + np.sign(t) * out


def frozen(d: int, nbits: int) -> Array:
    """The format's own 2^nbits centroids, float64, from the data file ("File format" page, sections 3 and 6)."""
    if nbits == 0:
        return np.zeros(1)
    blob = files("tqvec").joinpath("codec/data/codebooks.safetensors").read_bytes()
    size = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + size])
    tensors = {}
    for name in ("small", "series"):
        first, last = header[name]["data_offsets"]
        tensors[name] = np.frombuffer(blob[8 + size + first : 8 + size + last], "<f8").reshape(header[name]["shape"])
    columns = slice(2 ** (nbits - 1) - 1, 2**nbits - 1)
    if d < 64:
        half = tensors["small"][d, columns]
    else:
        x = 2 * 64 / d - 1
        series = tensors["series"][:, columns]
        later, latest = np.zeros(2 ** (nbits - 1)), np.zeros(2 ** (nbits - 1))
        for row in series[:0:-1]:
            later, latest = latest, row + 2 * x * latest - later
        half = series[0] + x * latest - later
    half = half / math.sqrt(d)
    return np.concatenate([-half[::-1], half])


def thresholds(centroids: Array) -> Array:
    """Midpoints of neighbouring centroids ("File format" page, section 3, codebook)."""
    return (centroids[1:] + centroids[:-1]) / 2
