"""Scale rules: three ways to compute the one number kept beside a vector's codes.

u = x/‖x‖, ũ its centroids in the rotated basis, `norm` = ‖x‖, `dot` = ⟨u, ũ⟩, `energy` = ‖ũ‖².

unbiased
    ‖x‖/⟨u, ũ⟩ (the scale of DRIVE and EDEN, and RaBitQ's estimator). Inner products with ``scale · ũ`` are unbiased
    under a random rotation, with variance (1−s²) tan²θ/(d−1) for unit vectors at cosine s; θ is the angle of u and ũ.
least_squares
    ‖x‖⟨u, ũ⟩/‖ũ‖², the multiple of ũ that is nearest to x.
norm
    ‖x‖, the paper's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tqvec._types import Doubles, ScaleName


def _divide(a: Doubles, b: Doubles) -> Doubles:
    """Return a / b, and 0 for the zero vector, whose codes mean nothing."""
    return np.divide(a, b, out=np.zeros(a.shape), where=a > 0)


def unbiased(norm: Doubles, dot: Doubles, energy: Doubles) -> Doubles:
    """Return ‖x‖/⟨u, ũ⟩."""
    return _divide(norm, dot)


def least_squares(norm: Doubles, dot: Doubles, energy: Doubles) -> Doubles:
    """Return ‖x‖⟨u, ũ⟩/‖ũ‖²."""
    return _divide(norm * dot, energy)


def norm(norm: Doubles, dot: Doubles, energy: Doubles) -> Doubles:
    """Return ‖x‖."""
    return norm


SCALES: dict[ScaleName, Callable[[Doubles, Doubles, Doubles], Doubles]] = {
    "unbiased": unbiased,
    "least_squares": least_squares,
    "norm": norm,
}
