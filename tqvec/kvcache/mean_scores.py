"""What the mean key contributes to the scores of coded tokens: a function of the position alone.

At position p it is Re Σ z_f e^(i ω_f p), with a complex number z_f per frequency that the query and the mean decide. A
block of tokens begins at some p₀: then it is Σ Re(z_f e^(i ω_f p₀) · e^(i ω_f t)) for t = 0, 1, …. The curves
cos ω_f t and sin ω_f t of a block are so alike that far fewer curves give all of them to float32 precision. So a token
costs a handful of products, where the frequencies themselves would cost as many as the key has coordinates.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from tqvec import _threads
from tqvec._types import Floats
from tqvec.kvcache.key_basis import Layout

BLOCK = 128  # tokens
_TOLERANCE = 2e-6  # of a curve, whose largest value is 1
_STEP = 4  # curves that the kernel takes at a time
_FINE = 32  # blocks between angles that are computed, not multiplied


class MeanScores(NamedTuple):
    """Coefficients of the curves for each query and block, (g, blocks, r) float32, and the curves, (r, BLOCK) float32.

    The coefficients are in a workspace of the calling thread: they last until its next call of `mean_scores`.
    """

    coefficients: Floats
    table: Floats


class _Curves(NamedTuple):
    """`weights` (2 f, r): of the curves in each cosine and in each sine; `table` (r, BLOCK): the curves."""

    weights: Floats
    table: Floats


@lru_cache(maxsize=64)
def _curves(frequencies: tuple[float, ...]) -> _Curves:
    """Return the fewest curves that give the cosines and sines of a block."""
    angles = np.outer(frequencies, np.arange(BLOCK))
    waves = np.stack([np.cos(angles), -np.sin(angles)], axis=1).reshape(-1, BLOCK)
    left, sizes, right = np.linalg.svd(waves, full_matrices=False)
    r = _STEP
    while r < len(sizes) and np.abs((left[:, :r] * sizes[:r]) @ right[:r] - waves).max() > _TOLERANCE:
        r += _STEP
    missing = max(0, r - len(sizes))
    weights = np.pad(left[:, :r] * sizes[:r], ((0, 0), (0, missing)))
    return _Curves(weights.astype(np.float32), np.pad(right[:r], ((0, missing), (0, 0))).astype(np.float32))


@lru_cache(maxsize=8)
def _phases(frequencies: tuple[float, ...], first: int, blocks: int) -> Floats:
    """Return e^(i ω p) at the first position p of each block, (blocks, f) complex64."""
    rates = 1j * np.asarray(frequencies)
    coarse = np.exp((first + BLOCK * _FINE * np.arange(-(-blocks // _FINE)))[:, None] * rates)
    fine = np.exp(BLOCK * np.arange(_FINE)[:, None] * rates)
    phases: Floats = (coarse[:, None] * fine).reshape(-1, len(rates))[:blocks].astype(np.complex64)
    return phases


def mean_scores(queries: Floats, mean: Floats, turning: Layout, first: int, n: int) -> MeanScores:
    """Return what `add_means` adds to the scores of `n` tokens from position `first` on.

    Parameters
    ----------
    queries : (g, d) float32
    mean : (d,) float32
        The mean key at position 0.
    turning : Layout
    first, n : int
    """
    frequencies = tuple(turning.frequencies.tolist())
    products = np.zeros((2, len(frequencies), len(queries)), np.float32)
    crossed = turning.sign * mean[turning.partner]
    np.add.at(products[0], turning.frequency, (queries * mean).T)
    np.add.at(products[1], turning.frequency, (queries * -crossed).T)
    z = (products[0] + 1j * products[1]).T.astype(np.complex64)
    curves = _curves(frequencies)
    phases = _phases(frequencies, first, -(-n // BLOCK))
    waves = np.empty_like(phases)  # of one query: those of many leave the processor's cache
    shape = (len(z), len(phases), len(curves.table))
    coefficients = _threads.scratch(math.prod(shape), "mean scores")[: math.prod(shape)].reshape(shape)
    for weights, out in zip(z, coefficients, strict=True):
        np.matmul(np.multiply(weights, phases, out=waves).view(np.float32), curves.weights, out=out)
    return MeanScores(coefficients, curves.table)
