"""Causes of lost recall, in words and numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tqvec._random import generator
from tqvec._vectors import Vectors
from tqvec.index.diagnose.candidates import same_codes
from tqvec.index.diagnose.recall import Recall
from tqvec.index.errors.standard_errors import expected_error
from tqvec.index.snapshot import Snapshot
from tqvec.index.training_result import Training

_SPECTRUM = 2000  # rows that dimensions are counted on
_LENGTHS = 65536  # rows whose lengths are compared
_LEAST = 0.005  # recall, or share of the results, below which a cause is not reported

Predict = Callable[[float], float]  # recall if errors were multiplied by a factor


class Cause(NamedTuple):
    """A cause of lost recall.

    Attributes
    ----------
    name : str
        "near-ties", "dimension", "lengths", "anisotropy", "duplicates" or, of a partitioned index, "lists".
    cost : float
        Recall that would be gained without it; 0 if unknown.
    text : str
        A sentence with the numbers.
    """

    name: str
    cost: float
    text: str


def find_causes(
    snapshot: Snapshot, recall: Recall, sample: Vectors | None, training: Training | None, predict: Predict, k: int
) -> tuple[Cause, ...]:
    """Return the causes of lost recall, the most costly first.

    Parameters
    ----------
    snapshot : Snapshot
    recall : Recall
    sample : Vectors or None
    training : Training or None
        The result of training on the sample.
    predict : callable
        Returns the recall if errors were multiplied by a factor.
    k : int
    """
    now = predict(1.0)

    def gain(factor: float) -> float:
        return predict(factor) - now

    causes = [
        _near_ties(recall, 1 - now),
        _dimension(snapshot, gain),
        _lengths(snapshot, recall, gain, k),
        _anisotropy(snapshot, sample, training, gain),
        _duplicates(snapshot, recall, k),
    ]
    return tuple(sorted((cause for cause in causes if cause is not None), key=lambda cause: -cause.cost))


def _near_ties(recall: Recall, cost: float) -> Cause | None:
    if cost <= _LEAST:
        return None
    close, median = float(np.mean(recall.gaps < 1)), float(np.median(recall.gaps))
    text = f"For {100 * close:.0f} % of the queries the (k+1)-th neighbour is within one standard error of the k-th."
    return Cause("near-ties", cost, f"{text} The median gap is {median:.2f} standard errors.")


def _dimension(snapshot: Snapshot, gain: Predict) -> Cause | None:
    """Errors fall with the root of the dimension."""
    d, cost = snapshot.codec.d, gain(float(np.sqrt(0.5)))
    if cost <= _LEAST:
        return None
    error = expected_error(snapshot.codec).tangent / np.sqrt(max(1, d - 1))
    text = f"At d={d} a cosine has a standard error of up to {error:.3f}."
    return Cause("dimension", cost, f"{text} Half its variance, as at d={2 * d}, would add {cost:.3f}.")


def _lengths(snapshot: Snapshot, recall: Recall, gain: Predict, k: int) -> Cause | None:
    """Errors grow with the length of a row, and the best results may be longer than most."""
    if snapshot.metric.unit_rows:
        return None
    rows = snapshot.live_rows()
    rows = rows[:: max(1, rows.size // _LENGTHS)]
    name, power = ("squared_norm", 0.5) if snapshot.metric.stores_norm else ("scale", 1.0)
    lengths, best = (np.abs(snapshot.column(r, name)).astype(np.float64) ** power for r in (rows, recall.rows[:, :k]))
    usual, long = float(np.median(lengths)), float(np.median(best))
    if not 0 < usual < long:
        return None
    cost = gain(usual / long)
    if cost <= _LEAST:
        return None
    text = f"Lengths vary by {100 * lengths.std() / lengths.mean():.0f} %. Results, and so their errors, are "
    return Cause("lengths", cost, f"{text}{long / usual:.2f} times as long as the median row.")


def _anisotropy(snapshot: Snapshot, sample: Vectors | None, training: Training | None, gain: Predict) -> Cause | None:
    """Variance in few of the dimensions, where a plain codec gives all the same bits."""
    if snapshot.codec.calibration is not None:
        return None
    dimensions = _dimensions(snapshot, sample)
    if dimensions > snapshot.codec.d / 2:
        return None
    text, cost = f"The variance lies in about {dimensions:.0f} of {snapshot.codec.d} dimensions.", 0.0
    if training is None:
        return Cause("anisotropy", cost, f"{text} `train` may help; a sample would show it.")
    if not training.accepted:
        return Cause("anisotropy", cost, f"{text} `train` does not help nevertheless.")
    cost = gain(float(np.sqrt(training.error_ratio)))
    return Cause("anisotropy", cost, f"{text} `train` would add {cost:.3f}.")


def _duplicates(snapshot: Snapshot, recall: Recall, k: int) -> Cause | None:
    share = float(np.mean(same_codes(snapshot, recall.rows)[:, :k]))
    text = f"{100 * share:.1f} % of the results have the same codes as another."
    return Cause("duplicates", 0.0, text) if share > _LEAST else None


def _dimensions(snapshot: Snapshot, sample: Vectors | None) -> float:
    """Return the participation ratio 1/Σλ² of the shares λ of the variance of directions around the mean.

    Σλ² is the mean squared cosine of two rows. Decoded rows have an error of tan²θ/d along every axis, which is
    subtracted.
    """
    codec = snapshot.codec
    rng = generator(codec.seed, "diagnosis: causes")
    if sample is None:
        rows = snapshot.decode_unbiased(rng.permutation(snapshot.live_rows())[:_SPECTRUM])
        noise = expected_error(codec).tangent ** 2
    else:
        rows, noise = sample.take(rng.permutation(len(sample))[:_SPECTRUM]), 0.0
    residuals = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    length = np.linalg.norm(residuals, axis=1)
    residuals = residuals[length > 0] / length[length > 0, None]
    n = residuals.shape[0]
    if n < 2:
        return float(codec.d)
    squares = (np.sum(np.square(residuals @ residuals.T)) - n) / (n * (n - 1))
    squares = (1 + noise) ** 2 * squares - (2 * noise + noise**2) / codec.d
    return float(1 / np.clip(squares, 1 / codec.d, 1.0))
