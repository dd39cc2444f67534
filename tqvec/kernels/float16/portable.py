"""Conversions between float32 and numbers of 16 bits, float16 and bfloat16; README.md explains the bit patterns."""

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
    """Round float32 to the nearest float16, ties to even, as `np.ndarray.astype` does.

    Parameters
    ----------
    x : (n,) float32
        Finite; at most 65,504 in size.
    out : (n,) uint16
        The bits of the results.
    """
    shifted = np.empty(_BLOCK, np.float32)
    small = shifted.view(np.uint32)
    for start in range(0, x.size, _BLOCK):
        part = x[start : start + _BLOCK]
        bits = part.view(np.uint32)
        halves = out[start : start + _BLOCK]
        for i in range(part.size):
            shifted[i] = abs(part[i]) + _HALF
        for i in range(part.size):
            size = bits[i] & np.uint32(0x7FFFFFFF)
            normal = (size + np.uint32(0xFFF) + (size >> np.uint32(13) & _ONE) - _REBIAS) >> np.uint32(13)
            half = small[i] - _HALF_BITS if size < _SMALLEST_NORMAL else normal
            halves[i] = np.uint16(bits[i] >> np.uint32(16) & _SIGN | half)


@jit
def round_float16_portable(x, out):
    """Round float32 to the nearest float16, as float32: narrow and widen at once.

    Parameters
    ----------
    x : (n,) float32
        Finite; at most 65,504 in size.
    out : (n,) float32
        The results.
    """
    for start in range(0, x.size, _BLOCK):
        part = x[start : start + _BLOCK]
        bits = part.view(np.uint32)
        rounded = out[start : start + _BLOCK]
        rounded_bits = rounded.view(np.uint32)
        for i in range(part.size):
            rounded[i] = (abs(part[i]) + _HALF) - _HALF
        for i in range(part.size):
            size = bits[i] & np.uint32(0x7FFFFFFF)
            normal = (size + np.uint32(0xFFF) + (size >> np.uint32(13) & _ONE)) & np.uint32(0xFFFFE000)
            magnitude = rounded_bits[i] if size < _SMALLEST_NORMAL else normal
            rounded_bits[i] = bits[i] & np.uint32(0x80000000) | magnitude


@jit
def round_bfloat16_portable(x, out):
    """Round finite float32 (n,) to the nearest bfloat16, as float32 into `out` (n,); ties to even."""
    bits = x.view(np.uint32)
    rounded = out.view(np.uint32)
    for i in range(bits.size):
        rounded[i] = (bits[i] + np.uint32(0x7FFF) + (bits[i] >> np.uint32(16) & _ONE)) & np.uint32(0xFFFF0000)


@jit
def widen_float16_portable(bits, out):
    """Widen finite float16, given as bits (n,) uint16, to float32 into `out` (n,), exactly."""
    for start in range(0, bits.size, _BLOCK):
        half = bits[start : start + _BLOCK]
        numbers = out[start : start + _BLOCK]
        number_bits = numbers.view(np.uint32)
        for i in range(half.size):
            number_bits[i] = (np.uint32(half[i]) & np.uint32(0x7FFF)) << np.uint32(13)
        for i in range(half.size):
            numbers[i] *= _TWO_112
        for i in range(half.size):
            number_bits[i] |= (np.uint32(half[i]) & _SIGN) << np.uint32(16)


@jit
def narrow_bfloat16_portable(x, out):
    """Round finite float32 (n,) to the nearest bfloat16, as bits into `out` (n,) uint16; ties to even."""
    bits = x.view(np.uint32)
    for i in range(bits.size):
        b = bits[i]
        out[i] = np.uint16((b + np.uint32(0x7FFF) + (b >> np.uint32(16) & _ONE)) >> np.uint32(16))


@jit
def widen_bfloat16_portable(bits, out):
    """Widen bfloat16, given as bits (n,) uint16, to float32 into `out` (n,), exactly."""
    number_bits = out.view(np.uint32)
    for i in range(bits.size):
        number_bits[i] = np.uint32(bits[i]) << np.uint32(16)
