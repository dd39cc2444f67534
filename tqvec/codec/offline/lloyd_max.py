"""Lloyd-Max codebooks of the exact density of one coordinate of a random unit vector, and the script that freezes them.

The density is f(t) = Γ(d/2) / (√π Γ((d−1)/2)) · (1−t²)^((d−3)/2) on [−1, 1] (arXiv 2504.19874, Lemma 1). The best
2^b centroids satisfy c_i = E[t | cell i] with cells that end midway between neighbours. Both conditions together are a
smooth system with a tridiagonal Jacobian, so Newton's method reaches rounding error in a few steps, where Lloyd's
iteration would take tens of thousands at 8 bits.

``python -m tqvec.codec.offline.lloyd_max`` solves for all widths and rewrites ``data/codebooks.safetensors``. Nothing
else calls the solver: stored bytes depend on the frozen numbers alone.
"""

from __future__ import annotations

import math

import numpy as np

from tqvec._types import Doubles

SMALL_D = 64  # below: a table per dimension; from here on: Chebyshev series in 64/d
DEGREE = 8
NODES = 32
MAX_NBITS = 8


def _log_norm(d: float) -> float:
    """Return log Γ(d/2) − log Γ((d−1)/2) − log √π, the log of the density's factor."""
    x = (d - 1) / 2
    if x < 32:
        ratio = math.lgamma(x + 0.5) - math.lgamma(x)
    else:  # Stirling's series of the difference: the two logarithms would cancel
        ratio = 0.5 * math.log(x) - 1 / (8 * x) + 1 / (192 * x**3) - 1 / (640 * x**5) + 17 / (14336 * x**7)
    return ratio - 0.5 * math.log(math.pi)


def _density(t: Doubles, d: float) -> Doubles:
    return np.exp(_log_norm(d) + (d - 3) / 2 * np.log1p(-t * t))


def tail(t: Doubles, d: float) -> Doubles:
    """Return the probability that a coordinate exceeds `t` ≥ 0."""
    from scipy.special import betainc

    return betainc((d - 1) / 2, (d - 1) / 2, (1 - t) / 2)


def tail_moment(t: Doubles, d: float) -> Doubles:
    """Return the integral of s·f(s) from `t` to 1."""
    with np.errstate(divide="ignore"):
        return np.exp(_log_norm(d) + (d - 1) / 2 * np.log1p(-t * t)) / (d - 1)


def cells(c: Doubles, d: float) -> tuple[Doubles, Doubles, Doubles]:
    """Return the lower bounds, probabilities and means of the cells of the positive centroids `c`."""
    t = np.concatenate([[0.0], (c[1:] + c[:-1]) / 2, [1.0]])
    mass = tail(t, d)
    moment = tail_moment(t, d)
    p = mass[:-1] - mass[1:]
    return t[:-1], p, (moment[:-1] - moment[1:]) / p


def solve(d: float, nbits: int) -> Doubles:
    """Compute the positive half of the optimal codebook, ascending, in units of 1/√d.

    Parameters
    ----------
    d : float
        Dimension, at least 2 (need not be an integer: the density is smooth in d).
    nbits : int
        Width, 1 to 8.

    Returns
    -------
    (2**(nbits - 1),) float64
        Centroids; the other half is the mirror image.

    Raises
    ------
    ArithmeticError
        Newton's method did not reach 1e-10.
    """
    from scipy.linalg import solve_banded
    from scipy.special import betaincinv

    k = 2 ** (nbits - 1)
    # Panter and Dite: the best codebook has point density f^(1/3), here again a Beta density.
    a = (d - 3) / 6 + 1
    c = 2 * betaincinv(a, a, 0.5 + (np.arange(k) + 0.5) / (2 * k)) - 1
    for _ in range(30):
        c = cells(c, d)[2]
    step = math.inf
    for _ in range(60):
        t, p, mean = cells(c, d)
        upper = np.zeros(k)
        lower = np.zeros(k)
        f = _density(t[1:], d)
        upper[:-1] = f * (t[1:] - mean[:-1]) / p[:-1] / 2  # d mean_i / d c_{i+1}, by the shared bound
        lower[1:] = f * (mean[1:] - t[1:]) / p[1:] / 2
        bands = np.zeros((3, k))
        bands[1] = 1 - upper - lower
        bands[0, 1:] = -upper[:-1]
        bands[2, :-1] = -lower[1:]
        delta = solve_banded((1, 1), bands, mean - c)
        previous, step = step, float(np.max(np.abs(delta)) * math.sqrt(d))
        if step >= previous and step < 1e-12:
            return c * math.sqrt(d)
        c = c + delta
        if not (np.all(np.diff(c) > 0) and c[0] > 0 and c[-1] < 1):
            raise ArithmeticError(f"the codebook of d={d}, nbits={nbits} left its domain")
    if step > 1e-10:
        raise ArithmeticError(f"the codebook of d={d}, nbits={nbits} did not converge: last step {step:.1e}")
    return c * math.sqrt(d)


def freeze() -> dict[str, Doubles]:
    """Compute the arrays of ``data/codebooks.safetensors``.

    Returns
    -------
    dict
        ``small``: (64, 255), row d holds the positive halves of widths 1, 2, …, 8 one after the other, in units of
        1/√d (row 0 is unused; row 1 spreads the levels evenly with the outermost at ±1, where the two atoms of the
        density are). ``series``: (9, 255) Chebyshev coefficients of the same numbers as functions of 2·64/d − 1.
    """
    widths = range(1, MAX_NBITS + 1)
    small = np.zeros((SMALL_D, 2**MAX_NBITS - 1))
    small[1] = np.concatenate([(2 * np.arange(2 ** (b - 1)) + 1) / (2**b - 1) for b in widths])
    for d in range(2, SMALL_D):
        small[d] = np.concatenate([solve(d, b) for b in widths])
    nodes = np.cos(np.pi * (np.arange(NODES) + 0.5) / NODES)
    values = np.array([np.concatenate([solve(2 * SMALL_D / (1 + x), b) for b in widths]) for x in nodes])
    return {"small": small, "series": np.polynomial.chebyshev.chebfit(nodes, values, DEGREE)}


if __name__ == "__main__":
    from pathlib import Path

    from safetensors.numpy import save_file

    save_file(freeze(), Path(__file__).parents[1] / "data" / "codebooks.safetensors")
