"""What models do with scores beside a softmax: windows, caps and sinks, as `KVCache.attend` takes them."""

from __future__ import annotations

from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from tqvec import _validate
from tqvec._types import Floats
from tqvec.errors import InputError

_ALL = 2**62  # tokens: a window that hides none
_CAPS = (1e-30, 1e30)


class ScoreArguments(TypedDict, total=False):
    """Arguments of `KVCache.attend` that only some models need."""

    window: int | None
    softcap: float | None
    sinks: ArrayLike | None


class ScoreOptions(NamedTuple):
    """`ScoreArguments` after the checks.

    Attributes
    ----------
    window : int
        Newest tokens that each query sees.
    softcap : float or None
        Bound of the scores.
    sinks : (n_heads,) float32 or None
        Logits without a value.
    """

    window: int
    softcap: float | None
    sinks: Floats | None


def score_options(
    n_heads: int, *, window: int | None = None, softcap: float | None = None, sinks: ArrayLike | None = None
) -> ScoreOptions:
    """Check arguments of an attention of `n_heads` query heads.

    Raises
    ------
    InputError
        Wrong type or shape, or a number out of its range.
    """
    if softcap is not None:
        softcap = _validate.number(softcap, "softcap")
        if not _CAPS[0] <= softcap <= _CAPS[1]:
            raise InputError(f"softcap must be from {_CAPS[0]:g} to {_CAPS[1]:g}, or None for no cap, got {softcap!r}")
    return ScoreOptions(
        window=_ALL if window is None else _validate.integer(window, "window", 1, _ALL),
        softcap=softcap,
        sinks=None if sinks is None else _logits(sinks, n_heads),
    )


def _logits(x: ArrayLike, n_heads: int) -> Floats:
    """Return a finite float32 logit per query head."""
    array = _validate.numbers(x, "sinks")
    if array.shape != (n_heads,):
        raise InputError(f"sinks must have a logit for each of the {n_heads} heads of q, got shape {array.shape}")
    with np.errstate(over="ignore"):
        logits = np.ascontiguousarray(array, np.float32)
    wrong = np.flatnonzero(~np.isfinite(logits))
    if wrong.size:
        raise InputError(f"sinks of head {wrong[0]} is {array[wrong[0]]}, which float32 can't hold as a number")
    return logits
