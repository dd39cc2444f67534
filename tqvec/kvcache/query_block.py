"""Queries of neighbouring positions, which attend together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._types import Floats


class QueryBlock(NamedTuple):
    """Some queries of all KV heads, in the order of their positions.

    Attributes
    ----------
    plain : (heads, g, head_dim) float32
    first, stop : (g,) int64
        Each query sees the tokens at positions ``first … stop - 1``.
    sinks : (heads, g) float32 or None
        Logits.
    softcap : float or None
        Bound of the scores.
    """

    plain: Floats
    first: NDArray[np.int64]
    stop: NDArray[np.int64]
    sinks: Floats | None
    softcap: float | None

    def visible(self, position: int, n: int) -> slice:
        """Return which of `n` tokens from a position on some query sees, or an empty slice."""
        first, stop = int(self.first[0]) - position, int(self.stop[-1]) - position
        return slice(max(0, first), max(0, min(n, stop)))
