"""Numbers of 16 bits: float16, and bfloat16 as the upper half of a float32, which NumPy has no type for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqvec.kernels.dispatch import kernel

Halves = NDArray  # float16, or uint16 with the bits of a bfloat16

LARGEST = {"float16": 65504.0, "bfloat16": 2.0**54}
"""Of the values that a cache takes; of bfloat16, and of queries, so that scores fit float32."""


def type_of(name: str) -> np.dtype[Any]:
    """What arrays of "float16" or "bfloat16" have."""
    return np.dtype(np.float16 if name == "float16" else np.uint16)


def narrowed(x: NDArray[np.float32] | Halves, name: str) -> Halves:
    """Finite numbers in 16 bits, to nearest, ties to even; to float16 only up to `LARGEST`. Such halves stay.

    The relative error of a bfloat16 is at most 2⁻⁸ and .0016 on average (root mean square), which as a scale adds .4 %
    to the squared error of a 6-bit code and 6 % to that of an 8-bit one.
    """
    if x.dtype == type_of(name):
        return x
    out = np.empty(x.shape, np.uint16)
    kernel(f"narrow_{name}")(np.ascontiguousarray(x).reshape(-1), out.reshape(-1))
    return out.view(type_of(name))


def rounded(x: NDArray[np.float32] | Halves, name: str, out: NDArray[np.float32]) -> None:
    """Fill `out` with what `narrowed` numbers are when `widened`; (heads, n, d) each, contiguous along the last two."""
    operation = kernel(f"{'round' if x.dtype == np.float32 else 'widen'}_{name}")
    source = x if x.dtype == np.float32 else x.view(np.uint16)
    for one, found in zip(source, out, strict=True):
        operation(one.reshape(-1), found.reshape(-1))


def widened(x: Halves) -> NDArray[np.float32]:
    """As float32, exactly."""
    out = np.empty(x.shape, np.float32)
    name = "float16" if x.dtype == np.float16 else "bfloat16"
    kernel(f"widen_{name}")(np.ascontiguousarray(x).view(np.uint16).reshape(-1), out.reshape(-1))
    return out
