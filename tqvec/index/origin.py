"""The origin: squared distances of vectors far from it are lost in the errors of codes, unless a centre is known."""

from __future__ import annotations

import warnings

import numpy as np

from tqvec._vectors import Vectors
from tqvec.codec.turboquant import TurboQuant
from tqvec.errors import LossWarning
from tqvec.index.errors.standard_errors import expected_error

_ROWS = 128  # that are looked at, from all over a batch
_FEWEST = 16  # that say something of the others
_FAR = 10.0  # squared distance of the mean from the origin, in those of vectors from the mean: training would pay off
_LOST = 0.25  # standard error of a distance, in the same unit, from which on near neighbours can't be told apart


def warn_if_far(codec: TurboQuant, vectors: Vectors, stacklevel: int) -> bool:
    """Warn if vectors lie so far from the origin that their squared distances are lost, and return whether they do.

    For vectors around a mean m, at a mean squared distance s, a squared distance has a standard error of about
    2 (‖m‖² + s) tan θ/√(d − 1). With the mean as the centre of the codec it would be 2 s tan θ/√(d − 1).

    Parameters
    ----------
    codec : TurboQuant
        Without a calibration.
    vectors : Vectors
        For metric "l2".
    stacklevel : int
        As of `warnings.warn`, from the caller on.
    """
    if len(vectors) < _FEWEST:
        return False
    rows = vectors.take(np.linspace(0, len(vectors) - 1, min(_ROWS, len(vectors))).astype(np.int64)).astype(np.float64)
    mean = rows.mean(axis=0)
    away, spread = float(mean @ mean), float(np.square(rows - mean).sum(axis=1).mean())
    error = 2 * (away + spread) * expected_error(codec).tangent / np.sqrt(max(1, codec.d - 1))
    if spread == 0 or away < _FAR * spread or error < _LOST * spread:
        return False
    warnings.warn(
        f"these vectors are {np.sqrt(away / spread):.3g} times as far from the origin as from their mean, so their "
        f"squared distances (about {2 * spread:.3g}) have a standard error of about {error:.2g}; call train(sample) "
        "before add, which subtracts the mean, or subtract it yourself",
        LossWarning,
        stacklevel=stacklevel + 1,
    )
    return True
