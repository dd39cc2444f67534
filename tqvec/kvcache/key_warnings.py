"""Warnings of a layer whose keys its codes can't hold well, computed from the codes' scales."""

from __future__ import annotations

import warnings

import numpy as np

from tqvec._types import Doubles
from tqvec.errors import LossWarning
from tqvec.kvcache.codecs import GUARD_NBITS
from tqvec.kvcache.key_basis import KeyBasis, Layout

_MOST_DRIFT = 8.0  # times the squared length of the first keys; the worst of a real model with its rope have 4
_STACK = 6  # frames up to the caller of `KVCache.append`


def warn_of_guard(number: int, heads: tuple[int, ...], turning: Layout) -> None:
    """Warn that heads of layer `number` are guarded."""
    text = (
        f"layer {number}: keys of heads {list(heads)} have outliers that the policy's bits can't hold. They get "
        f"{GUARD_NBITS} bits a value{_remedy(turning)}"
    )
    warnings.warn(text, LossWarning, stacklevel=_STACK)


def warn_of_drift(number: int, basis: KeyBasis, squared: Doubles, turning: Layout) -> bool:
    """Warn if the newest keys of layer `number` have far larger `squared` lengths, (heads,), than the first ones.

    Returns
    -------
    bool
        Whether there was a warning.
    """
    drift = squared / np.maximum(basis.spread, np.finfo(np.float32).tiny)
    if drift.max() <= _MOST_DRIFT:
        return False
    text = (
        f"layer {number}, head {int(drift.argmax())}: new keys no longer fit what was learned from the first ones. "
        f"What is coded of them is {drift.max() ** 0.5:.1f} times as long, and so are its errors{_remedy(turning)}"
    )
    warnings.warn(text, LossWarning, stacklevel=_STACK)
    return True


def _remedy(turning: Layout) -> str:
    """Return what may help a cache that has no rope."""
    if turning.sign.any():
        return ""
    return "; if keys have a rotary embedding, name it: KVCache(..., rope=Rope.from_config(config))"
