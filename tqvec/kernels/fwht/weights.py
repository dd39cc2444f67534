"""A dense matrix of bytes: 16 vectors at a time are rounded to bytes as well, so that all sums are exact integers.

README.md has the maths. Products of bytes are exact in float32, and so are sums of `EXACT` of them: this kernel adds
floats, others integers, and all get the same numbers.
"""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import jit
from tqvec.kernels.fwht.dense import dense_tile_portable

TILE_STEPS = np.float32(127.0)  # the largest byte
EXACT = 1024  # products of two bytes whose sum, in float32, is exact: 1024 · 127² < 2²⁴
_BASE = 254.0  # of the digits of single vectors, which are bytes
VECTOR_STEPS = 127.0 * 254.0**2  # of a coordinate of a single vector, on either side of 0
_NEAREST = np.float32(1.5 * 2**23)  # a float32 near it is an integer: to add and subtract it rounds, ties to even


@jit
def byte_steps(top, factor, step):
    """Make factors that turn coordinates up to `top` in magnitude into bytes, and the steps of those bytes, by lane."""
    for lane in range(top.size):
        factor[lane] = TILE_STEPS / top[lane] if top[lane] > 0.0 else np.float32(0.0)
        step[lane] = top[lane] / TILE_STEPS


@jit
def _round_tile(tile, factor, step):
    """Round a tile to whole numbers of steps, in place."""
    lanes = tile.shape[1]
    top = np.zeros(lanes, np.float32)
    for j in range(tile.shape[0]):
        row = tile[j]
        for lane in range(lanes):
            top[lane] = max(top[lane], abs(row[lane]))
    byte_steps(top, factor, step)
    for j in range(tile.shape[0]):
        row = tile[j]
        for lane in range(lanes):
            row[lane] = (row[lane] * factor[lane] + _NEAREST) - _NEAREST


@jit
def weigh_tile_portable(src, dst, rotation):
    """Compute ``dst = matrix @ src`` for a tile that is rounded to bytes first; `src` is overwritten."""
    weights, scale = rotation.weights, rotation.weight_steps
    d, lanes = src.shape
    factor, step = np.empty(lanes, np.float32), np.empty(lanes, np.float32)
    _round_tile(src, factor, step)
    row = np.empty((1, d), np.float32)
    part, total = np.empty((1, lanes), np.float32), np.empty(lanes, np.int32)
    for i in range(d):
        for j in range(d):
            row[0, j] = weights[i, j]
        total[:] = 0
        for first in range(0, d, EXACT):
            end = min(first + EXACT, d)
            dense_tile_portable(src[first:end], part, row[:, first:end], False)
            for lane in range(lanes):
                total[lane] += np.int32(part[0, lane])
        for lane in range(lanes):
            dst[i, lane] = (np.float32(total[lane]) * step[lane]) * scale[i]


@jit
def scale_rows(tile, scale):
    """Multiply row i of a tile by ``scale[i]``, in place."""
    for i in range(tile.shape[0]):
        for lane in range(tile.shape[1]):
            tile[i, lane] *= scale[i]


@jit
def unweigh_tile_portable(src, dst, rotation):
    """Compute ``dst = matrix.T @ src``, each float32 sum in the order of the coordinates; `src` is overwritten."""
    weights = rotation.weights
    scale_rows(src, rotation.weight_steps)
    d = dst.shape[0]
    column = np.empty((1, d), np.float32)
    for j in range(d):
        for i in range(d):
            column[0, i] = weights[i, j]
        dense_tile_portable(src, dst[j : j + 1], column, False)


@jit
def split_digits(src, digits):
    """Round a vector to 127 · 254² steps up to its largest coordinate, and write each number in three digits, base 254.

    `digits` (3, d or more) gets integers from −127 to 127, the most significant first. Returns the size of a step.
    """
    top = np.float32(0.0)
    for j in range(src.size):
        top = max(top, abs(src[j]))
    factor = VECTOR_STEPS / np.float64(top) if top > 0.0 else 0.0
    for j in range(src.size):
        rest = np.rint(np.float64(src[j]) * factor)
        high = np.rint(rest / (_BASE * _BASE))
        rest -= high * (_BASE * _BASE)
        middle = np.rint(rest / _BASE)
        digits[0, j] = np.int8(high)
        digits[1, j] = np.int8(middle)
        digits[2, j] = np.int8(rest - middle * _BASE)
    return np.float64(top) / VECTOR_STEPS


@jit
def _dots(row, digits):
    """The products of a row with all digits; those of int32 would have 64 bits if they weren't made int32 again."""
    high, middle, low = digits[0], digits[1], digits[2]
    a = b = c = np.int32(0)
    for j in range(high.size):
        m = np.int32(row[j])
        a = np.int32(a + m * np.int32(high[j]))
        b = np.int32(b + m * np.int32(middle[j]))
        c = np.int32(c + m * np.int32(low[j]))
    return a, b, c


@jit
def join_digits(high, middle, low):
    """The number of three digits; exact for products of bytes."""
    return (np.float64(high) * _BASE + np.float64(middle)) * _BASE + np.float64(low)


@jit
def weigh_vector_portable(src, dst, rotation, digits):
    """Compute ``dst = matrix @ src`` for one vector, rounded to 24 bits; `digits` is a workspace, (3, d) int8."""
    step = split_digits(src, digits)
    for i in range(dst.size):
        high, middle, low = _dots(rotation.weights[i], digits)
        dst[i] = np.float32(join_digits(high, middle, low) * (step * np.float64(rotation.weight_steps[i])))
