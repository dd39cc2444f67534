"""Codes of the leading planes as bytes, at any level."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import jit
from tqvec.kernels.simd.base import bits_to_bytes_i8x64, load_u64, or_i8x64


@jit
def prefix_codes(at, plane_bytes, planes):
    """Codes of 64 coordinates from their first 1, 2, 3 or 4 planes; `at` is the address of their word in the first."""
    first = load_u64(at)
    if planes == 1:
        return bits_to_bytes_i8x64(first, np.int8(1))
    second = load_u64(at + plane_bytes)
    if planes == 2:
        return or_i8x64(bits_to_bytes_i8x64(first, np.int8(2)), bits_to_bytes_i8x64(second, np.int8(1)))
    third = load_u64(at + 2 * plane_bytes)
    if planes == 3:
        code = or_i8x64(bits_to_bytes_i8x64(first, np.int8(4)), bits_to_bytes_i8x64(second, np.int8(2)))
        return or_i8x64(code, bits_to_bytes_i8x64(third, np.int8(1)))
    code = or_i8x64(bits_to_bytes_i8x64(first, np.int8(8)), bits_to_bytes_i8x64(second, np.int8(4)))
    code = or_i8x64(code, bits_to_bytes_i8x64(third, np.int8(2)))
    return or_i8x64(code, bits_to_bytes_i8x64(load_u64(at + 3 * plane_bytes), np.int8(1)))
