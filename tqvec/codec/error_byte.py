"""The error byte: tan θ of a stored vector, in the low byte of its scale, so an error bar that costs no byte.

θ is the angle between a vector's direction and its decoded one. Its tangent is kept to a step of 2^(1/16), as a code
from 1 to 255; 0 stands for unknown. The scale becomes the nearest float32 whose low byte is the code. That changes it
by at most 2⁻¹⁶ of its value, up as often as down. Zero and subnormal scales have no code and stay as they are.
"""

from __future__ import annotations

import numpy as np

from tqvec._types import Doubles, Floats
from tqvec._validate import as_float32
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.quantize.error_byte import LEAST, STEPS
from tqvec.kernels.threads.helpers import check_memory, share

_SIGN, _LOW = np.uint32(1 << 31), np.uint32(255)
_NORMAL = np.uint32(0x00800000)
_NS_A_SCALE = 10.0  # to put a tangent in it, roughly


def with_error_byte(scale: Floats, tangent: Doubles, threads: int = 1) -> Floats:
    """Put tangents in the low bytes of scales of equal shape; NaN is unknown, others go to the nearest code."""
    out = np.empty(scale.size, np.float32)
    sharing = share(threads, scale.size * _NS_A_SCALE)
    check_memory(kernel("share_pack_tangents")(*sharing, as_float32(scale).reshape(-1), tangent.reshape(-1), out))
    return out.reshape(scale.shape)


def read_error_byte(scale: Floats) -> Doubles:
    """Return the tangents that scales hold, NaN where unknown."""
    bits = scale.view(np.uint32)
    code = (bits & _LOW).astype(np.float64)
    known = (code > 0) & (bits & ~_SIGN >= _NORMAL)
    return np.where(known, LEAST * 2.0 ** ((code - 1) / STEPS), np.nan)


def clear_error_byte(scale: Floats) -> Floats:
    """Return scales with all tangents unknown."""
    return with_error_byte(scale, np.full(scale.shape, np.nan))
