"""Numbers of 16 bits: float16, and bfloat16 as the high half of a float32, which NumPy has no type for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Halves = NDArray  # float16, or uint16 with the bits of a bfloat16

LARGEST = {"float16": 65504.0, "bfloat16": 2.0**54}
"""Of the values that a cache takes; of bfloat16, and of queries, so that scores fit float32."""


def bfloat16(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Bits of the nearest bfloat16 of finite numbers, ties to the even one.

    The relative error is at most 2⁻⁸ and .0016 on average (root mean square), which adds .4 % to the squared error of a
    6-bit code and 6 % to that of an 8-bit one.
    """
    bits = x.view(np.uint32)
    return ((bits + (np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)))) >> np.uint32(16)).astype(np.uint16)


def narrowed(x: NDArray[np.float32], dtype: str) -> Halves:
    """Numbers up to `LARGEST` in 16 bits, to nearest, ties to even."""
    return x.astype(np.float16) if dtype == "float16" else bfloat16(x)


def widened(x: Halves) -> NDArray[np.float32]:
    """As float32, exactly."""
    if x.dtype == np.float16:
        return x.astype(np.float32)
    return (x.astype(np.uint32) << np.uint32(16)).view(np.float32)


def empty(shape: tuple[int, ...], dtype: str) -> Halves:
    """Room for numbers of a type."""
    return np.empty(shape, np.float16 if dtype == "float16" else np.uint16)
