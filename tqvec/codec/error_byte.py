"""The error byte: tan θ of a stored vector, in the low byte of its scale, so an error bar that costs no byte.

θ is the angle between a vector's direction and its decoded one. Its tangent is kept to a step of 2^(1/16), as a code
from 1 to 255; 0 stands for unknown. The scale becomes the nearest float32 whose low byte is the code. That changes it
by at most 2⁻¹⁶ of its value, up as often as down. Zero and subnormal scales have no code and stay as they are.
"""

from __future__ import annotations

import numpy as np

from tqvec._types import Doubles, Floats

_STEPS = 16  # per octave
_LEAST = 2.0**-11  # tangent of code 1; that of 255 is 2^4.875
_SIGN, _LOW = np.uint32(1 << 31), np.uint32(255)
_NORMAL, _INFINITE = np.uint32(0x00800000), np.uint32(0x7F800000)


def with_error_byte(scale: Floats, tangent: Doubles) -> Floats:
    """Put tangents in the low bytes of scales, (n,) float32; NaN is unknown, others go to the nearest code."""
    with np.errstate(divide="ignore"):
        steps = np.rint(_STEPS * np.log2(tangent / _LEAST)) + 1
    code = np.where(np.isnan(steps), 0, np.clip(steps, 1, 255)).astype(np.uint32)
    bits = scale.view(np.uint32)
    size = bits & ~_SIGN
    coded = (size - code + np.uint32(128) & ~_LOW) + code
    coded = np.where(coded >= _INFINITE, coded - np.uint32(256), coded)
    return (np.where(size < _NORMAL, size, coded) | bits & _SIGN).view(np.float32)


def read_error_byte(scale: Floats) -> Doubles:
    """Return the tangents that scales hold, NaN where unknown."""
    bits = scale.view(np.uint32)
    code = (bits & _LOW).astype(np.float64)
    known = (code > 0) & (bits & ~_SIGN >= _NORMAL)
    return np.where(known, _LEAST * 2.0 ** ((code - 1) / _STEPS), np.nan)


def tangent_table() -> Doubles:
    """Return the tangent that each code stands for, (256,); the first one is NaN, unknown."""
    return np.append(np.nan, _LEAST * 2.0 ** (np.arange(255) / _STEPS))


def clear_error_byte(scale: Floats) -> Floats:
    """Return scales with all tangents unknown."""
    return with_error_byte(scale, np.full(scale.shape, np.nan))
