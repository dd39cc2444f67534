"""Codes of the leading planes as bytes, at any level."""

from __future__ import annotations

from tqvec.kernels._jit import jit
from tqvec.kernels.simd.base import append_bits_i8x64, load_u64, zero_i8x64


@jit
def prefix_codes(at, plane_bytes, planes):
    """Codes of 64 coordinates from their first planes; `at` is the address of their word in the first of them."""
    codes = zero_i8x64()
    for plane in range(planes):
        codes = append_bits_i8x64(codes, load_u64(at + plane * plane_bytes))
    return codes
