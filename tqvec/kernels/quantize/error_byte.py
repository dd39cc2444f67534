"""The error byte of scales (see `tqvec.codec.error_byte`), without a logarithm: its last bits depend on the machine."""

from __future__ import annotations

import math

import numpy as np

from tqvec.kernels._jit import jit

STEPS = 16  # per octave
LEAST = 2.0**-11  # tangent of code 1; that of 255 is 2^4.875
MIDDLES = 2.0 ** ((np.arange(STEPS) + 0.5) / STEPS - 1)  # between the steps of the octave below 1
NORMAL, INFINITE = 0x00800000, 0x7F800000


@jit
def _code_of(tangent):
    """Return the code nearest to a tangent in logarithm: 1 to 255, and 0 for NaN."""
    if np.isnan(tangent):
        return 0
    ratio = tangent / LEAST
    if not ratio > 1.0:
        return 1
    if ratio >= 2.0 ** (255 / STEPS):
        return 255
    mantissa, exponent = math.frexp(ratio)
    code = 1 + STEPS * (exponent - 1)
    for j in range(STEPS):
        code += mantissa >= MIDDLES[j]
    return min(code, 255)


@jit
def pack_tangents_portable(scale, tangent, start, stop, out):
    """Put tangents in the low bytes of the scales ``start .. stop``.

    Parameters
    ----------
    scale : (n,) float32
    tangent : (n,) float64
        NaN is unknown.
    start, stop : int
    out : (n,) float32
        Receives the nearest float32 whose low byte is the code; zero and subnormal scales stay as they are.
    """
    before, after = scale.view(np.int32), out.view(np.int32)
    for i in range(start, stop):
        code = _code_of(tangent[i])
        size = np.int64(before[i]) & 0x7FFFFFFF
        if size >= NORMAL:
            size = (size - code + 128 & ~255) + code
            if size >= INFINITE:
                size -= 256
        after[i] = np.int32(size) | (before[i] & np.int32(-0x80000000))
