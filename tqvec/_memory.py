"""Memory that vector kernels read."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike, NDArray

_LINE = 64  # bytes of a cache line, and of the widest register


def aligned(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray:
    """Return zeros that begin with a cache line, so that a row of 64 bytes is read from one line, not from two."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.zeros(size + _LINE, np.uint8)
    start = -memory.ctypes.data % _LINE
    return memory[start : start + size].view(dtype).reshape(shape)
