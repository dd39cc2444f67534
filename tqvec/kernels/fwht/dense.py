"""Products with a dense matrix of float32, each sum in the order of the coordinates."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import jit


@jit
def dense_tile_portable(src, dst, matrix, transposed):
    """Compute ``dst = matrix @ src`` (or its transpose), each sum in the order of the coordinates.

    Four terms per pass: sums wait in registers, not in memory. The number of lanes is read from the array: a constant
    would be unrolled before LLVM vectorises.
    """
    if transposed:
        matrix = matrix.T
    d = src.shape[0]
    lanes = src.shape[1]
    for i in range(dst.shape[0]):
        out = dst[i]
        m = matrix[i]
        for lane in range(lanes):
            out[lane] = np.float32(0.0)
        for j in range(0, d - d % 4, 4):
            a = src[j]
            b = src[j + 1]
            c = src[j + 2]
            e = src[j + 3]
            for lane in range(lanes):
                total = (out[lane] + a[lane] * m[j]) + b[lane] * m[j + 1]
                out[lane] = (total + c[lane] * m[j + 2]) + e[lane] * m[j + 3]
        for j in range(d - d % 4, d):
            row = src[j]
            for lane in range(lanes):
                out[lane] += row[lane] * m[j]


@jit
def dense_vector(src, dst, columns):
    """`dense_tile_portable` for one vector: the same sums, in the same order."""
    d = dst.size
    dst[:] = np.float32(0.0)
    for j in range(0, src.size - src.size % 4, 4):
        a, b, c, e = src[j], src[j + 1], src[j + 2], src[j + 3]
        first, second, third, fourth = columns[j], columns[j + 1], columns[j + 2], columns[j + 3]
        for k in range(d):
            total = (dst[k] + a * first[k]) + b * second[k]
            dst[k] = (total + c * third[k]) + e * fourth[k]
    for j in range(src.size - src.size % 4, src.size):
        column = columns[j]
        for k in range(d):
            dst[k] += src[j] * column[k]
