"""What the mean key contributes to the scores of coded tokens: a function of the position alone.

At position p it is Σ even_f cos ω_f p + odd_f sin ω_f p, with two products of the query and the mean per frequency.
Over a block of tokens slow waves are polynomials to float32 precision, the same few for all of them. So a token costs a
handful of products, where the waves themselves would cost as many as the key has coordinates.
"""

from __future__ import annotations

import numpy as np
from numpy.polynomial import chebyshev

from tqvec._types import Doubles
from tqvec.kernels.arguments import MeanWaves
from tqvec.kernels.rope.portable import MEAN_BLOCK, MEAN_TERMS

_TOLERANCE = 2e-6  # of a wave, whose largest value is 1


def mean_waves(frequencies: Doubles) -> MeanWaves:
    """Return the curves for waves of rising frequencies, radians per token."""
    if not frequencies.any():
        one = np.eye(1, MEAN_TERMS, dtype=np.float32)
        table = np.zeros((MEAN_TERMS, MEAN_BLOCK), np.float32)
        table[0] = 1
        return MeanWaves(angles=frequencies, cosine=one, sine=np.zeros_like(one), table=table, rows=1)
    time = np.arange(MEAN_BLOCK)
    x = 2 * time / (MEAN_BLOCK - 1) - 1
    polynomials: Doubles = chebyshev.chebvander(x, MEAN_TERMS - 1).T.astype(np.float64)
    weights = [_polynomial_weights(frequency, polynomials) for frequency in frequencies]
    slow = [pair for pair in weights if pair is not None]
    fast = np.outer(frequencies[len(slow) :], time)
    cosine, sine = (np.array([pair[i] for pair in slow], np.float32).reshape(-1, MEAN_TERMS) for i in (0, 1))
    table = np.vstack([polynomials, np.cos(fast), np.sin(fast)]).astype(np.float32)
    return MeanWaves(angles=frequencies, cosine=cosine, sine=sine, table=table, rows=len(table))


def _polynomial_weights(frequency: float, polynomials: Doubles) -> tuple[Doubles, Doubles] | None:
    """Return the weights of polynomials in a wave's cosine and sine over a block; None if the wave is too fast."""
    angles = frequency * np.arange(MEAN_BLOCK)
    pair = []
    for wave in (np.cos(angles), np.sin(angles)):
        weights = np.linalg.lstsq(polynomials.T, wave, rcond=None)[0]
        if np.abs(weights @ polynomials - wave).max() > _TOLERANCE:
            return None
        pair.append(weights)
    return pair[0], pair[1]
