"""Float16 and bfloat16 to float32 and back; the bit patterns are explained in README.md."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import jit

_BLOCK = 256
_SIGN = np.uint32(0x8000)
_REBIAS = np.uint32(112 << 23)  # between the exponents of float16 and float32
_SMALLEST_NORMAL = np.uint32(113 << 23)  # 2^-14
_HALF = np.float32(0.5)
_HALF_BITS = np.uint32(126 << 23)
_TWO_112 = np.float32(2.0**112)
_ONE = np.uint32(1)


@jit
def narrow_float16_portable(x, out):
    """The nearest float16 of each number, ties to even, as `np.ndarray.astype` has it.

    Parameters
    ----------
    x : (n,) float32
        At most 65,504.
    out : (n,) uint16
        Filled with the bits.
    """
    shifted = np.empty(_BLOCK, np.float32)
    small = shifted.view(np.uint32)
    for start in range(0, x.size, _BLOCK):
        part = x[start : start + _BLOCK]
        bits = part.view(np.uint32)
        found = out[start : start + _BLOCK]
        for i in range(part.size):
            shifted[i] = abs(part[i]) + _HALF
        for i in range(part.size):
            size = bits[i] & np.uint32(0x7FFFFFFF)
            normal = (size + np.uint32(0xFFF) + (size >> np.uint32(13) & _ONE) - _REBIAS) >> np.uint32(13)
            half = small[i] - _HALF_BITS if size < _SMALLEST_NORMAL else normal
            found[i] = np.uint16(bits[i] >> np.uint32(16) & _SIGN | half)


@jit
def round_float16_portable(x, out):
    """The nearest float16 of each number, as float32: what narrowing and widening make, in one go.

    Parameters
    ----------
    x, out : (n,) float32
        Numbers up to 65,504; filled.
    """
    for start in range(0, x.size, _BLOCK):
        part = x[start : start + _BLOCK]
        bits = part.view(np.uint32)
        found = out[start : start + _BLOCK]
        found_bits = found.view(np.uint32)
        for i in range(part.size):
            found[i] = (abs(part[i]) + _HALF) - _HALF
        for i in range(part.size):
            size = bits[i] & np.uint32(0x7FFFFFFF)
            normal = (size + np.uint32(0xFFF) + (size >> np.uint32(13) & _ONE)) & np.uint32(0xFFFFE000)
            rounded = found_bits[i] if size < _SMALLEST_NORMAL else normal
            found_bits[i] = bits[i] & np.uint32(0x80000000) | rounded


@jit
def round_bfloat16_portable(x, out):
    """The nearest bfloat16 of finite numbers, (n,) float32, as float32 into `out` (n,)."""
    bits = x.view(np.uint32)
    found = out.view(np.uint32)
    for i in range(bits.size):
        found[i] = (bits[i] + np.uint32(0x7FFF) + (bits[i] >> np.uint32(16) & _ONE)) & np.uint32(0xFFFF0000)


@jit
def widen_float16_portable(bits, out):
    """Float32 numbers of the bits of finite float16 ones, (n,) uint16, into `out` (n,), exactly."""
    for start in range(0, bits.size, _BLOCK):
        half = bits[start : start + _BLOCK]
        numbers = out[start : start + _BLOCK]
        found = numbers.view(np.uint32)
        for i in range(half.size):
            found[i] = (np.uint32(half[i]) & np.uint32(0x7FFF)) << np.uint32(13)
        for i in range(half.size):
            numbers[i] *= _TWO_112
        for i in range(half.size):
            found[i] |= (np.uint32(half[i]) & _SIGN) << np.uint32(16)


@jit
def narrow_bfloat16_portable(x, out):
    """The nearest bfloat16 of finite numbers, (n,) float32, as bits into `out` (n,) uint16; ties to even."""
    bits = x.view(np.uint32)
    for i in range(bits.size):
        b = bits[i]
        out[i] = np.uint16((b + np.uint32(0x7FFF) + (b >> np.uint32(16) & _ONE)) >> np.uint32(16))


@jit
def widen_bfloat16_portable(bits, out):
    """Float32 numbers of the bits of bfloat16 ones, (n,) uint16, into `out` (n,), exactly."""
    found = out.view(np.uint32)
    for i in range(bits.size):
        found[i] = np.uint32(bits[i]) << np.uint32(16)
