"""What limits the recall of an index, in words and numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tqvec._types import Floats
from tqvec.index.diagnose.posterior import same_codes
from tqvec.index.diagnose.recall import Recall
from tqvec.index.errors.standard_errors import expected_error
from tqvec.index.snapshot import Snapshot
from tqvec.index.training import Training

_SPECTRUM = 2000  # rows that dimensions are counted on
_LENGTHS = 65536  # rows whose lengths are looked at
_WORTH = 0.005  # recall, or part of the results, below which nothing is said
_ORDER = 0x6C696D69  # of the generator, beside the codec's seed

Predict = Callable[[float], float]


class Limit(NamedTuple):
    """Something that costs recall.

    Attributes
    ----------
    name : str
    cost : float
        Recall that would be gained without it, as far as that can be told.
    text : str
        With the numbers.
    """

    name: str
    cost: float
    text: str


def limits(
    stored: Snapshot, found: Recall, sample: Floats | None, training: Training | None, predict: Predict, k: int
) -> tuple[Limit, ...]:
    """What costs recall, the most costly first.

    Parameters
    ----------
    stored : Snapshot
    found : Recall
    sample : (n, d) float32 or None
    training : Training or None
        What training on the sample would do.
    predict : callable
        Recall if errors were a factor of what they are.
    k : int
    """
    recall = predict(1.0)
    listed = [*_near_ties(found, recall), *_dimension(stored, predict, recall), *_lengths(stored, found, predict, k)]
    if stored.codec.calibration is None:
        listed += _anisotropy(stored, sample, training, predict)
    alike = float(np.mean(same_codes(stored, found.ids)[:, :k]))
    if alike > _WORTH:
        listed.append(Limit("duplicates", 0.0, f"{alike:.1%} of the results have the very codes of another"))
    return tuple(sorted(listed, key=lambda limit: -limit.cost))


def _near_ties(found: Recall, recall: float) -> list[Limit]:
    if 1 - recall <= _WORTH:
        return []
    close, middle = float(np.mean(found.gaps < 1)), float(np.median(found.gaps))
    text = f"behind the true k-th row the next is within a standard error for {close:.0%} of the queries"
    return [Limit("near-ties", 1 - recall, f"{text}, at {middle:.2f} in the median")]


def _dimension(stored: Snapshot, predict: Predict, recall: float) -> list[Limit]:
    """Errors fall with the root of the dimension."""
    d, cost = stored.codec.d, predict(float(np.sqrt(0.5))) - recall
    error = expected_error(stored.codec).tangent / np.sqrt(max(1, d - 1))
    text = f"at d={d} a cosine has a standard error of up to {error:.3f}; half its variance, as at {2 * d}, would add "
    return [Limit("dimension", cost, f"{text}{cost:.3f}")] if cost > _WORTH else []


def _lengths(stored: Snapshot, found: Recall, predict: Predict, k: int) -> list[Limit]:
    """Errors grow with the length of a row, and the best results may be longer than most."""
    if stored.metric == "cosine":
        return []
    rows = stored.live_rows()
    rows = rows[:: max(1, rows.size // _LENGTHS)]
    name, power = ("squared_norm", 0.5) if stored.metric == "l2" else ("scale", 1.0)
    lengths, best = (np.abs(stored.column(r, name)).astype(np.float64) ** power for r in (rows, found.ids[:, :k]))
    usual, long = float(np.median(lengths)), float(np.median(best))
    if not 0 < usual < long:
        return []
    cost = predict(usual / long) - predict(1.0)
    text = f"lengths vary by {lengths.std() / lengths.mean():.0%}; those of results, and so their errors, are "
    return [Limit("lengths", cost, f"{text}{long / usual:.2f} times the usual")] if cost > _WORTH else []


def _anisotropy(stored: Snapshot, sample: Floats | None, training: Training | None, predict: Predict) -> list[Limit]:
    """Variance in few of the dimensions, where a plain codec gives all the same bits."""
    dimensions = _dimensions(stored, sample)
    if dimensions > stored.codec.d / 2:
        return []
    text, cost = f"the variance lies in about {dimensions:.0f} of {stored.codec.d} dimensions; ", 0.0
    if training is None:
        text += "train may help, which a sample would tell"
    elif training.used:
        cost = predict(float(np.sqrt(training.error))) - predict(1.0)
        text += f"train would add {cost:.3f}"
    else:
        text += "train does not help all the same"
    return [Limit("anisotropy", cost, text)]


def _dimensions(stored: Snapshot, sample: Floats | None) -> float:
    """Participation ratio 1/Σλ² of the shares λ of the variance of directions around the mean.

    Σλ² is the mean squared cosine of two rows. Decoded rows have an error of tan²θ/d along every axis, which is taken
    off.
    """
    codec = stored.codec
    rng = np.random.default_rng([codec.seed, _ORDER])
    if sample is None:
        rows = stored.decode_unbiased(rng.permutation(stored.live_rows())[:_SPECTRUM])
        noise = expected_error(codec).tangent ** 2
    else:
        rows, noise = sample[rng.permutation(sample.shape[0])[:_SPECTRUM]], 0.0
    residuals = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    length = np.linalg.norm(residuals, axis=1)
    residuals = residuals[length > 0] / length[length > 0, None]
    n = residuals.shape[0]
    if n < 2:
        return float(codec.d)
    squares = (np.sum(np.square(residuals @ residuals.T)) - n) / (n * (n - 1))
    squares = (1 + noise) ** 2 * squares - (2 * noise + noise**2) / codec.d
    return float(1 / np.clip(squares, 1 / codec.d, 1.0))
