"""Numbers in 16 bits: float16, and bfloat16 as the upper half of a float32, for which NumPy has no type."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqvec._types import Floats
from tqvec.kernels.dispatch import kernel

Halves = NDArray  # float16, or uint16 with the bits of a bfloat16

LARGEST = {"float16": 65504.0, "bfloat16": 2.0**54}
"""The largest value that a cache accepts, by type; for bfloat16 and for queries, so that scores fit float32."""


def type_of(name: str) -> np.dtype[Any]:
    """Return the NumPy type of arrays of "float16" or "bfloat16"."""
    return np.dtype(np.float16 if name == "float16" else np.uint16)


def to_half(x: Floats | Halves, name: str) -> Halves:
    """Convert finite numbers to 16 bits, to nearest, ties to even; numbers of this type are returned as they are.

    For float16 the numbers must not exceed `LARGEST`. The relative error of a bfloat16 is at most 2⁻⁸, and 0.0016 on
    average (root mean square): as a scale it adds 0.4 % to the squared error of a 6-bit code, 6 % to that of an 8-bit
    one.
    """
    if x.dtype == type_of(name):
        return x
    out = np.empty(x.shape, np.uint16)
    kernel(f"narrow_{name}")(np.ascontiguousarray(x).reshape(-1), out.reshape(-1))
    return out.view(type_of(name))


def round_to_half(x: Floats | Halves, name: str, out: Floats) -> None:
    """Fill `out` with numbers rounded to 16 bits; x and out: (heads, n, d), contiguous along the last two axes."""
    operation = kernel(f"{'round' if x.dtype == np.float32 else 'widen'}_{name}")
    source = x if x.dtype == np.float32 else x.view(np.uint16)
    for rows, out_rows in zip(source, out, strict=True):
        operation(rows.reshape(-1), out_rows.reshape(-1))


def to_float32(x: Halves) -> Floats:
    """Convert numbers in 16 bits to float32, exactly."""
    out = np.empty(x.shape, np.float32)
    name = "float16" if x.dtype == np.float16 else "bfloat16"
    kernel(f"widen_{name}")(np.ascontiguousarray(x).view(np.uint16).reshape(-1), out.reshape(-1))
    return out
